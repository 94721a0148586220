// What the CPU kernels ask of a problem's axes: positions that fit their integers, and two dimensions. Host code.
#pragma once

#include "csrc/conv_problem.h"

namespace convbound {

// Whether along every axis the input with its padding, outputs times stride and taps times dilation are at most `most`.
// By division: the products may be beyond 64 bits.
constexpr bool axes_within(const ConvProblem& p, int64_t most) {
  for (int axis = 0; axis < 3; axis++) {
    if (p.input[axis] > most - p.padding[axis] || p.output[axis] > most / p.stride[axis] ||
        p.filter[axis] > most / p.dilation[axis]) {
      return false;
    }
  }
  return true;
}

// Whether it has two dimensions, or one. A depth of 1 that is padded is none of these: its output may lie in the
// padding.
constexpr bool is_flat(const ConvProblem& p) {
  return p.input[0] == 1 && p.filter[0] == 1 && p.output[0] == 1 && p.padding[0] == 0;
}

}  // namespace convbound
