// The vector body of depthwise fprop, written once over a small vector type V and compiled for each instruction set
// (depthwise_fprop_avx2.cpp, depthwise_fprop_avx512.cpp). depthwise_fprop.cpp has the overview.
//
// Everything here has internal linkage and no std:: template appears: a function that the linker could share with
// plain-ISA files might be kept in its AVX-512 copy.
//
// V has kWidth, Reg, Mask, Index and Spread;
//   broadcast, load, store, stream (non-temporal, aligned), fence, fma(a, b, c) = a * b + c;
//   mask(at, limit): the lanes i with 0 <= at + i < limit; load_mask(p, mask): 0 elsewhere, and nothing is touched there;
//   store_first(p, v, n): the first n lanes;
//   even(a, b): the even lanes of a, then of b;
//   multiples(s): the index vector i * s; mask_index(index, at, limit); gather(p, index, mask);
//   spread(sources, n) and load_spread(p, spread): lane i takes p[sources[i]]; sources are ints that never fall, the first
//   n of them count.
#pragma once

#include "depthwise_fprop_plan.h"

#define CONVBOUND_INLINE __attribute__((always_inline)) static inline

namespace convbound::cpu {
namespace {

CONVBOUND_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
CONVBOUND_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
CONVBOUND_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Outputs per block along the window axis. 7 sums and 7 taps fit the 16 registers of AVX2, and 7 divides the usual sizes.
constexpr int kBlocks[4] = {7, 4, 2, 1};
CONVBOUND_INLINE int block_index(int64_t left) { return left >= 7 ? 0 : left >= 4 ? 1 : left >= 2 ? 2 : 3; }

// Where a block's operands lie: coordinate i of the window axis is at origin + i * unit + an offset of the caller's, and
// exists if 0 <= i < extent.
struct Strip {
  const float* origin;
  int64_t first, step, unit, extent;
};

// Keeps the compiler from computing all addresses of an unrolled loop beforehand, for which it lacks registers.
CONVBOUND_INLINE void keep_in_order(int64_t& i) { asm volatile("" : "+r"(i)); }

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

// Whether a block of B outputs finds all operands of a chunk inside the input, so that no coordinate needs a check.
template <int B>
CONVBOUND_INLINE bool inside(const WindowAxis& axis, const TapChunk& chunk, int64_t first, int64_t extent) {
  return first + chunk.start >= 0 && first + chunk.start + (B + chunk.taps - 2) * axis.step < extent;
}

// Asks for `count` floats of x from `at` on. Blocks touch short pieces of many rows at once, which hardware prefetchers
// take for disorder; the loops over blocks know that x is passed through from front to back.
CONVBOUND_INLINE void prefetch(const DepthwisePlan& plan, int64_t at, int64_t count) {
  constexpr int64_t kLine = 16;
  const int64_t end = smaller(at + count, plan.x_floats);
  for (int64_t i = at; i < end; i += kLine) __builtin_prefetch(plan.x + i, 0, 2);  // to the second level
}

// ---- streaming: outputs that would only push the inputs out of the cache ----

// The outputs of one thread are one run of memory. Blocks of them are gathered in `stage`, which stays in the cache, and
// leave in whole aligned vectors by non-temporal stores.
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

// ---- NCHW: vectors along W, blocks of up to 7 rows ----

// Lane i takes column + i * stride of a row, or 0 where that lies outside [0, width). kStride 0 is any stride.
template <class V, int kStride>
struct RowLoad;

template <class V>
struct RowLoad<V, 1> {
  typename V::Mask mask;
  CONVBOUND_INLINE RowLoad make(int64_t column, int64_t, int64_t width) { return {V::mask(column, width)}; }
  CONVBOUND_INLINE typename V::Reg load(const RowLoad& self, const float* x) { return V::load_mask(x, self.mask); }
};

template <class V>
struct RowLoad<V, 2> {
  typename V::Mask low, high;
  CONVBOUND_INLINE RowLoad make(int64_t column, int64_t, int64_t width) {
    return {V::mask(column, width), V::mask(column + V::kWidth, width)};
  }
  CONVBOUND_INLINE typename V::Reg load(const RowLoad& self, const float* x) {
    return V::even(V::load_mask(x, self.low), V::load_mask(x + V::kWidth, self.high));
  }
};

template <class V>
struct RowLoad<V, 0> {
  typename V::Index index;
  typename V::Mask mask;
  CONVBOUND_INLINE RowLoad make(int64_t column, int64_t stride, int64_t width) {
    const typename V::Index index = V::multiples(stride);
    return {index, V::mask_index(index, column, width)};
  }
  CONVBOUND_INLINE typename V::Reg load(const RowLoad& self, const float* x) {
    return V::gather(x, self.index, self.mask);
  }
};

// One plane of x and what goes with it.
struct Plane {
  const float* x;
  const float* w;
  const float* bias;
};

template <class V, int kStride, int B, int C, int J, bool kChecked>
CONVBOUND_INLINE void row_taps(typename V::Reg (&acc)[B][C], const DepthwisePlan& plan, const TapChunk& chunk,
                               const Plane& plane, int64_t first, int64_t column) {
  const CrossAxis& cross = plan.cross;
  const int64_t tap_step = plan.window.tap_step * plan.w_tap;
  const float* taps = plane.w + chunk.tap * plan.w_tap;
  Strip strip{plane.x, first + chunk.start, plan.window.step, cross.in, plan.window.in};
  for (int64_t s = 0; s < cross.taps; ++s, taps += plan.w_cross, column += cross.dilation) {
    typename V::Reg tap[J];
    RowLoad<V, kStride> loads[C];
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j) tap[j] = V::broadcast(taps + j * tap_step);
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) loads[c] = loads[c].make(column + c * V::kWidth * cross.stride, cross.stride, cross.in);
    slide<V, B, C, J, kChecked>(acc, tap, strip, column, [&](const float* x, int c) {
      return RowLoad<V, kStride>::load(loads[c], x + c * V::kWidth * (kStride == 0 ? cross.stride : kStride));
    });
  }
}

