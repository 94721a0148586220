// depthwise_fprop_nchw_bands and depthwise_dgrad_nchw_bands with 5x5 filters: depthwise_nchw_bands.h has the kernel.
#include "csrc/depthwise/depthwise_nchw_bands.h"

namespace convbound::depthwise {

KernelRows nchw_bands_5x5_rows() { return bands_rows<5>(); }

}  // namespace convbound::depthwise
