// fprop and stride-1 dgrad of a 2-D depthwise convolution in NCHW are one computation on planes (as_fprop() in
// csrc/common/view.h):
//
//   out[plane, p, q] = bias[plane % filters] + sum over r,s of
//                      in[plane / multiplier, p * stride - padding + r, q * stride - padding + s] * w[plane % filters,
//                      r, s]
//
// A plane is one channel of one image. fprop reads x and writes y; dgrad reads dy and writes dx, with the filter
// flipped and padding R - 1 - padding.
#pragma once

#include "csrc/common/kernel.h"
#include "csrc/common/view.h"

namespace convbound::depthwise {

// Planes that are written.
constexpr int64_t planes_of(const ConvView& v) { return v.images * v.out_channels(); }

// What the kernels on planes ask for: no dilation, dgrad without stride and multiplier, and everything within one image
// in 32 bits.
inline std::string planes_refuse(Pass pass, const ConvProblem& p) {
  constexpr int64_t kMost = (1 << 30) - 1, kMostPadding = (1 << 20) - 1;
  const std::string reason = first_of({size_beyond(p, kMost), not_depthwise_2d(p)});
  if (!reason.empty()) return reason;
  for (int axis = 1; axis < 3; axis++) {
    if (p.dilation[axis] != 1 && p.filter[axis] != 1) return "a dilation";
    if (pass == Pass::kDgrad && p.stride[axis] != 1) return "dgrad of a stride";
    if (p.padding[axis] > kMostPadding || p.filter[axis] > kMostPadding) return "padding or filter beyond 2^20";
  }
  if (pass == Pass::kDgrad && p.k_per_group() != 1)
    return "dgrad sums over " + std::to_string(p.k_per_group()) + " channels";
  const bool fits = p.input_size() <= kMost && p.output_size() <= kMost && p.k * p.filter_size() <= kMost;
  return fits && p.n * p.k < (int64_t{1} << 40) ? "" : "a plane or all filters beyond 2^30 elements";
}

}  // namespace convbound::depthwise
