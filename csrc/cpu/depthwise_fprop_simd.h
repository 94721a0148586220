// The vector body of depthwise fprop, written once over a small vector type V and compiled for each instruction set
// (depthwise_fprop_avx2.cpp, depthwise_fprop_avx512.cpp). depthwise_fprop.cpp has the overview.
//
// Everything here has internal linkage and no std:: template appears: a function that the linker could share with
// plain-ISA files might be kept in its AVX-512 copy.
//
// V has kWidth, Reg, Mask, Spread; zero, broadcast, load, store; fma(a, b, c) = a * b + c; load_first(p, n) and
// store_first(p, v, n), which touch only n floats (loaded lanes beyond are 0); mask(at, limit), the lanes i with
// 0 <= at + i < limit, and load_mask(p, mask); spread(phase, multiplier, count) and load_spread(p, spread), which repeat
// channels for their multipliers; split(a, b, even, odd).
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

// Where a block's operands lie: coordinate i of the window axis is at origin + i * unit, and exists if 0 <= i < extent.
struct Strip {
  const float* origin;
  int64_t first, step, unit, extent;
};

// Keeps the compiler from computing all addresses of an unrolled loop beforehand, for which it lacks registers.
CONVBOUND_INLINE void keep_in_order(int64_t& i) { asm volatile("" : "+r"(i)); }

// acc[b] += tap[j] * x[b + j], each x loaded once. Coordinates outside the input count as zero and cost nothing.
template <class V, int B, int C, int J, bool kChecked, class Load>
CONVBOUND_INLINE void slide(typename V::Reg (&acc)[B][C], const typename V::Reg (&tap)[J], const Strip& strip,
                            const Load& load) {
  int64_t at = strip.first;
  int64_t offset = strip.first * strip.unit;
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

// ---- NCHW: vectors along W, blocks of up to 7 rows ----

// Rows of one plane, of x itself or of a tile.
struct PlaneRows {
  const float* x;
  int64_t pitch, rows;
  const float* w;
  const float* bias;
};

template <class V, int B, int C, int J, bool kChecked>
CONVBOUND_INLINE void row_taps(typename V::Reg (&acc)[B][C], const DepthwisePlan& plan, const TapChunk& chunk,
                               const PlaneRows& rows, int64_t first, int64_t q) {
  const int64_t tap_step = plan.window.tap_step * plan.w_tap;
  const float* taps = rows.w + chunk.tap * plan.w_tap;
  for (int64_t s = 0; s < plan.cross.taps; ++s, taps += plan.w_cross) {
    const int64_t column = plan.column[s] + q;
    typename V::Reg tap[J];
    typename V::Mask mask[C];
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j) tap[j] = V::broadcast(taps + j * tap_step);
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) mask[c] = V::mask(column + c * V::kWidth, plan.row_floats);
    const Strip strip{rows.x + column, first + chunk.start, plan.window.step, rows.pitch, rows.rows};
    slide<V, B, C, J, kChecked>(acc, tap, strip,
                                [&](const float* x, int c) { return V::load_mask(x + c * V::kWidth, mask[c]); });
  }
}

template <class V, int B, int C, int J>
CONVBOUND_INLINE void row_chunk(typename V::Reg (&acc)[B][C], const DepthwisePlan& plan, const TapChunk& chunk,
                                const PlaneRows& rows, int64_t first, int64_t q) {
  if (inside<B>(plan.window, chunk, first, rows.rows)) {
    row_taps<V, B, C, J, false>(acc, plan, chunk, rows, first, q);
  } else {
    row_taps<V, B, C, J, true>(acc, plan, chunk, rows, first, q);
  }
}

// B rows (out_step apart) of C vectors from column q on. `first`: the row where the first output's window begins.
template <class V, int B, int C, int J0, int J1>
static void row_block(const DepthwisePlan& plan, const TapPass& pass, const PlaneRows& rows, int64_t first, int64_t q,
                      float* y, int64_t columns) {
  const int64_t y_step = plan.window.out_step * plan.cross.out;
  typename V::Reg acc[B][C];
#pragma GCC unroll 8
  for (int b = 0; b < B; ++b) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      if (&pass == plan.window.passes) {
        acc[b][c] = V::broadcast(rows.bias);
      } else {
        acc[b][c] = V::load_mask(y + b * y_step + c * V::kWidth, V::mask(c * V::kWidth, columns));
      }
    }
  }
  row_chunk<V, B, C, J0>(acc, plan, pass.chunk[0], rows, first, q);
  if constexpr (J1 > 0) row_chunk<V, B, C, J1>(acc, plan, pass.chunk[1], rows, first, q);
