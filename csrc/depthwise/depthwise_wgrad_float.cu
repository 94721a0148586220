// Depthwise wgrad in float: depthwise_wgrad.h has the kernel.
#include "csrc/depthwise/depthwise_wgrad.h"

namespace convbound {

KernelRows depthwise_wgrad_float_rows() { return depthwise::wgrad_rows<float>(); }

}  // namespace convbound
