// depthwise_fprop_nchw_bands and depthwise_dgrad_nchw_bands with 7x7 filters: depthwise_nchw_bands.h has the kernel.
#include "csrc/depthwise/depthwise_nchw_bands_rows.h"

namespace convbound::depthwise {

CONVBOUND_DEPTHWISE_NCHW_BANDS_TYPE(__half, 7)
CONVBOUND_DEPTHWISE_NCHW_BANDS_TYPE(__nv_bfloat16, 7)
CONVBOUND_DEPTHWISE_NCHW_BANDS_TYPE(float, 7)

}  // namespace convbound::depthwise
