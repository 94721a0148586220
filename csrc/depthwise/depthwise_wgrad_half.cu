// Depthwise wgrad in __half: depthwise_wgrad.h has the kernel.
#include "csrc/depthwise/depthwise_wgrad.h"

namespace convbound::depthwise {

KernelRows wgrad_half_rows() { return wgrad_rows<__half>(); }

}  // namespace convbound::depthwise
