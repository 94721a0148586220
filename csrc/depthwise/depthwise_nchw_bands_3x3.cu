// depthwise_fprop_nchw_bands and depthwise_dgrad_nchw_bands with 3x3 filters: depthwise_nchw_bands.h has the kernel.
#include "csrc/depthwise/depthwise_nchw_bands.h"

namespace convbound::depthwise {

KernelRows nchw_bands_3x3_rows() { return bands_rows<3>(); }

}  // namespace convbound::depthwise
