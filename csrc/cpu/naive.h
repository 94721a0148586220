// The naive kernels: version 0 for readers, oracle for tests, and the path for what no fast kernel covers. Each output
// is computed by one thread as the equation in conv_problem.h says, in 1 to 3 dimensions, for any groups, stride,
// padding and dilation, both layouts and four dtypes, accumulating in fp64 and rounding once.
//
// Cost: every tap is a load from cache and a dependent add, about one multiply-add per four cycles and core. That is
// the price of a loop that anybody can check against the equation.
#pragma once

#include <algorithm>

#include "csrc/cpu/half.h"
#include "csrc/cpu/kernel.h"

namespace convbound::cpu {

bool naive_supports(const ConvProblem&, DType, Layout, Isa);
void naive_fprop(const ConvProblem&, DType, Layout, const Tensors&);
void naive_dgrad(const ConvProblem&, DType, Layout, const Tensors&);
void naive_wgrad(const ConvProblem&, DType, Layout, const Tensors&);

// Element strides of a dense tensor [outer][channels][depth][height][width] in the given layout.
struct Strides {
  int64_t outer, channel, spatial[3];
};

inline Strides dense_strides(int64_t channels, const int64_t (&size)[3], Layout layout) {
  const int64_t volume = size[0] * size[1] * size[2];
  if (layout == Layout::kChannelsLast) {
    return {volume * channels, 1, {size[1] * size[2] * channels, size[2] * channels, channels}};
  }
  return {volume * channels, volume, {size[1] * size[2], size[2], 1}};
}

// The taps t of one axis for which 0 <= start + t * dilation < input.
struct Taps {
  int64_t begin, end;
};

inline Taps taps_inside(int64_t start, int64_t dilation, int64_t filter, int64_t input) {
  const auto first_at_least = [&](int64_t bound) {  // smallest t >= 0 with start + t * dilation >= bound
    return bound <= start ? 0 : (bound - start + dilation - 1) / dilation;
  };
  return {std::min(first_at_least(0), filter), std::min(first_at_least(input), filter)};
}

// Calls body with a null pointer of the element type, as its only argument.
template <typename Body>
void with_element_type(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kFloat16:
      return body(static_cast<Half*>(nullptr));
    case DType::kBFloat16:
      return body(static_cast<BFloat16*>(nullptr));
    case DType::kFloat32:
      return body(static_cast<float*>(nullptr));
    case DType::kFloat64:
      return body(static_cast<double*>(nullptr));
  }
}

// double -> T with one rounding for fp32 and fp64; the 16-bit types go through float.
template <typename T>
T round_to(double value) {
  if constexpr (sizeof(T) == 2) return T(float(value));
  return T(value);
}

}  // namespace convbound::cpu
