// Depthwise wgrad in __nv_bfloat16. See depthwise_wgrad.h.
#include "csrc/depthwise/depthwise_wgrad_rows.h"

namespace convbound::depthwise {

CONVBOUND_INSTANTIATE_WGRAD(__nv_bfloat16, Layout::kChannelsFirst, 3)
CONVBOUND_INSTANTIATE_WGRAD(__nv_bfloat16, Layout::kChannelsFirst, 5)
CONVBOUND_INSTANTIATE_WGRAD(__nv_bfloat16, Layout::kChannelsFirst, 7)
CONVBOUND_INSTANTIATE_WGRAD(__nv_bfloat16, Layout::kChannelsFirst, 0)
CONVBOUND_INSTANTIATE_WGRAD(__nv_bfloat16, Layout::kChannelsLast, 3)
CONVBOUND_INSTANTIATE_WGRAD(__nv_bfloat16, Layout::kChannelsLast, 5)
CONVBOUND_INSTANTIATE_WGRAD(__nv_bfloat16, Layout::kChannelsLast, 7)
CONVBOUND_INSTANTIATE_WGRAD(__nv_bfloat16, Layout::kChannelsLast, 0)

}  // namespace convbound::depthwise
