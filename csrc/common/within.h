// How far the axes of a problem reach: kernels take only problems whose positions fit their integers. Host code.
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

}  // namespace convbound
