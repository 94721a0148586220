// Depthwise wgrad in float: depthwise_wgrad.h has the kernel.
#include "csrc/depthwise/depthwise_wgrad.h"

namespace convbound::depthwise {

KernelRows wgrad_float_rows() { return wgrad_rows<float>(); }

}  // namespace convbound::depthwise
