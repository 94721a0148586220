// depthwise_fprop_nchw_bands and depthwise_dgrad_nchw_bands with 7x7 filters: depthwise_nchw_bands.h has the kernel.
#include "csrc/depthwise/depthwise_nchw_bands.h"

namespace convbound::depthwise {

KernelRows nchw_bands_7x7_rows() { return bands_rows<7>(); }

}  // namespace convbound::depthwise