#pragma GCC unroll 8
  for (int b = 0; b < B; ++b) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      float* at = y + c * V::kWidth;
      if (columns >= (c + 1) * V::kWidth) {
        V::store(at, acc[b][c]);
      } else {
        V::store_first(at, acc[b][c], static_cast<int>(columns - c * V::kWidth));
      }
    }
    y += y_step;
  }
}

using RowBlock = void (*)(const DepthwisePlan&, const TapPass&, const PlaneRows&, int64_t, int64_t, float*, int64_t);

struct RowBlocks {
  RowBlock wide;    // `columns` vectors
  RowBlock single;  // one vector
  RowBlock narrow;  // one vector of half the width, for what is left at the end of a row
  int64_t columns;
};

// [pattern][block]
template <class V, class Narrow, int P>
struct RowTable {
  static constexpr int kFirst = kTapPatterns[P].first, kSecond = kTapPatterns[P].second;
  template <int B, int C>
  static constexpr RowBlocks entry() {
    return {row_block<V, B, C, kFirst, kSecond>, row_block<V, B, 1, kFirst, kSecond>,
            row_block<Narrow, B, 1, kFirst, kSecond>, C};
  }
  static constexpr RowBlocks kEntries[4] = {entry<7, V::kColumns>(), entry<4, 1>(), entry<2, 1>(), entry<1, 4>()};
};

template <class V, class Narrow>
CONVBOUND_INLINE const RowBlocks& row_blocks(int pattern, int block) {
  static constexpr const RowBlocks* kTable[kTapPatternCount] = {
      RowTable<V, Narrow, 0>::kEntries, RowTable<V, Narrow, 1>::kEntries, RowTable<V, Narrow, 2>::kEntries,
      RowTable<V, Narrow, 3>::kEntries, RowTable<V, Narrow, 4>::kEntries, RowTable<V, Narrow, 5>::kEntries,
      RowTable<V, Narrow, 6>::kEntries, RowTable<V, Narrow, 7>::kEntries, RowTable<V, Narrow, 8>::kEntries};
  return kTable[pattern][block];
}

CONVBOUND_INLINE void set_zero(float* p, int64_t count) {
  for (int64_t i = 0; i < count; ++i) p[i] = 0.0f;
}

// A tile: row i is input row row0 + i; element e of its phase f is column column0 + f + e * stride.
struct Tile {
  float* data;
  int64_t row0, rows, filled;
  int64_t column0, length;  // length: elements of a phase that some output needs
};

// Copies what exists of one input row between the zeros of a tile row. May write up to a vector beyond a phase's
// length: zeros, within its pitch.
template <class V>
static void fill_row(const DepthwisePlan& plan, const Tile& tile, const float* x, float* row) {
  const int64_t stride = plan.cross.stride;
  const int64_t begin = smaller(larger(tile.column0, 0), plan.cross.in);
  const int64_t end = larger(begin, smaller(plan.cross.in, tile.column0 + tile.length * stride));
  // Tiles of full width have their zeros in the same places on every row: the scratch was cleared once.
  if (plan.column_tiles > 1) set_zero(row, plan.pitch);
  if (stride == 2) {
    int64_t i = begin;
    if (((i - tile.column0) & 1) != 0 && i < end) {
      row[plan.phase_pitch + (i - tile.column0) / 2] = x[i];
      ++i;
    }
    float* out = row + (i - tile.column0) / 2;
    for (; i < end; i += 2 * V::kWidth, out += V::kWidth) {
      const int64_t left = end - i;
      typename V::Reg even, odd;
      if (left >= 2 * V::kWidth) {
        V::split(V::load(x + i), V::load(x + i + V::kWidth), even, odd);
      } else {
        const int low = static_cast<int>(smaller(left, V::kWidth));
        const int high = static_cast<int>(left) - low;
        V::split(V::load_first(x + i, low), high > 0 ? V::load_first(x + i + V::kWidth, high) : V::zero(), even, odd);
      }
      V::store(out, even);
      V::store(out + plan.phase_pitch, odd);
    }
  } else {
    for (int64_t f = 0; f < stride; ++f) {
      float* phase = row + f * plan.phase_pitch;
      int64_t e = larger(0, ceil_div(begin - tile.column0 - f, stride));
      for (int64_t i = tile.column0 + f + e * stride; i < end; i += stride) phase[e++] = x[i];
    }
  }
}

