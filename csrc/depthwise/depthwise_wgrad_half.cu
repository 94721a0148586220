// Depthwise wgrad in __half: depthwise_wgrad.h has the kernel.
#include "csrc/depthwise/depthwise_wgrad.h"

namespace convbound {

KernelRows depthwise_wgrad_half_rows() { return depthwise::wgrad_rows<__half>(); }

}  // namespace convbound
