// Native CPU kernels: grouped convolutions with few channels per group, in 1 to 3 dimensions, fp32, fp16 and bf16, NCHW
// and NHWC, AVX2 and AVX-512. dgrad serves any stride, and so the forward of transposed convolutions.
#pragma once

#include "csrc/cpu/kernel.h"

namespace convbound::cpu {

// Several groups of 2 to 32 input channels and up to 128 output channels each; any filter, stride, dilation and padding
// whose tile of one row fits 4 MiB (dgrad: up to 64 classes of positions, that is, the product of the strides).
bool grouped_supports(Pass pass, const ConvProblem&, DType, Isa);

inline bool grouped_fprop_supports(const ConvProblem& problem, DType dtype, Layout, Isa isa) {
  return grouped_supports(Pass::kFprop, problem, dtype, isa);
}
void grouped_fprop(const ConvProblem&, DType, Layout, const Tensors&);

inline bool grouped_dgrad_supports(const ConvProblem& problem, DType dtype, Layout, Isa isa) {
  return grouped_supports(Pass::kDgrad, problem, dtype, isa);
}
void grouped_dgrad(const ConvProblem&, DType, Layout, const Tensors&);

inline bool grouped_wgrad_supports(const ConvProblem& problem, DType dtype, Layout, Isa isa) {
  return grouped_supports(Pass::kWgrad, problem, dtype, isa);
}
void grouped_wgrad(const ConvProblem&, DType, Layout, const Tensors&);

}  // namespace convbound::cpu
