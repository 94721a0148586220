// fprop and stride-1 dgrad of a 2-D depthwise convolution in NCHW are one computation on planes:
//
//   out[plane, p, q] = bias[plane % filters] + sum over r,s of
//                      in[plane / multiplier, p * stride - padding + r, q * stride - padding + s] * w[plane % filters,
//                      r, s]
//
// fprop reads x and writes y; dgrad reads dy and writes dx, with the filter flipped and padding R - 1 - padding.
#pragma once

#include "csrc/common/kernel.h"
#include "csrc/common/within.h"

namespace convbound::depthwise {

struct PlaneProblem {
  int64_t planes;           // that are written: images times filters
  int filters, multiplier;  // filters of the tensor; output planes per input plane
  int in_h, in_w, out_h, out_w, pad_h, pad_w, filter_h, filter_w, stride_h, stride_w;
  bool flip;
};

template <Pass kPass>
PlaneProblem plane_problem(const ConvProblem& p) {
  const auto size = [](int64_t value) { return static_cast<int>(value); };
  const bool forward = kPass == Pass::kFprop;
  const auto& in = forward ? p.input : p.output;
  const auto& out = forward ? p.output : p.input;
  const auto padding = [&](int axis) { return size(forward ? p.padding[axis] : p.filter[axis] - 1 - p.padding[axis]); };
  return {p.n * p.k,         size(p.k),         forward ? size(p.k_per_group()) : 1,
          size(in[1]),       size(in[2]),       size(out[1]),
          size(out[2]),      padding(1),        padding(2),
          size(p.filter[1]), size(p.filter[2]), size(p.stride[1]),
          size(p.stride[2]), !forward};
}

// What both kernels on planes ask for: two dimensions or one, no dilation, dgrad without stride and multiplier, and
// everything within one image in 32 bits.
template <Pass kPass>
bool supports_planes(const ConvProblem& p) {
  constexpr int64_t kMost = (1 << 30) - 1, kMostPadding = (1 << 20) - 1;
  bool fits = axes_within(p, kMost) && is_flat(p) && p.depthwise() && p.input_size() <= kMost &&
              p.output_size() <= kMost && p.k * p.filter_size() <= kMost && p.n * p.k < (int64_t{1} << 40);
  for (int axis = 1; axis < 3; axis++) {
    fits = fits && (p.dilation[axis] == 1 || p.filter[axis] == 1) && p.padding[axis] <= kMostPadding &&
           p.filter[axis] <= kMostPadding;
    if (kPass == Pass::kDgrad) fits = fits && p.stride[axis] == 1;
  }
  return fits && (kPass == Pass::kFprop || p.k_per_group() == 1);
}

}  // namespace convbound::depthwise
