// Every CUDA C++ kernel, the preferred first: for a problem the dispatcher takes the first row that serves it. The rows
// stand at the end of the kernels' files, one function for each file. Tests, explain and the benchmark walk this list,
// so that no kernel is left untested.
#pragma once

#include "csrc/common/kernel.h"

namespace convbound {

using RowsOfKernel = KernelRows();

namespace dilated {
RowsOfKernel nchw_rows, nhwc_rows, wgrad_nhwc_rows;
}
namespace transposed {
RowsOfKernel dgrad_nchw_stride2_rows, dgrad_nchw_any_rows, dgrad_nhwc_rows;
}
namespace depthwise {
RowsOfKernel ncl_rows, nchw_toeplitz_rows, nchw_bands_3x3_rows, nchw_bands_5x5_rows, nchw_bands_7x7_rows,
    nchw_tiled_rows, nhwc_rows, nhwc_general_rows;
RowsOfKernel wgrad_nchw_mma_rows, wgrad_half_rows, wgrad_bfloat16_rows, wgrad_float_rows;
}  // namespace depthwise
namespace grouped {
RowsOfKernel small_march_rows, small_rows, gemm_half_rows, gemm_bfloat16_rows, gemm_float_rows;
RowsOfKernel wgrad_small_rows, wgrad_mma_rows, wgrad_fma_rows;
}  // namespace grouped
namespace naive {
RowsOfKernel fprop_rows, dgrad_rows, wgrad_rows;
}

inline RowsOfKernel* const kKernels[] = {
    // More special than the depthwise kernels below: with a dilation, then the dgrad of a stride.
    dilated::nchw_rows,
    dilated::nhwc_rows,
    dilated::wgrad_nhwc_rows,
    transposed::dgrad_nchw_stride2_rows,
    transposed::dgrad_nchw_any_rows,
    transposed::dgrad_nhwc_rows,
    // Depthwise fprop and stride-1 dgrad: one dimension, then two.
    depthwise::ncl_rows,
    depthwise::nchw_toeplitz_rows,
    depthwise::nchw_bands_3x3_rows,
    depthwise::nchw_bands_5x5_rows,
    depthwise::nchw_bands_7x7_rows,
    depthwise::nchw_tiled_rows,
    grouped::small_march_rows,  // depthwise 3x3, 5x5 and 7x7 too, in a third of the instructions of nhwc_rows
    depthwise::nhwc_rows,
    depthwise::nhwc_general_rows,
    // The gradient of depthwise filters and biases.
    depthwise::wgrad_nchw_mma_rows,
    depthwise::wgrad_half_rows,
    depthwise::wgrad_bfloat16_rows,
    depthwise::wgrad_float_rows,
    // Any fprop and dgrad: groups of up to 16 channels, then a GEMM for each group.
    grouped::small_rows,
    grouped::gemm_half_rows,
    grouped::gemm_bfloat16_rows,
    grouped::gemm_float_rows,
    // Filter gradients likewise.
    grouped::wgrad_small_rows,
    grouped::wgrad_mma_rows,
    grouped::wgrad_fma_rows,
    // What no row above serves.
    naive::fprop_rows,
    naive::dgrad_rows,
    naive::wgrad_rows,
};

}  // namespace convbound
