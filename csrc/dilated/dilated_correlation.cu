// Both passes of a dilated depthwise convolution as one correlation: host code, see dilated.h.
#include "csrc/dilated/dilated.h"

#include "csrc/common/within.h"

namespace convbound::dilated {

bool dilated_depthwise(const ConvProblem& p) {
  constexpr int64_t kMost = (1 << 24) - 1;
  bool fine = axes_within(p, kMost) && is_flat(p) && p.depthwise() && p.k < (1 << 30) && p.k_per_group() <= 64;
  for (int i = 1; i < 3; i++) {
    fine = fine && p.stride[i] == 1;
  }
  return fine && (p.dilation[1] > 1 || p.dilation[2] > 1);
}

Correlation make_correlation(Pass pass, const ConvProblem& p, const Tensors& t) {
  const bool backward = pass == Pass::kDgrad;
  const auto axis = [&](int i) {
    const int64_t padding = backward ? (p.filter[i] - 1) * p.dilation[i] - p.padding[i] : p.padding[i];
    return Axis{static_cast<int>(backward ? p.output[i] : p.input[i]),
                static_cast<int>(backward ? p.input[i] : p.output[i]), static_cast<int>(p.filter[i]),
                static_cast<int>(padding), static_cast<int>(p.dilation[i])};
  };
  const int multiplier = static_cast<int>(p.k_per_group());
  return {axis(1),
          axis(2),
          p.n * p.c,
          static_cast<int>(p.c),
          backward ? multiplier : 1,
          backward ? 1 : multiplier,
          backward,
          static_cast<int>(p.filter_size()),
          static_cast<int>(p.filter[2]),
          0,
          backward ? t.y : t.x,
          t.w,
          t.bias,
          backward ? t.x : t.y};
}

}  // namespace convbound::dilated