// Outputs [p0, p1) x [q0, q0 + columns) of output plane k.
template <class V, class Narrow>
static void plane_outputs(const DepthwisePlan& plan, Tile& tile, const float* x, int64_t k, float* y, int64_t p0,
                          int64_t p1, int64_t q0, int64_t columns) {
  const WindowAxis& axis = plan.window;
  const bool tiled = tile.data != nullptr;
  const float zero = 0.0f;
  PlaneRows rows{};
  rows.x = tiled ? tile.data : x;
  rows.pitch = tiled ? plan.pitch : plan.cross.in;
  rows.rows = tiled ? tile.rows : axis.in;
  rows.w = plan.w + k * axis.taps * plan.cross.taps + plan.w_origin;
  rows.bias = plan.bias == nullptr ? &zero : plan.bias + k;
  const int64_t reach = (axis.taps - 1) * axis.dilation + 1;
  for (int64_t p_first = p0; p_first < smaller(p0 + axis.out_step, p1); ++p_first) {
    for (int64_t p = p_first; p < p1;) {
      const int index = block_index(ceil_div(p1 - p, axis.out_step));
      const int64_t first = p * axis.stride - axis.padding - tile.row0;
      // Rows are copied just before the first block that needs them, so that reading x overlaps with arithmetic.
      const int64_t needed = tiled ? smaller(tile.rows, first + (kBlocks[index] - 1) * axis.step + reach) : 0;
      for (; tile.filled < needed; ++tile.filled) {
        fill_row<V>(plan, tile, x + (tile.row0 + tile.filled) * plan.cross.in, tile.data + tile.filled * plan.pitch);
      }
      for (int64_t i = 0; i < axis.pass_count; ++i) {
        const TapPass& pass = axis.passes[i];
        const RowBlocks& blocks = row_blocks<V, Narrow>(pass.pattern, index);
        const int64_t base = tiled ? 0 : q0;
        float* out = y + p * plan.cross.out + q0;
        for (int64_t q = 0; q < columns;) {
          const int64_t left = columns - q;
          const bool wide = left > (blocks.columns - 1) * V::kWidth + Narrow::kWidth;
          const bool single = left > Narrow::kWidth;
          const RowBlock block = wide ? blocks.wide : single ? blocks.single : blocks.narrow;
          block(plan, pass, rows, first, base + q, out + q, left);
          q += wide ? blocks.columns * V::kWidth : V::kWidth;
        }
      }
      p += kBlocks[index] * axis.out_step;
    }
  }
}

template <class V, class Narrow>
static void depthwise_nchw(const DepthwisePlan& plan, int64_t begin, int64_t end, float* scratch) {
  const WindowAxis& axis = plan.window;
  const CrossAxis& cross = plan.cross;
  const int64_t reach = (axis.taps - 1) * axis.dilation + 1;
  const int64_t tiles = plan.row_tiles * plan.column_tiles;
  set_zero(scratch, plan.tile_floats);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t plane = item / tiles;
    const int64_t p0 = item % tiles / plan.column_tiles * plan.tile_p;
    const int64_t p1 = smaller(p0 + plan.tile_p, axis.out);
    const int64_t q0 = item % plan.column_tiles * plan.tile_q;
    const int64_t columns = smaller(plan.tile_q, cross.out - q0);
    Tile tile{};
    if (plan.tile_floats > 0) {
      tile.data = scratch;
      tile.row0 = smaller(larger(0, p0 * axis.stride - axis.padding), axis.in);
      tile.rows = larger(0, smaller(axis.in, (p1 - 1) * axis.stride - axis.padding + reach) - tile.row0);
      tile.column0 = q0 * cross.stride - cross.padding;
      tile.length = columns + (cross.taps - 1) * cross.dilation / cross.stride;
    }
    const float* x = plan.x + plane * axis.in * cross.in;
    const int64_t image = plane / plan.c;
    for (int64_t m = 0; m < plan.multiplier; ++m) {
      const int64_t k = (plane - image * plan.c) * plan.multiplier + m;
      float* y = plan.y + (image * plan.k + k) * axis.out * cross.out;
      plane_outputs<V, Narrow>(plan, tile, x, k, y, p0, p1, q0, columns);
    }
  }
}

