// What the kernels for a dilation ask for: depthwise, one dimension or two, a dilation above 1. Their rows ask for
// stride 1.
#pragma once

#include "csrc/common/kernel.h"
#include "csrc/common/view.h"

namespace convbound::dilated {

inline std::string problem_refused(const ConvProblem& p) {
  if (p.dilation[1] == 1 && p.dilation[2] == 1) return "dilation 1 along both axes";
  if (std::string reason = not_depthwise_2d(p); !reason.empty()) return reason;
  constexpr int64_t kMostSize = (1 << 24) - 1, kMostMultiplier = 64;
  if (p.k_per_group() > kMostMultiplier) {
    return "k/c = " + std::to_string(p.k_per_group()) + " filters per channel, at most " +
           std::to_string(kMostMultiplier);
  }
  return size_beyond(p, kMostSize);
}

inline std::string shared_memory_refused(int64_t bytes) {
  constexpr int64_t kMostBytes = 96 * 1024;
  if (bytes <= kMostBytes) return {};
  return "a block would need " + std::to_string(bytes) + " bytes of shared memory, at most " +
         std::to_string(kMostBytes);
}

}  // namespace convbound::dilated
