// Native CPU kernels: depthwise fprop and dgrad in 1 to 3 dimensions, fp32, fp16 and bf16, NCHW and NHWC, AVX2 and
// AVX-512. dgrad serves any stride, and so the forward of transposed convolutions.
#pragma once

#include "csrc/cpu/kernel.h"

namespace convbound::cpu {

// Depthwise with any channel multiplier; any filter, stride, dilation and padding (sizes, padding and reach of up to
// 2^29 along one axis, strides up to 2^24; dgrad in NCHW up to 64 along W).
bool depthwise_fprop_supports(const ConvProblem&, DType, Layout, Isa);
void depthwise_fprop(const ConvProblem&, DType, Layout, const Tensors&);

bool depthwise_dgrad_supports(const ConvProblem&, DType, Layout, Isa);
void depthwise_dgrad(const ConvProblem&, DType, Layout, const Tensors&);

}  // namespace convbound::cpu
