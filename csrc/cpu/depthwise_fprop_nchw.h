// Depthwise fprop in NCHW: vectors along W, blocks of up to 7 rows. See depthwise_fprop.cpp.
#pragma once

#include "depthwise_fprop_simd.h"
#include "depthwise_rows.h"

namespace convbound::cpu {
namespace {

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

// B rows (out_step apart) of C vectors. `first` and `column`: where the first output's window begins; `count` outputs
// are left in a row.
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
        if (p_first == p0 && axis.out > 1) {
          const int64_t rows = smaller(kBlocks[index] * axis.step, axis.in);
          prefetch(plan, plane.x - plan.x + (first + reach + rows) * cross.in, rows * cross.in);
        }
        if (!staged) {
          block_rows<V, Narrow>(plan, plane, index, first, q0, y + p * cross.out + q0, count);
        } else if (axis.out_step == 1) {
          block_rows<V, Narrow>(plan, plane, index, first, q0, stream.stage + stream.held, count);
          Stream<V>::push(stream, kBlocks[index] * count);
        } else {
          block_rows<V, Narrow>(plan, plane, index, first, q0, stream.stage + stream.held + (p - p0) * cross.out,
                                count);
        }
        p += kBlocks[index] * axis.out_step;
      }
    }
    if (staged && axis.out_step > 1) Stream<V>::push(stream, (p1 - p0) * count);
  }
  if (staged) Stream<V>::end(stream);
}

}  // namespace
}  // namespace convbound::cpu
