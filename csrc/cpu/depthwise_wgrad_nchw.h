// Depthwise wgrad in NCHW: vectors along W, blocks of up to 7 rows. See depthwise_wgrad.cpp.
#pragma once

#include "depthwise_rows.h"
#include "depthwise_wgrad_simd.h"

namespace convbound::cpu {
namespace {

// One vector of B rows (out_step apart), of whose outputs `left` are left in a row.
template <class V, int kStride, int B, int C, int J0, int J1, bool kChecked>
CONVBOUND_INLINE void add_vector(TapSums<V, C, J0, J1>& sums, const WgradPlan& plan, const WgradStep& step,
                                 const Strip& strip, const float* from, int64_t left, int64_t column) {
  const PlainAxis& cross = plan.across;
  const typename V::Mask inside_dy = V::mask(0, left);
  typename V::Reg dy[B];
#pragma GCC unroll 8
  for (int b = 0; b < B; ++b, from += plan.window.out_step * plan.dy_row) {
    dy[b] = kStride == kWhole ? V::load(from) : V::load_mask(from, inside_dy);
  }
#pragma GCC unroll 4
  for (int c = 0; c < C; ++c, column += cross.dilation) {
    // Lanes beyond the row are masked in x too, for what stands there might be infinite.
    const int64_t limit = larger(0, smaller(cross.in, column + (left - 1) * cross.stride + 1));
    const RowLoad<V, kStride> load = RowLoad<V, kStride>::make(column, cross.stride, limit);
    slide_pass<V, B, J0, J1, kChecked>(sums.acc[c], dy, strip, *step.pass, column,
                                       [&](const float* x) { return RowLoad<V, kStride>::load(load, x); });
  }
}

// B rows from row p on.
template <class V, int kStride, int B, int C, int J0, int J1, bool kChecked>
CONVBOUND_INLINE void add_strip(TapSums<V, C, J0, J1>& sums, const WgradPlan& plan, const WgradStep& step,
                                const WgradTile& tile, const Strip& strip, int64_t p) {
  const PlainAxis& cross = plan.across;
  for (int64_t q = tile.q0; q < tile.q1; q += V::kWidth) {
    const int64_t left = tile.q1 - q;
    const float* from = tile.dy + p * plan.dy_row + q;
    const int64_t column = q * cross.stride - cross.padding + step.cross_tap * cross.dilation;
    // Only where masks would serve a single row is a version without them worth its code.
    if (B == 1 && kStride == 1 && left >= V::kWidth && column >= 0 &&
        column + (C - 1) * cross.dilation + V::kWidth <= cross.in) {
      constexpr int kLoads = B == 1 && kStride == 1 ? kWhole : kStride;
      add_vector<V, kLoads, B, C, J0, J1, kChecked>(sums, plan, step, strip, from, left, column);
    } else {
      add_vector<V, kStride, B, C, J0, J1, kChecked>(sums, plan, step, strip, from, left, column);
    }
  }
}

template <class V, int kStride, int B, int C, int J0, int J1>
CONVBOUND_INLINE void add_rows(TapSums<V, C, J0, J1>& sums, const WgradPlan& plan, const WgradStep& step,
                               const WgradTile& tile, int64_t p) {
  const PlainAxis& axis = plan.along;
  const Strip strip{tile.x, p * axis.stride - axis.padding, plan.window.step, plan.x_row, axis.in};
  if (step.prefetch) {
    const int64_t rows = B * axis.stride;
    prefetch(tile.x + (strip.first + plan.window.span + rows) * plan.x_row, rows * plan.x_row);
    prefetch(tile.dy + (p + 2 * B) * plan.dy_row, B * plan.dy_row);
  }
  // Only the usual blocks spend code on a version without checks.
  constexpr bool kUsual = kStride == 1 && B > 1;
  if (kUsual && pass_inside<B, J1>(*step.pass, strip)) {
    add_strip<V, kStride, B, C, J0, J1, !kUsual>(sums, plan, step, tile, strip, p);
  } else {
    add_strip<V, kStride, B, C, J0, J1, true>(sums, plan, step, tile, strip, p);
  }
}

template <class V, int kStride, int C, int J0, int J1>
static void sweep_rows(const WgradPlan& plan, const WgradStep& step, float* memory) {
  constexpr int B = wgrad_block<V>(C * (J0 + J1));
  const int64_t out_step = plan.window.out_step;
  TapSums<V, C, J0, J1> sums;
  sums.begin(sums, plan, step, memory);
  for (int64_t i = 0; i < step.tile_count; ++i) {
    const WgradTile& tile = step.tiles[i];
    for (int64_t p_first = tile.p0; p_first < smaller(tile.p0 + out_step, tile.p1); ++p_first) {
      int64_t p = p_first;
      for (; p + (B - 1) * out_step < tile.p1; p += B * out_step) {
        add_rows<V, kStride, B, C, J0, J1>(sums, plan, step, tile, p);
      }
      for (; p < tile.p1; p += out_step) add_rows<V, kStride, 1, C, J0, J1>(sums, plan, step, tile, p);
    }
  }
  sums.end(sums, plan, step, memory);
}

template <class V, int kStride>
struct MakeRows {
  template <int C, int J0, int J1>
  static constexpr WgradSweep make() {
    if constexpr (kStride == 0 && C > 1) {
      return nullptr;  // gathers are so slow that it makes no difference
    } else {
      return sweep_rows<V, kStride, C, J0, J1>;
    }
  }
};

template <class V>
static void wgrad_nchw(const WgradPlan& plan, const WgradStep& step, float* sums) {
  const WgradSweep sweep = plan.across.stride == 1   ? find_sweep<MakeRows<V, 1>>(step)
                           : plan.across.stride == 2 ? find_sweep<MakeRows<V, 2>>(step)
                                                     : find_sweep<MakeRows<V, 0>>(step);
  sweep(plan, step, sums);
}

template <class V>
static void wgrad_nchw_bias(const WgradPlan& plan, const WgradStep& step, float* sums) {
  typename V::Reg acc = step.fresh ? V::zero() : V::load(sums);
  for (int64_t i = 0; i < step.tile_count; ++i) {
    const WgradTile& tile = step.tiles[i];
    for (int64_t q = tile.q0; q < tile.q1; q += V::kWidth) {
      const typename V::Mask mask = V::mask(0, tile.q1 - q);
      for (int64_t p = tile.p0; p < tile.p1; ++p) acc = V::add(acc, V::load_mask(tile.dy + p * plan.dy_row + q, mask));
    }
  }
  V::store(sums, acc);
}

template <class V>
static void add_lanes(const float* sums, int64_t rows, float* totals) {
  for (int64_t i = 0; i < rows; ++i) totals[i] = V::sum(V::load(sums + i * V::kWidth));
}

}  // namespace
}  // namespace convbound::cpu
