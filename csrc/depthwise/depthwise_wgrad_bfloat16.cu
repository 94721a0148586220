// Depthwise wgrad in __nv_bfloat16: depthwise_wgrad.h has the kernel.
#include "csrc/depthwise/depthwise_wgrad.h"

namespace convbound {

KernelRows depthwise_wgrad_bfloat16_rows() { return depthwise::wgrad_rows<__nv_bfloat16>(); }

}  // namespace convbound
