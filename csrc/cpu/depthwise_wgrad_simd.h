// What the two vector bodies of depthwise wgrad share. depthwise_wgrad.cpp has the overview, simd.h the rules.
#pragma once

#include "depthwise_strip.h"
#include "depthwise_wgrad_plan.h"

namespace convbound::cpu {
namespace {

// Outputs per block along the window axis: as many vectors of dy as the registers hold beside the sums.
template <class V>
constexpr int wgrad_block(int sums) {
  return V::kRegisters >= 32 || sums <= 7 ? 7 : 4;
}

// acc[kFrom + j] += dy[b] * x[b + j], each x loaded once. Coordinates outside the input cost nothing.
template <class V, int B, int kFrom, int J, bool kChecked, int N, class Load>
CONVBOUND_INLINE void slide_products(typename V::Reg (&acc)[N], const typename V::Reg (&dy)[B], const Strip& strip,
                                     int64_t offset, const Load& load) {
  int64_t at = strip.first;
  offset += strip.first * strip.unit;
  const int64_t jump = strip.step * strip.unit;
#pragma GCC unroll 16
  for (int i = 0; i < B + J - 1; ++i) {
    if (!kChecked || static_cast<uint64_t>(at) < static_cast<uint64_t>(strip.extent)) {
      const typename V::Reg value = load(strip.origin + offset);
#pragma GCC unroll 8
      for (int j = 0; j < J; ++j) {
        if (i - j >= 0 && i - j < B) acc[kFrom + j] = V::fma(dy[i - j], value, acc[kFrom + j]);
      }
    }
    offset += jump;
    keep_in_order(offset);
    if (kChecked) {
      at += strip.step;
      keep_in_order(at);
    }
  }
}

// Both chunks of a pass; `first` is the coordinate where the first output's window begins.
template <class V, int B, int J0, int J1, bool kChecked, class Load>
CONVBOUND_INLINE void slide_pass(typename V::Reg (&acc)[J0 + J1], const typename V::Reg (&dy)[B], Strip strip,
                                 const TapPass& pass, int64_t offset, const Load& load) {
  const int64_t first = strip.first;
  strip.first = first + pass.chunk[0].start;
  slide_products<V, B, 0, J0, kChecked>(acc, dy, strip, offset, load);
  if constexpr (J1 > 0) {
    strip.first = first + pass.chunk[1].start;
    slide_products<V, B, J0, J1, kChecked>(acc, dy, strip, offset, load);
  }
}

template <int B, int J1>
CONVBOUND_INLINE bool pass_inside(const TapPass& pass, const Strip& strip) {
  return inside<B>(pass.chunk[0], strip) && (J1 == 0 || inside<B>(pass.chunk[1], strip));
}

// The sums of C taps across the window and a pass along it, in registers between begin and end.
template <class V, int C, int J0, int J1>
struct TapSums {
  typename V::Reg acc[C][J0 + J1];

  CONVBOUND_INLINE float* row(const WgradPlan& plan, const WgradStep& step, float* sums, int c, int j) {
    const TapChunk& chunk = step.pass->chunk[j < J0 ? 0 : 1];
    const int64_t tap = chunk.tap + (j < J0 ? j : j - J0) * plan.window.tap_step;
    return sums + (tap * plan.sum_window + (step.cross_tap + c) * plan.sum_cross) * V::kWidth;
  }
  CONVBOUND_INLINE void begin(TapSums& self, const WgradPlan& plan, const WgradStep& step, float* sums) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
#pragma GCC unroll 8
      for (int j = 0; j < J0 + J1; ++j) self.acc[c][j] = step.fresh ? V::zero() : V::load(row(plan, step, sums, c, j));
    }
  }
  CONVBOUND_INLINE void end(const TapSums& self, const WgradPlan& plan, const WgradStep& step, float* sums) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
#pragma GCC unroll 8
      for (int j = 0; j < J0 + J1; ++j) V::store(row(plan, step, sums, c, j), self.acc[c][j]);
    }
  }
};

// One entry for each pattern and number of taps across; Make::make<C, J0, J1>() gives the function.
template <class Make, int P>
struct SweepRow {
  template <int C>
  static constexpr WgradSweep entry() {
    if constexpr (C <= kMostCrossTaps[P]) {
      return Make::template make<C, kTapPatterns[P].first, kTapPatterns[P].second>();
    } else {
      return nullptr;
    }
  }
  static constexpr WgradSweep kEntries[4] = {entry<1>(), entry<2>(), entry<3>(), entry<4>()};
};

template <class Make>
CONVBOUND_INLINE WgradSweep find_sweep(const WgradStep& step) {
  static constexpr const WgradSweep* kTable[kTapPatternCount] = {
      SweepRow<Make, 0>::kEntries, SweepRow<Make, 1>::kEntries, SweepRow<Make, 2>::kEntries,
      SweepRow<Make, 3>::kEntries, SweepRow<Make, 4>::kEntries, SweepRow<Make, 5>::kEntries,
      SweepRow<Make, 6>::kEntries, SweepRow<Make, 7>::kEntries, SweepRow<Make, 8>::kEntries};
  return kTable[step.pass->pattern][step.cross_taps - 1];
}

constexpr int64_t kLine = 16;  // floats of a cache line

CONVBOUND_INLINE void prefetch(const float* from, int64_t count) {
  for (int64_t i = 0; i < count; i += kLine) __builtin_prefetch(from + i, 0, 2);  // never faults, wherever it points
}

}  // namespace
}  // namespace convbound::cpu
