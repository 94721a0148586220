// What the kernels for a dilation ask for: depthwise, one dimension or two, a dilation above 1. Their rows ask for
// stride 1.
#pragma once

#include "csrc/common/kernel.h"
#include "csrc/common/view.h"

namespace convbound::dilated {

inline std::string problem_refused(const ConvProblem& p) {
  if (p.dilation[1] == 1 && p.dilation[2] == 1) return "dilation 1 along both axes";
  constexpr int64_t kMostSize = (1 << 24) - 1, kMostMultiplier = 64;
  return first_of({not_depthwise_2d(p), multiplier_beyond(p, kMostMultiplier), size_beyond(p, kMostSize)});
}

}  // namespace convbound::dilated
