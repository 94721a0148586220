// Depthwise fprop in NHWC: vectors along C, blocks of up to 7 outputs along W. See depthwise_fprop.cpp.
#pragma once

#include "depthwise_fprop_simd.h"

namespace convbound::cpu {
namespace {

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

// Where x goes on after the operands of a block: in the next output row's last input rows, or along the only row there
// is.
CONVBOUND_INLINE void prefetch_pixels(const DepthwisePlan& plan, int64_t image, int64_t h, int64_t first,
                                      int64_t block) {
  const WindowAxis& axis = plan.window;
  const CrossAxis& cross = plan.cross;
  const int64_t count = smaller(block * axis.step, axis.in) * plan.c;
  if (cross.out == 1) {
    const int64_t column = first + (axis.taps - 1) * axis.dilation + 1 + (block - 1) * axis.step;
    prefetch(plan, (image * cross.in * axis.in + column) * plan.c, count);
  }
  for (int64_t r = 1; r <= cross.stride && cross.out > 1; ++r) {
    const int64_t row = image * cross.in + h + (cross.taps - 1) * cross.dilation + r;
    prefetch(plan, (row * axis.in + larger(0, first)) * plan.c, count);
  }
}

template <class V>
static void depthwise_nhwc(const DepthwisePlan& plan, int64_t begin, int64_t end, float* stage) {
  const WindowAxis& axis = plan.window;
  const CrossAxis& cross = plan.cross;
  const bool staged = plan.stage_floats > 0;
  Stream<V> stream{};
  for (int64_t item = begin; item < end; ++item) {
    const int64_t p = item / plan.column_tiles;  // over images and output rows
    const int64_t q0 = item % plan.column_tiles * plan.tile_q;
    const int64_t q1 = smaller(q0 + plan.tile_q, axis.out);
    const int64_t image = p / cross.out;
    const int64_t h = p % cross.out * cross.stride - cross.padding;
    const int64_t r_begin = h >= 0 ? 0 : smaller(cross.taps, ceil_div(-h, cross.dilation));
    const int64_t r_end = smaller(cross.taps, larger(r_begin, ceil_div(larger(0, cross.in - h), cross.dilation)));
    const int64_t h_begin = r_end > r_begin ? h + r_begin * cross.dilation : 0;
    const PixelRow row{plan.x + (image * cross.in + h_begin) * axis.in * plan.c, r_begin, r_end - r_begin};
    float* y = plan.y + p * axis.out * plan.k;
    if (staged && item == begin) stream = Stream<V>::begin(stage, y + q0 * plan.k);
    for (int64_t q_first = q0; q_first < smaller(q0 + axis.out_step, q1); ++q_first) {
      for (int64_t q = q_first; q < q1;) {
        const int index = block_index(ceil_div(q1 - q, axis.out_step));
        const int64_t first = q * axis.stride - axis.padding;
        if (q_first == q0) prefetch_pixels(plan, image, h, first, kBlocks[index]);
        if (!staged) {
          block_panels<V>(plan, row, index, first, y + q * plan.k);
        } else if (axis.out_step == 1) {
          block_panels<V>(plan, row, index, first, stream.stage + stream.held);
          Stream<V>::push(stream, kBlocks[index] * plan.k);
        } else {
          block_panels<V>(plan, row, index, first, stream.stage + stream.held + (q - q0) * plan.k);
        }
        q += kBlocks[index] * axis.out_step;
      }
    }
    if (staged && axis.out_step > 1) Stream<V>::push(stream, (q1 - q0) * plan.k);
  }
  if (staged) Stream<V>::end(stream);
}

}  // namespace
}  // namespace convbound::cpu
