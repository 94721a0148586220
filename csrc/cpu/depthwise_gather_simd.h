// What the two vector bodies of depthwise fprop and dgrad share (depthwise_gather_nchw.h, depthwise_gather_nhwc.h).
// depthwise_gather.cpp has the overview, simd.h the rules.
#pragma once

#include "depthwise_gather_plan.h"
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

// The classes of the outputs p, p + out_step, ... below `end`, and where the window of the first of them begins.
struct WindowRun {
  const WindowClass* taps;
  int64_t first, left;
  CONVBOUND_INLINE WindowRun make(const WindowAxis& axis, int64_t p, int64_t end) {
    const WindowClass* taps = axis.classes + p % axis.out_step;
    return {taps, taps->first + p / axis.out_step * axis.step, ceil_div(end - p, axis.out_step)};
  }
};

// Asks for `count` floats from `from` on. Blocks touch short pieces of many rows at once, which hardware prefetchers
// take for disorder; the loops over blocks know that x is passed through from front to back. Prefetches never fault.
CONVBOUND_INLINE void prefetch(const float* from, int64_t count) {
  constexpr int64_t kLine = 16;
  for (int64_t i = 0; i < count; i += kLine) __builtin_prefetch(from + i, 0, 2);  // to the second level
}

// The inputs that some outputs meet.
struct Range {
  int64_t begin, end;
};

CONVBOUND_INLINE int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

CONVBOUND_INLINE Range inputs_met(const Reach& reach, int64_t begin, int64_t end, int64_t in) {
  const int64_t low = floor_div(begin * reach.rise + reach.low, reach.run);
  const int64_t high = floor_div((end - 1) * reach.rise + reach.high, reach.run);
  const int64_t first = smaller(larger(low, 0), in);
  return {first, larger(first, smaller(high + 1, in))};
}

// `count` elements of x, of which `at` lie before them, as floats.
CONVBOUND_INLINE void read_elements(const GatherPlan& plan, int64_t at, int64_t count, float* to) {
  if (plan.convert == nullptr) {
    __builtin_memcpy(to, static_cast<const float*>(plan.x) + at, static_cast<uint64_t>(count) * sizeof(float));
  } else {
    plan.convert->widen(static_cast<const char*>(plan.x) + at * plan.element_bytes, to, count);
  }
}

// fp32 or narrowed, without streaming.
CONVBOUND_INLINE void write_elements(const GatherPlan& plan, const float* from, int64_t at, int64_t count) {
  if (plan.convert == nullptr) {
    __builtin_memcpy(static_cast<float*>(plan.y) + at, from, static_cast<uint64_t>(count) * sizeof(float));
  } else {
    plan.convert->narrow(from, static_cast<char*>(plan.y) + at * plan.element_bytes, count);
  }
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