// ---- NHWC: vectors along C, blocks of up to 7 outputs along W ----

// What one output row needs from one panel.
template <class V>
struct PanelRow {
  const float* x;  // the panel's channels in column 0 of the first existing input row
  const float* w;  // the filter row that meets it
  const float* bias;
  float* y;
  int64_t taps;  // filter rows that meet an existing input row
  int channels;  // outputs of this panel: V::kWidth, or fewer in the last one
  typename V::Spread spread;
};

template <class V, int B, bool kSpread, int J, bool kChecked>
CONVBOUND_INLINE void pixel_taps(typename V::Reg (&acc)[B][1], const DepthwisePlan& plan, const TapChunk& chunk,
                                 const PanelRow<V>& row, int64_t first) {
  const int64_t x_row = plan.cross.dilation * plan.window.in * plan.c;
  const int64_t w_row = plan.window.taps * V::kWidth;
  const int64_t tap_step = plan.window.tap_step * V::kWidth;
  const float* taps = row.w + chunk.tap * V::kWidth;
  Strip strip{row.x, first + chunk.start, plan.window.step, plan.c, plan.window.in};
  for (int64_t r = 0; r < row.taps; ++r, strip.origin += x_row, taps += w_row) {
    typename V::Reg tap[J];
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j) tap[j] = V::load(taps + j * tap_step);
    slide<V, B, 1, J, kChecked>(acc, tap, strip, [&](const float* x, int) {
      if constexpr (kSpread) return V::load_spread(x, row.spread);
      return V::load(x);
    });
  }
}

template <class V, int B, bool kSpread, int J>
CONVBOUND_INLINE void pixel_chunk(typename V::Reg (&acc)[B][1], const DepthwisePlan& plan, const TapChunk& chunk,
                                  const PanelRow<V>& row, int64_t first) {
  if (inside<B>(plan.window, chunk, first, plan.window.in)) {
    pixel_taps<V, B, kSpread, J, false>(acc, plan, chunk, row, first);
  } else {
    pixel_taps<V, B, kSpread, J, true>(acc, plan, chunk, row, first);
  }
}

// B outputs (out_step apart) of one panel from column q on.
template <class V, int B, bool kSpread, int J0, int J1>
static void pixel_block(const DepthwisePlan& plan, const TapPass& pass, const PanelRow<V>& row, int64_t q) {
  const int64_t first = q * plan.window.stride - plan.window.padding;
  const int64_t y_step = plan.window.out_step * plan.k;
  float* y = row.y + q * plan.k;
  typename V::Reg acc[B][1];
#pragma GCC unroll 8
  for (int b = 0; b < B; ++b) {
    if (&pass == plan.window.passes) {
      acc[b][0] = V::load(row.bias);
    } else {
      acc[b][0] = V::load_mask(y + b * y_step, V::mask(0, row.channels));
    }
  }
  pixel_chunk<V, B, kSpread, J0>(acc, plan, pass.chunk[0], row, first);
  if constexpr (J1 > 0) pixel_chunk<V, B, kSpread, J1>(acc, plan, pass.chunk[1], row, first);
#pragma GCC unroll 8
  for (int b = 0; b < B; ++b, y += y_step) {
    if (!kSpread || row.channels == V::kWidth) {
      V::store(y, acc[b][0]);
    } else {
      V::store_first(y, acc[b][0], row.channels);
    }
  }
}

template <class V>
using PixelBlock = void (*)(const DepthwisePlan&, const TapPass&, const PanelRow<V>&, int64_t);

