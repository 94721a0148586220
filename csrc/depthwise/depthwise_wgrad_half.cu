// Depthwise wgrad in __half. See depthwise_wgrad.h.
#include "csrc/depthwise/depthwise_wgrad_rows.h"

namespace convbound::depthwise {

CONVBOUND_INSTANTIATE_WGRAD(__half, Layout::kChannelsFirst, 3)
CONVBOUND_INSTANTIATE_WGRAD(__half, Layout::kChannelsFirst, 5)
CONVBOUND_INSTANTIATE_WGRAD(__half, Layout::kChannelsFirst, 7)
CONVBOUND_INSTANTIATE_WGRAD(__half, Layout::kChannelsFirst, 0)
CONVBOUND_INSTANTIATE_WGRAD(__half, Layout::kChannelsLast, 3)
CONVBOUND_INSTANTIATE_WGRAD(__half, Layout::kChannelsLast, 5)
CONVBOUND_INSTANTIATE_WGRAD(__half, Layout::kChannelsLast, 7)
CONVBOUND_INSTANTIATE_WGRAD(__half, Layout::kChannelsLast, 0)

}  // namespace convbound::depthwise
