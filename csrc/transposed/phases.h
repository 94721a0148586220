// Which taps meet which elements of dx, for any stride and dilation, known to a launch and not divided out on the
// device.
//
// With a = h + padding = i * stride + f, tap r meets dy's row (a - r * dilation) / stride where the division is exact.
// For phase f these are the taps r = first + t * step, t < count, and the rows i + offset - t * move.
#pragma once

#include <numeric>

#include "csrc/conv_problem.h"

namespace convbound::transposed {

constexpr int kMostStride = 16;

struct Phases {
  int step, move;
  int first[kMostStride], count[kMostStride], offset[kMostStride];
};

inline Phases make_phases(const ConvProblem& p, int axis) {
  const int stride = static_cast<int>(p.stride[axis]), dilation = static_cast<int>(p.dilation[axis]);
  const int filter = static_cast<int>(p.filter[axis]);
  const int divisor = std::gcd(stride, dilation);
  Phases phases{};
  phases.step = stride / divisor;
  phases.move = dilation / divisor;
  for (int f = 0; f < stride; f++) {
    for (int r = 0; r < phases.step; r++) {
      if ((f - r * dilation) % stride != 0 || r >= filter) continue;
      phases.first[f] = r;
      phases.count[f] = (filter - r + phases.step - 1) / phases.step;
      phases.offset[f] = (f - r * dilation) / stride;
    }
  }
  return phases;
}

}  // namespace convbound::transposed
