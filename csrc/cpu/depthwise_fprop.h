// Native CPU kernel: depthwise convolution, forward, 2-D (1-D as height 1), fp32, NCHW and NHWC, AVX2 and AVX-512.
#pragma once

#include "../conv_problem.h"
#include "isa.h"

namespace convbound::cpu {

// Whether depthwise_fprop does this problem: fp32, depthwise with any channel multiplier, depth 1; any filter, stride,
// dilation and padding; sizes, padding and reach of up to 2^29 along one axis, strides up to 2^24. The layout does not
// matter.
bool depthwise_fprop_supports(const ConvProblem& problem, DType dtype, Layout layout, Isa isa);

// y = conv(x, w) + bias, on the best of isa(). All tensors are dense; bias may be null. flip_filter reads the taps in
// reverse, which makes this the dgrad of a stride-1 problem (x: dy, y: dx). w is [K][R][S] in either layout, since
// depthwise filters have one input channel. Throws std::invalid_argument where depthwise_fprop_supports says no.
void depthwise_fprop(const ConvProblem& problem, Layout layout, const float* x, const float* w, const float* bias,
                     float* y, bool flip_filter);

}  // namespace convbound::cpu
