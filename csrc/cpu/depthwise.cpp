#include "csrc/cpu/depthwise.h"

#include "csrc/cpu/depthwise_fprop.h"

namespace convbound::cpu {

namespace {

// The convolution that computes the stride-1 dgrad: y becomes the input and x the output.
ConvProblem mirrored(const ConvProblem& p) {
  ConvProblem m = p;
  for (int axis = 0; axis < 3; axis++) {
    m.input[axis] = p.output[axis];
    m.output[axis] = p.input[axis];
    m.padding[axis] = p.dilation[axis] * (p.filter[axis] - 1) - p.padding[axis];
  }
  return m;
}

}  // namespace

void run_depthwise_fprop(const ConvProblem& problem, DType, Layout layout, const Tensors& t) {
  depthwise_fprop(problem, layout, static_cast<const float*>(t.x), static_cast<const float*>(t.w),
                  static_cast<const float*>(t.bias), static_cast<float*>(t.y), /*flip_filter=*/false);
}

bool depthwise_dgrad_s1_supports(const ConvProblem& problem, DType dtype, Layout layout, Isa isa) {
  if (!problem.depthwise() || problem.k != problem.c) return false;  // a multiplier would sum over several filters
  for (int axis = 0; axis < 3; axis++) {
    // A padding wider than the filter reaches would mean cropping dy.
    if (problem.stride[axis] != 1 || mirrored(problem).padding[axis] < 0) return false;
  }
  return depthwise_fprop_supports(mirrored(problem), dtype, layout, isa);
}

void run_depthwise_dgrad_s1(const ConvProblem& problem, DType, Layout layout, const Tensors& t) {
  depthwise_fprop(mirrored(problem), layout, static_cast<const float*>(t.y), static_cast<const float*>(t.w),
                  static_cast<const float*>(t.bias), static_cast<float*>(t.x), /*flip_filter=*/true);
}

}  // namespace convbound::cpu
