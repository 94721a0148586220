// Depthwise wgrad in NHWC: vectors along C, blocks of up to 7 pixels along W. See depthwise_wgrad.cpp.
#pragma once

#include "depthwise_wgrad_simd.h"

namespace convbound::cpu {
namespace {

// How one panel is loaded. kSpread: channels repeat, or the panel is not full.
template <class V, bool kSpread>
struct PanelLoad;

template <class V>
struct PanelLoad<V, false> {
  CONVBOUND_INLINE PanelLoad make(const WgradPlan&, int64_t) { return {}; }
  CONVBOUND_INLINE typename V::Reg x(const PanelLoad&, const float* p) { return V::load(p); }
  CONVBOUND_INLINE typename V::Reg dy(const PanelLoad&, const float* p) { return V::load(p); }
};

template <class V>
struct PanelLoad<V, true> {
  typename V::Spread spread;
  typename V::Mask mask;
  CONVBOUND_INLINE PanelLoad make(const WgradPlan& plan, int64_t panel) {
    const int channels = static_cast<int>(smaller(V::kWidth, plan.k - panel * V::kWidth));
    return {V::spread(reinterpret_cast<const float*>(plan.sources + panel * V::kWidth), channels),
            V::mask(0, channels)};
  }
  CONVBOUND_INLINE typename V::Reg x(const PanelLoad& self, const float* p) { return V::load_spread(p, self.spread); }
  CONVBOUND_INLINE typename V::Reg dy(const PanelLoad& self, const float* p) { return V::load_mask(p, self.mask); }
};

// One output row of one panel.
template <int C>
struct SweptRows {
  const float* next_x;   // of the next tiles, if they are to be asked for: where the outputs' first inputs are,
  const float* next_dy;  // and column 0 of dy
  const float* dy;
  const float* x[C];  // column 0 of the row that each tap across the window meets; null where there is none
};

// Inputs along an axis that an output meets and the one before it did not.
CONVBOUND_INLINE int64_t fresh_inputs(const PlainAxis& axis) {
  return smaller(axis.stride, (axis.taps - 1) * axis.dilation + 1);
}

// The sweeps touch one vector of each pixel at a time, which hardware prefetchers take for disorder. In memory the next
// tiles follow these, so that as many lines of theirs are asked for as are used.
template <int B>
CONVBOUND_INLINE void prefetch_pixels(const WgradPlan& plan, const float* x, const float* dy, int64_t q) {
  const PlainAxis& along = plan.along;
  const int64_t rows = fresh_inputs(plan.across), columns = fresh_inputs(along);
  for (int b = 0; b < B; ++b, q += plan.window.out_step) {
    __builtin_prefetch(dy + q * plan.dy_unit, 0, 2);  // to the second level; never faults, wherever it points
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t s = 0; s < columns; ++s) {
        __builtin_prefetch(x + r * plan.x_row + (q * along.stride + s) * plan.x_unit, 0, 2);
      }
    }
  }
}

// B pixels from column q on, out_step apart.
template <class V, bool kSpread, int B, int C, int J0, int J1, bool kChecked>
CONVBOUND_INLINE void add_block(TapSums<V, C, J0, J1>& sums, const WgradPlan& plan, const TapPass& pass,
                                const PanelLoad<V, kSpread>& load, const SweptRows<C>& rows, Strip strip, int64_t q) {
  typename V::Reg dy[B];
#pragma GCC unroll 8
  for (int b = 0; b < B; ++b) dy[b] = load.dy(load, rows.dy + (q + b * plan.window.out_step) * plan.dy_unit);
#pragma GCC unroll 4
  for (int c = 0; c < C; ++c) {
    if (rows.x[c] == nullptr) continue;
    strip.origin = rows.x[c];
    slide_pass<V, B, J0, J1, kChecked>(sums.acc[c], dy, strip, pass, 0,
                                       [&](const float* x) { return load.x(load, x); });
  }
}

template <class V, bool kSpread, int B, int C, int J0, int J1>
CONVBOUND_INLINE void add_pixels(TapSums<V, C, J0, J1>& sums, const WgradPlan& plan, const TapPass& pass,
                                 const PanelLoad<V, kSpread>& load, const SweptRows<C>& rows, int64_t q) {
  const PlainAxis& axis = plan.along;
  const Strip strip{nullptr, q * axis.stride - axis.padding, plan.window.step, plan.x_unit, axis.in};
  if (rows.next_x != nullptr) prefetch_pixels<B>(plan, rows.next_x, rows.next_dy, q);
  if (B > 1 && pass_inside<B, J1>(pass, strip)) {
    add_block<V, kSpread, B, C, J0, J1, B == 1>(sums, plan, pass, load, rows, strip, q);
  } else {
    add_block<V, kSpread, B, C, J0, J1, true>(sums, plan, pass, load, rows, strip, q);
  }
}

