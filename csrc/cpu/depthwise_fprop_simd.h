// What the two vector bodies of depthwise fprop share (depthwise_fprop_nchw.h, depthwise_fprop_nhwc.h).
// depthwise_fprop.cpp has the overview, simd.h the rules.
#pragma once

#include "depthwise_fprop_plan.h"
#include "depthwise_strip.h"

namespace convbound::cpu {
namespace {

// Outputs per block along the window axis. 7 sums and 7 taps fit the 16 registers of AVX2, and 7 divides the usual
// sizes.
constexpr int kBlocks[4] = {7, 4, 2, 1};
CONVBOUND_INLINE int block_index(int64_t left) { return left >= 7 ? 0 : left >= 4 ? 1 : left >= 2 ? 2 : 3; }

// acc[b] += tap[j] * x[b + j], each x loaded once. Coordinates outside the input count as zero and cost nothing.
template <class V, int B, int C, int J, bool kChecked, class Load>
CONVBOUND_INLINE void slide(typename V::Reg (&acc)[B][C], const typename V::Reg (&tap)[J], const Strip& strip,
                            int64_t offset, const Load& load) {
  int64_t at = strip.first;
  offset += strip.first * strip.unit;
  const int64_t jump = strip.step * strip.unit;
#pragma GCC unroll 16
  for (int i = 0; i < B + J - 1; ++i) {
    if (!kChecked || static_cast<uint64_t>(at) < static_cast<uint64_t>(strip.extent)) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) {
        const typename V::Reg value = load(strip.origin + offset, c);
#pragma GCC unroll 8
        for (int j = 0; j < J; ++j) {
          if (i - j >= 0 && i - j < B) acc[i - j][c] = V::fma(tap[j], value, acc[i - j][c]);
        }
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

// Asks for `count` floats of x from `at` on. Blocks touch short pieces of many rows at once, which hardware prefetchers
// take for disorder; the loops over blocks know that x is passed through from front to back.
CONVBOUND_INLINE void prefetch(const DepthwisePlan& plan, int64_t at, int64_t count) {
  constexpr int64_t kLine = 16;
  const int64_t end = smaller(at + count, plan.x_floats);
  for (int64_t i = larger(at, 0); i < end; i += kLine) __builtin_prefetch(plan.x + i, 0, 2);  // to the second level
}

// For outputs that would only push the inputs out of the cache. Those of one thread are one run of memory: blocks of
// them are gathered in `stage`, which stays in the cache, and leave in whole aligned vectors by non-temporal stores.
template <class V>
struct Stream {
  float* stage;
  float* y;      // where stage[0] goes: aligned
  int64_t skip;  // floats at the front of the stage that belong to another thread
  int64_t held;

  CONVBOUND_INLINE Stream begin(float* stage, float* y) {
    const int64_t skip = static_cast<int64_t>(reinterpret_cast<uintptr_t>(y) / sizeof(float)) & (V::kWidth - 1);
    return {stage, y - skip, skip, skip};
  }

  // The next `count` floats of y stand in the stage, from `held` on.
  static void push(Stream& stream, int64_t count) {
    stream.held += count;
    int64_t i = 0;
    if (stream.skip > 0 && stream.held >= V::kWidth) {
      for (i = stream.skip; i < V::kWidth; ++i) stream.y[i] = stream.stage[i];
      stream.skip = 0;
    }
    for (; i + V::kWidth <= stream.held; i += V::kWidth) V::stream(stream.y + i, V::load(stream.stage + i));
    if (stream.skip > 0) return;
    V::store(stream.stage, V::load(stream.stage + i));
    stream.y += i;
    stream.held -= i;
  }

  static void end(Stream& stream) {
    for (int64_t i = stream.skip; i < stream.held; ++i) stream.y[i] = stream.stage[i];
    V::fence();
  }
};

}  // namespace
}  // namespace convbound::cpu