// [spread][block]
template <class V, int P>
struct PixelTable {
  static constexpr int kFirst = kTapPatterns[P].first, kSecond = kTapPatterns[P].second;
  static constexpr PixelBlock<V> kEntries[2][4] = {
      {pixel_block<V, 7, false, kFirst, kSecond>, pixel_block<V, 4, false, kFirst, kSecond>,
       pixel_block<V, 2, false, kFirst, kSecond>, pixel_block<V, 1, false, kFirst, kSecond>},
      {pixel_block<V, 7, true, kFirst, kSecond>, pixel_block<V, 4, true, kFirst, kSecond>,
       pixel_block<V, 2, true, kFirst, kSecond>, pixel_block<V, 1, true, kFirst, kSecond>}};
};

template <class V>
CONVBOUND_INLINE PixelBlock<V> find_pixel_block(int pattern, bool spread, int block) {
  static constexpr const PixelBlock<V>(*kTable[kTapPatternCount])[4] = {
      PixelTable<V, 0>::kEntries, PixelTable<V, 1>::kEntries, PixelTable<V, 2>::kEntries,
      PixelTable<V, 3>::kEntries, PixelTable<V, 4>::kEntries, PixelTable<V, 5>::kEntries,
      PixelTable<V, 6>::kEntries, PixelTable<V, 7>::kEntries, PixelTable<V, 8>::kEntries};
  return kTable[pattern][spread][block];
}

// One output row (image, p) of panels [panel, panel_end).
template <class V>
static void output_row(const DepthwisePlan& plan, int64_t image, int64_t p, int64_t panel, int64_t panel_end) {
  const WindowAxis& axis = plan.window;
  const CrossAxis& cross = plan.cross;
  const int64_t h = p * cross.stride - cross.padding;
  const int64_t r_begin = h >= 0 ? 0 : smaller(cross.taps, ceil_div(-h, cross.dilation));
  const int64_t r_end = smaller(cross.taps, larger(r_begin, ceil_div(larger(0, cross.in - h), cross.dilation)));
  const int64_t h_begin = r_end > r_begin ? h + r_begin * cross.dilation : 0;
  const float* x = plan.x + (image * cross.in + h_begin) * axis.in * plan.c;
  float* y = plan.y + (image * cross.out + p) * axis.out * plan.k;
  const int64_t panel_floats = (cross.taps * axis.taps + 1) * V::kWidth;
  for (int64_t q_first = 0; q_first < smaller(axis.out_step, axis.out); ++q_first) {
    for (int64_t q = q_first; q < axis.out;) {
      const int index = block_index(ceil_div(axis.out - q, axis.out_step));
      for (int64_t i = panel; i < panel_end; ++i) {
        const int64_t k = i * V::kWidth;
        const float* w = plan.w + i * panel_floats;
        PanelRow<V> row;
        row.w = w + r_begin * axis.taps * V::kWidth;
        row.bias = w + panel_floats - V::kWidth;
        row.y = y + k;
        row.taps = r_end - r_begin;
        row.channels = static_cast<int>(smaller(V::kWidth, plan.k - k));
        const bool spread = plan.multiplier > 1 || row.channels < V::kWidth;
        if (spread) {
          row.x = x + k / plan.multiplier;
          row.spread = V::spread(k % plan.multiplier, plan.multiplier, row.channels);
        } else {
          row.x = x + k;
        }
        for (int64_t j = 0; j < axis.pass_count; ++j) {
          find_pixel_block<V>(axis.passes[j].pattern, spread, index)(plan, axis.passes[j], row, q);
        }
      }
      q += kBlocks[index] * axis.out_step;
    }
  }
}

template <class V>
static void depthwise_nhwc(const DepthwisePlan& plan, int64_t begin, int64_t end, float*) {
  for (int64_t item = begin; item < end; ++item) {
    const int64_t p = item % plan.cross.out;
    const int64_t group = item / plan.cross.out % plan.groups;
    const int64_t image = item / plan.cross.out / plan.groups;
    output_row<V>(plan, image, p, group * plan.group, smaller(plan.panels, (group + 1) * plan.group));
  }
}

}  // namespace
}  // namespace convbound::cpu