template <class V, bool kSpread, int C, int J0, int J1>
static void sweep_pixels(const WgradPlan& plan, const WgradStep& step, float* memory) {
  constexpr int B = wgrad_block<V>(C * (J0 + J1));
  const PlainAxis& cross = plan.across;
  const int64_t out_step = plan.window.out_step;
  for (int64_t panel = step.panel; panel < step.panel_end; ++panel) {
    const PanelLoad<V, kSpread> load = PanelLoad<V, kSpread>::make(plan, panel);
    const int64_t slab = panel / plan.slab_panels * plan.slab_panels;
    const int64_t k = panel * V::kWidth;
    const int64_t k_offset = k - slab * V::kWidth;
    const int64_t c_offset = k / plan.multiplier - slab * V::kWidth / plan.multiplier;
    const bool ask = step.prefetch && k % kLine == 0;
    float* panel_sums = memory + (panel - slab) * plan.sum_rows * V::kWidth;
    TapSums<V, C, J0, J1> sums;
    sums.begin(sums, plan, step, panel_sums);
    for (int64_t i = 0; i < step.tile_count; ++i) {
      const WgradTile& tile = step.tiles[i];
      for (int64_t p = tile.p0; p < tile.p1; ++p) {
        SweptRows<C> rows;
        rows.dy = tile.dy + p * plan.dy_row + k_offset;
        rows.next_dy = rows.dy + step.tile_count * plan.dy_ahead;
        rows.next_x =
            ask ? tile.x + p * cross.stride * plan.x_row + c_offset + step.tile_count * plan.x_ahead : nullptr;
        for (int c = 0; c < C; ++c) {
          const int64_t h = p * cross.stride - cross.padding + (step.cross_tap + c) * cross.dilation;
          rows.x[c] = h >= 0 && h < cross.in ? tile.x + h * plan.x_row + c_offset : nullptr;
        }
        for (int64_t q_first = tile.q0; q_first < smaller(tile.q0 + out_step, tile.q1); ++q_first) {
          int64_t q = q_first;
          for (; q + (B - 1) * out_step < tile.q1; q += B * out_step) {
            add_pixels<V, kSpread, B>(sums, plan, *step.pass, load, rows, q);
          }
          for (; q < tile.q1; q += out_step) add_pixels<V, kSpread, 1>(sums, plan, *step.pass, load, rows, q);
        }
      }
    }
    sums.end(sums, plan, step, panel_sums);
  }
}

template <class V, bool kSpread>
struct MakePixels {
  template <int C, int J0, int J1>
  static constexpr WgradSweep make() {
    return sweep_pixels<V, kSpread, C, J0, J1>;
  }
};

template <class V>
static void wgrad_nhwc(const WgradPlan& plan, const WgradStep& step, float* sums) {
  const int64_t full = plan.multiplier == 1 ? plan.k / V::kWidth : 0;
  WgradStep part = step;
  part.panel_end = smaller(step.panel_end, full);
  if (part.panel < part.panel_end) find_sweep<MakePixels<V, false>>(step)(plan, part, sums);
  part.panel = larger(step.panel, full);
  part.panel_end = step.panel_end;
  if (part.panel < part.panel_end) find_sweep<MakePixels<V, true>>(step)(plan, part, sums);
}

template <class V>
static void wgrad_nhwc_bias(const WgradPlan& plan, const WgradStep& step, float* sums) {
  for (int64_t panel = step.panel; panel < step.panel_end; ++panel) {
    const int64_t offset = panel % plan.slab_panels;
    float* row = sums + offset * plan.sum_rows * V::kWidth;
    const typename V::Mask mask = V::mask(0, plan.k - panel * V::kWidth);
    typename V::Reg acc = step.fresh ? V::zero() : V::load(row);
    for (int64_t i = 0; i < step.tile_count; ++i) {
      const WgradTile& tile = step.tiles[i];
      for (int64_t p = tile.p0; p < tile.p1; ++p) {
        const float* dy = tile.dy + p * plan.dy_row + offset * V::kWidth;
        for (int64_t q = tile.q0; q < tile.q1; ++q) acc = V::add(acc, V::load_mask(dy + q * plan.dy_unit, mask));
      }
    }
    V::store(row, acc);
  }
}

}  // namespace
}  // namespace convbound::cpu
