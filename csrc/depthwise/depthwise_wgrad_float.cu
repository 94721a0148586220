// Depthwise wgrad in float. See depthwise_wgrad.h.
#include "csrc/depthwise/depthwise_wgrad_rows.h"

namespace convbound::depthwise {

CONVBOUND_INSTANTIATE_WGRAD(float, Layout::kChannelsFirst, 3)
CONVBOUND_INSTANTIATE_WGRAD(float, Layout::kChannelsFirst, 5)
CONVBOUND_INSTANTIATE_WGRAD(float, Layout::kChannelsFirst, 7)
CONVBOUND_INSTANTIATE_WGRAD(float, Layout::kChannelsFirst, 0)
CONVBOUND_INSTANTIATE_WGRAD(float, Layout::kChannelsLast, 3)
CONVBOUND_INSTANTIATE_WGRAD(float, Layout::kChannelsLast, 5)
CONVBOUND_INSTANTIATE_WGRAD(float, Layout::kChannelsLast, 7)
CONVBOUND_INSTANTIATE_WGRAD(float, Layout::kChannelsLast, 0)

}  // namespace convbound::depthwise
