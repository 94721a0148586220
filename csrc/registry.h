// Every CUDA C++ kernel, the preferred first: for a problem the dispatcher takes the first row that serves it. The rows
// stand at the end of the kernels' files, one function for each file. Tests, explain and the benchmark walk this list,
// so that no kernel exists untested.
#pragma once

#include "csrc/common/kernel.h"

namespace convbound {

using RowsOfKernel = KernelRows();

// More special than the depthwise kernels below: with a dilation, then the dgrad of a stride.
RowsOfKernel dilated_nchw_rows, dilated_nhwc_rows, dilated_wgrad_nhwc_rows;
RowsOfKernel transposed_dgrad_nchw_stride2_rows, transposed_dgrad_nchw_any_rows, transposed_dgrad_nhwc_rows;
// Depthwise fprop and stride-1 dgrad: one dimension, then two.
RowsOfKernel depthwise_ncl_rows, depthwise_nchw_toeplitz_rows;
RowsOfKernel depthwise_nchw_bands_3x3_rows, depthwise_nchw_bands_5x5_rows, depthwise_nchw_bands_7x7_rows,
    depthwise_nchw_tiled_rows;
RowsOfKernel depthwise_nhwc_rows, depthwise_nhwc_general_rows;
// The gradient of depthwise filters and biases.
RowsOfKernel depthwise_wgrad_half_rows, depthwise_wgrad_bfloat16_rows, depthwise_wgrad_float_rows;
// What no row above serves.
RowsOfKernel naive_fprop_rows, naive_dgrad_rows, naive_wgrad_rows;

inline RowsOfKernel* const kKernels[] = {
    dilated_nchw_rows,
    dilated_nhwc_rows,
    dilated_wgrad_nhwc_rows,
    transposed_dgrad_nchw_stride2_rows,
    transposed_dgrad_nchw_any_rows,
    transposed_dgrad_nhwc_rows,
    depthwise_ncl_rows,
    depthwise_nchw_toeplitz_rows,
    depthwise_nchw_bands_3x3_rows,
    depthwise_nchw_bands_5x5_rows,
    depthwise_nchw_bands_7x7_rows,
    depthwise_nchw_tiled_rows,
    depthwise_nhwc_rows,
    depthwise_nhwc_general_rows,
    depthwise_wgrad_half_rows,
    depthwise_wgrad_bfloat16_rows,
    depthwise_wgrad_float_rows,
    naive_fprop_rows,
    naive_dgrad_rows,
    naive_wgrad_rows,
};

}  // namespace convbound
