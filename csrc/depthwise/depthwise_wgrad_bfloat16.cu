// Depthwise wgrad in __nv_bfloat16: depthwise_wgrad.h has the kernel.
#include "csrc/depthwise/depthwise_wgrad.h"

namespace convbound::depthwise {

KernelRows wgrad_bfloat16_rows() { return wgrad_rows<__nv_bfloat16>(); }

}  // namespace convbound::depthwise