template <class V, int kStride, int B, int C, int J>
CONVBOUND_INLINE void row_chunk(typename V::Reg (&acc)[B][C], const DepthwisePlan& plan, const TapChunk& chunk,
                                const Plane& plane, int64_t first, int64_t column) {
  // Only stride 1 spends code on a version without checks.
  if (kStride == 1 && inside<B>(plan.window, chunk, first, plan.window.in)) {
    row_taps<V, kStride, B, C, J, kStride != 1>(acc, plan, chunk, plane, first, column);
  } else {
    row_taps<V, kStride, B, C, J, true>(acc, plan, chunk, plane, first, column);
  }
}

// B rows (out_step apart) of C vectors. `first` and `column`: where the first output's window begins; `count` outputs are
// left in a row.
template <class V, int kStride, int B, int C, int J0, int J1>
static void row_block(const DepthwisePlan& plan, const TapPass& pass, const Plane& plane, int64_t first, int64_t column,
                      float* y, int64_t count) {
  const int64_t y_step = plan.window.out_step * plan.cross.out;
  typename V::Reg acc[B][C];
#pragma GCC unroll 8
  for (int b = 0; b < B; ++b) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      if (&pass == plan.window.passes) {
        acc[b][c] = V::broadcast(plane.bias);
      } else {
        acc[b][c] = V::load_mask(y + b * y_step + c * V::kWidth, V::mask(c * V::kWidth, count));
      }
    }
  }
  row_chunk<V, kStride, B, C, J0>(acc, plan, pass.chunk[0], plane, first, column);
  if constexpr (J1 > 0) row_chunk<V, kStride, B, C, J1>(acc, plan, pass.chunk[1], plane, first, column);
#pragma GCC unroll 8
  for (int b = 0; b < B; ++b, y += y_step) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      if (count >= (c + 1) * V::kWidth) {
        V::store(y + c * V::kWidth, acc[b][c]);
      } else {
        V::store_first(y + c * V::kWidth, acc[b][c], static_cast<int>(count - c * V::kWidth));
      }
    }
  }
}

using RowBlock = void (*)(const DepthwisePlan&, const TapPass&, const Plane&, int64_t, int64_t, float*, int64_t);

struct RowBlocks {
  RowBlock wide;    // `columns` vectors
  RowBlock single;  // one vector
  RowBlock narrow;  // one vector of half the width, for what is left at the end of a row
  int64_t columns;
};

// Rows of the table: blocks of 7, 4, 2, 1.
template <class V, class Narrow, int kStride, int P>
struct RowTable {
  static constexpr int kFirst = kTapPatterns[P].first, kSecond = kTapPatterns[P].second;
  template <int B, int C>
  static constexpr RowBlocks entry() {
    return {row_block<V, kStride, B, C, kFirst, kSecond>, row_block<V, kStride, B, 1, kFirst, kSecond>,
            row_block<Narrow, kStride, B, 1, kFirst, kSecond>, C};
  }
  static constexpr RowBlocks kEntries[4] = {entry<7, kStride == 1 ? V::kColumns : 1>(), entry<4, 1>(), entry<2, 1>(),
                                            entry<1, kStride == 1 ? 4 : 1>()};
};

