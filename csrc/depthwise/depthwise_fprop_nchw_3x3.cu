// depthwise_fprop_nchw_bands and depthwise_dgrad_nchw_bands with 3x3 filters: depthwise_nchw_bands.h has the kernel.
#include "csrc/depthwise/depthwise_nchw_bands_rows.h"

namespace convbound::depthwise {

CONVBOUND_DEPTHWISE_NCHW_BANDS_TYPE(__half, 3)
CONVBOUND_DEPTHWISE_NCHW_BANDS_TYPE(__nv_bfloat16, 3)
CONVBOUND_DEPTHWISE_NCHW_BANDS_TYPE(float, 3)

}  // namespace convbound::depthwise
