// The taps that one output of fprop or dgrad reads along an axis, as an arithmetic progression.
//
// Output number j of a phase lies at out_first + j * out_step. It reads the input at
//
//   j * in_step + in_first + i * in_tap    with tap number    tap_first + i * tap_step,    for i = 0 ... taps - 1,
//
// where that position lies inside the input. fprop is one phase: in_step is the stride, in_tap the dilation. dgrad has
// as many phases as the stride: dx at i and tap t meet dy at o where o * stride = i + padding - t * dilation, so the
// outputs of a phase, i = out_first + j * stride, meet the same taps. No zeros are inserted, and nothing is divided in
// a loop. A phase without taps still writes its outputs: a bias, or zeros.
#pragma once

#include <numeric>

#include "csrc/common/integers.h"
#include "csrc/common/view.h"

namespace convbound {

struct AxisPhase {
  int out_first, out_step, outputs;
  int in_step, in_first, in_tap, inputs;  // inputs: of the whole axis
  int taps, tap_first, tap_step;
};

// The phases along an axis: outputs of a phase never meet another phase's taps.
inline int phases_of(Pass pass, const AxisView& axis) {
  return pass == Pass::kDgrad ? std::min(axis.stride, axis.input) : 1;
}

inline AxisPhase phase_of(Pass pass, const AxisView& axis, int phase) {
  if (pass != Pass::kDgrad) {
    return {0, 1, axis.output, axis.stride, -axis.padding, axis.dilation, axis.input, axis.filter, 0, 1};
  }
  const int common = std::gcd(axis.stride, axis.dilation);
  const int tap_step = axis.stride / common;
  // The first tap with (phase + padding - tap * dilation) a multiple of the stride.
  int first = tap_step;
  for (int tap = 0; tap < tap_step; tap++) {
    const int64_t distance = int64_t{phase} + axis.padding - int64_t{tap} * axis.dilation;
    if (first == tap_step && modulo(distance, axis.stride) == 0) first = tap;
  }
  const bool any = first < tap_step && first < axis.filter;
  const int64_t reach = int64_t{phase} + axis.padding - int64_t{first} * axis.dilation;
  return {phase,
          axis.stride,
          static_cast<int>(divide_up(axis.input - phase, axis.stride)),
          1,
          any ? static_cast<int>(reach / axis.stride) : 0,
          -axis.dilation / common,
          axis.output,
          any ? divide_up(axis.filter - first, tap_step) : 0,
          first,
          tap_step};
}

}  // namespace convbound