template <class V, class Narrow, int kStride>
CONVBOUND_INLINE const RowBlocks* row_table(int pattern) {
  static constexpr const RowBlocks* kTable[kTapPatternCount] = {
      RowTable<V, Narrow, kStride, 0>::kEntries, RowTable<V, Narrow, kStride, 1>::kEntries,
      RowTable<V, Narrow, kStride, 2>::kEntries, RowTable<V, Narrow, kStride, 3>::kEntries,
      RowTable<V, Narrow, kStride, 4>::kEntries, RowTable<V, Narrow, kStride, 5>::kEntries,
      RowTable<V, Narrow, kStride, 6>::kEntries, RowTable<V, Narrow, kStride, 7>::kEntries,
      RowTable<V, Narrow, kStride, 8>::kEntries};
  return kTable[pattern];
}

template <class V, class Narrow>
CONVBOUND_INLINE const RowBlocks& row_blocks(int pattern, int64_t stride, int block) {
  return (stride == 1   ? row_table<V, Narrow, 1>(pattern)
          : stride == 2 ? row_table<V, Narrow, 2>(pattern)
                        : row_table<V, Narrow, 0>(pattern))[block];
}

// `count` outputs of each of the rows of one block.
template <class V, class Narrow>
static void block_rows(const DepthwisePlan& plan, const Plane& plane, int index, int64_t first, int64_t q0, float* y,
                       int64_t count) {
  const CrossAxis& cross = plan.cross;
  for (int64_t i = 0; i < plan.window.pass_count; ++i) {
    const TapPass& pass = plan.window.passes[i];
    const RowBlocks& blocks = row_blocks<V, Narrow>(pass.pattern, cross.stride, index);
    for (int64_t q = 0; q < count;) {
      const int64_t left = count - q;
      const bool wide = left > (blocks.columns - 1) * V::kWidth + Narrow::kWidth;
      const bool single = left > Narrow::kWidth;
      const RowBlock block = wide ? blocks.wide : single ? blocks.single : blocks.narrow;
      block(plan, pass, plane, first, (q0 + q) * cross.stride - cross.padding, y + q, left);
      q += wide ? blocks.columns * V::kWidth : V::kWidth;
    }
  }
}

template <class V, class Narrow>
static void depthwise_nchw(const DepthwisePlan& plan, int64_t begin, int64_t end, float* stage) {
  const WindowAxis& axis = plan.window;
  const CrossAxis& cross = plan.cross;
  const int64_t tiles = plan.row_tiles * plan.column_tiles;
  const int64_t reach = (axis.taps - 1) * axis.dilation + 1;
  const float zero = 0.0f;
  const bool staged = plan.stage_floats > 0;
  Stream<V> stream{};
  for (int64_t item = begin; item < end; ++item) {
    const int64_t k = item / tiles;  // over images and output channels
    const int64_t channel = k % plan.k;
    const int64_t p0 = item % tiles / plan.column_tiles * plan.tile_p;
    const int64_t p1 = smaller(p0 + plan.tile_p, axis.out);
    const int64_t q0 = item % plan.column_tiles * plan.tile_q;
    const int64_t count = smaller(plan.tile_q, cross.out - q0);
    Plane plane{};
    plane.x = plan.x + (k / plan.k * plan.c + channel / plan.multiplier) * axis.in * cross.in;
    plane.w = plan.w + channel * axis.taps * cross.taps + plan.w_origin;
    plane.bias = plan.bias == nullptr ? &zero : plan.bias + channel;
    float* y = plan.y + k * axis.out * cross.out;
    if (staged && item == begin) stream = Stream<V>::begin(stage, y + p0 * cross.out + q0);
    for (int64_t p_first = p0; p_first < smaller(p0 + axis.out_step, p1); ++p_first) {
      for (int64_t p = p_first; p < p1;) {
        const int index = block_index(ceil_div(p1 - p, axis.out_step));
        const int64_t first = p * axis.stride - axis.padding;
        if (p_first == p0) {
          const int64_t rows = kBlocks[index] * axis.step;
          prefetch(plan, plane.x - plan.x + (first + reach + rows) * cross.in, rows * cross.in);
        }
        if (!staged) {
          block_rows<V, Narrow>(plan, plane, index, first, q0, y + p * cross.out + q0, count);
        } else if (axis.out_step == 1) {
          block_rows<V, Narrow>(plan, plane, index, first, q0, stream.stage + stream.held, count);
          Stream<V>::push(stream, kBlocks[index] * count);
        } else {
          block_rows<V, Narrow>(plan, plane, index, first, q0, stream.stage + stream.held + (p - p0) * cross.out, count);
        }
        p += kBlocks[index] * axis.out_step;
      }
    }
    if (staged && axis.out_step > 1) Stream<V>::push(stream, (p1 - p0) * cross.out);
  }
  if (staged) Stream<V>::end(stream);
}

