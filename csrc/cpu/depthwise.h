// The rows of the kernel table that run the SIMD depthwise kernel of depthwise_fprop.h.
//
// With stride 1, dx is the convolution of dy with the filter turned by 180 degrees and padding dilation * (filter - 1)
// - padding, so dgrad is the same kernel on another problem.
#pragma once

#include "csrc/cpu/kernel.h"

namespace convbound::cpu {

void run_depthwise_fprop(const ConvProblem&, DType, Layout, const Tensors&);

bool depthwise_dgrad_s1_supports(const ConvProblem&, DType, Layout, Isa);
void run_depthwise_dgrad_s1(const ConvProblem&, DType, Layout, const Tensors&);

}  // namespace convbound::cpu
