// Native CPU kernel: depthwise wgrad in 1 to 3 dimensions, fp32, NCHW and NHWC, AVX2 and AVX-512.
#pragma once

#include "csrc/cpu/kernel.h"

namespace convbound::cpu {

// Depthwise with any channel multiplier; any filter, stride, dilation and padding (sizes, padding and reach of up to
// 2^29 along one axis, strides up to 2^24).
bool depthwise_wgrad_supports(const ConvProblem&, DType, Layout, Isa);
void depthwise_wgrad(const ConvProblem&, DType, Layout, const Tensors&);

}  // namespace convbound::cpu