// ---- NHWC: vectors along C, blocks of up to 7 outputs along W ----

// One output row of one image.
struct PixelRow {
  const float* x;  // column 0 of the first input row that exists for it
  int64_t r;       // the filter row that meets that input row
  int64_t taps;    // and how many filter rows meet an existing input row
};

template <class V, int B, int J, bool kChecked, class Load>
CONVBOUND_INLINE void pixel_taps(typename V::Reg (&acc)[B][1], const DepthwisePlan& plan, const TapChunk& chunk,
                                 int64_t rows, int64_t first, const float* x, const float* w, const Load& load) {
  const int64_t x_row = plan.cross.dilation * plan.window.in * plan.c;
  const int64_t w_row = plan.window.taps * V::kWidth;
  const int64_t tap_step = plan.window.tap_step * V::kWidth;
  w += chunk.tap * V::kWidth;
  Strip strip{x, first + chunk.start, plan.window.step, plan.c, plan.window.in};
  for (int64_t r = 0; r < rows; ++r, strip.origin += x_row, w += w_row) {
    typename V::Reg tap[J];
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j) tap[j] = V::load(w + j * tap_step);
    slide<V, B, 1, J, kChecked>(acc, tap, strip, 0, load);
  }
}

template <class V, int B, int J, class Load>
CONVBOUND_INLINE void pixel_chunk(typename V::Reg (&acc)[B][1], const DepthwisePlan& plan, const TapChunk& chunk,
                                  int64_t rows, int64_t first, const float* x, const float* w, const Load& load) {
  if (inside<B>(plan.window, chunk, first, plan.window.in)) {
    pixel_taps<V, B, J, false>(acc, plan, chunk, rows, first, x, w, load);
  } else {
    pixel_taps<V, B, J, true>(acc, plan, chunk, rows, first, x, w, load);
  }
}

// B outputs (out_step apart) of panels [panel, panel_end); y is the first output's channel 0. `first`: the column where
// the first output's window begins. kSpread: channels repeat, or the panel is not full.
template <class V, int B, bool kSpread, int J0, int J1>
static void pixel_block(const DepthwisePlan& plan, const TapPass& pass, const PixelRow& row, int64_t first, float* y,
                        int64_t panel, int64_t panel_end) {
  const int64_t taps = plan.cross.taps * plan.window.taps;
  const int64_t y_step = plan.window.out_step * plan.k;
  for (int64_t i = panel; i < panel_end; ++i) {
    const int64_t k = i * V::kWidth;
    const float* w = plan.w + i * (taps + 2) * V::kWidth;
    const float* bias = w + taps * V::kWidth;
    w += row.r * plan.window.taps * V::kWidth;
    float* out = y + k;
    const int channels = kSpread ? static_cast<int>(smaller(V::kWidth, plan.k - k)) : V::kWidth;
    typename V::Reg acc[B][1];
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) {
      if (&pass == plan.window.passes) {
        acc[b][0] = V::load(bias);
      } else {
        acc[b][0] = V::load_mask(out + b * y_step, V::mask(0, channels));
      }
    }
    const auto sum = [&](const float* x, const auto& load) __attribute__((always_inline)) {
      pixel_chunk<V, B, J0>(acc, plan, pass.chunk[0], row.taps, first, x, w, load);
      if constexpr (J1 > 0) pixel_chunk<V, B, J1>(acc, plan, pass.chunk[1], row.taps, first, x, w, load);
    };
    if constexpr (kSpread) {
      const typename V::Spread spread = V::spread(bias + V::kWidth, channels);
      sum(row.x + k / plan.multiplier, [&](const float* x, int) { return V::load_spread(x, spread); });
    } else {
      sum(row.x + k, [](const float* x, int) { return V::load(x); });
    }
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b, out += y_step) {
      if (!kSpread || channels == V::kWidth) {
        V::store(out, acc[b][0]);
      } else {
        V::store_first(out, acc[b][0], channels);
      }
    }
  }
}

using PixelBlock = void (*)(const DepthwisePlan&, const TapPass&, const PixelRow&, int64_t, float*, int64_t, int64_t);

// [spread][block]
template <class V, int P>
struct PixelTable {
  static constexpr int kFirst = kTapPatterns[P].first, kSecond = kTapPatterns[P].second;
  static constexpr PixelBlock kEntries[2][4] = {
      {pixel_block<V, 7, false, kFirst, kSecond>, pixel_block<V, 4, false, kFirst, kSecond>,
       pixel_block<V, 2, false, kFirst, kSecond>, pixel_block<V, 1, false, kFirst, kSecond>},
      {pixel_block<V, 7, true, kFirst, kSecond>, pixel_block<V, 4, true, kFirst, kSecond>,
       pixel_block<V, 2, true, kFirst, kSecond>, pixel_block<V, 1, true, kFirst, kSecond>}};
};

template <class V>
CONVBOUND_INLINE PixelBlock find_pixel_block(int pattern, bool spread, int block) {
  static constexpr const PixelBlock(*kTable[kTapPatternCount])[4] = {
      PixelTable<V, 0>::kEntries, PixelTable<V, 1>::kEntries, PixelTable<V, 2>::kEntries,
      PixelTable<V, 3>::kEntries, PixelTable<V, 4>::kEntries, PixelTable<V, 5>::kEntries,
      PixelTable<V, 6>::kEntries, PixelTable<V, 7>::kEntries, PixelTable<V, 8>::kEntries};
  return kTable[pattern][spread][block];
}

// One block of all channels.
template <class V>
static void block_panels(const DepthwisePlan& plan, const PixelRow& row, int index, int64_t first, float* y) {
  const int64_t full = plan.multiplier == 1 ? plan.k / V::kWidth : 0;
  for (int64_t i = 0; i < plan.window.pass_count; ++i) {
    const TapPass& pass = plan.window.passes[i];
    if (full > 0) find_pixel_block<V>(pass.pattern, false, index)(plan, pass, row, first, y, 0, full);
    if (full < plan.panels) {
      find_pixel_block<V>(pass.pattern, true, index)(plan, pass, row, first, y, full, plan.panels);
    }
  }
}

template <class V>
static void depthwise_nhwc(const DepthwisePlan& plan, int64_t begin, int64_t end, float* stage) {
  const WindowAxis& axis = plan.window;
  const CrossAxis& cross = plan.cross;
  const bool staged = plan.stage_floats > 0;
  Stream<V> stream{};
  if (staged) stream = Stream<V>::begin(stage, plan.y + begin * axis.out * plan.k);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t image = item / cross.out;
    const int64_t h = item % cross.out * cross.stride - cross.padding;
    const int64_t r_begin = h >= 0 ? 0 : smaller(cross.taps, ceil_div(-h, cross.dilation));
    const int64_t r_end = smaller(cross.taps, larger(r_begin, ceil_div(larger(0, cross.in - h), cross.dilation)));
    const int64_t h_begin = r_end > r_begin ? h + r_begin * cross.dilation : 0;
    const PixelRow row{plan.x + (image * cross.in + h_begin) * axis.in * plan.c, r_begin, r_end - r_begin};
    float* y = plan.y + item * axis.out * plan.k;
    const int64_t next_row = image * cross.in + h + (cross.taps - 1) * cross.dilation + 1;
    for (int64_t q_first = 0; q_first < smaller(axis.out_step, axis.out); ++q_first) {
      for (int64_t q = q_first; q < axis.out;) {
        const int index = block_index(ceil_div(axis.out - q, axis.out_step));
        const int64_t first = q * axis.stride - axis.padding;
        for (int64_t r = 0; r < cross.stride && q_first == 0; ++r) {
          const int64_t at = ((next_row + r) * axis.in + larger(0, first)) * plan.c;
          prefetch(plan, at, kBlocks[index] * axis.step * plan.c);
        }
        if (!staged) {
          block_panels<V>(plan, row, index, first, y + q * plan.k);
        } else if (axis.out_step == 1) {
          block_panels<V>(plan, row, index, first, stream.stage + stream.held);
          Stream<V>::push(stream, kBlocks[index] * plan.k);
        } else {
          block_panels<V>(plan, row, index, first, stream.stage + stream.held + q * plan.k);
        }
        q += kBlocks[index] * axis.out_step;
      }
    }
    if (staged && axis.out_step > 1) Stream<V>::push(stream, axis.out * plan.k);
  }
  if (staged) Stream<V>::end(stream);
}

}  // namespace
}  // namespace convbound::cpu
