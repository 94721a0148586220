// Grouped wgrad over tiles in memory. grouped_wgrad.cpp has the overview.
#pragma once

#include "grouped_gather.h"

namespace convbound::cpu {
namespace {

// kTaps taps of kLanes channels of dy, summed over `stack` tiles of `vectors` vectors of positions.
template <class V, int kLanes, int kTaps>
static void wgrad_block(const GroupedWgradPlan& plan, const TapAt* taps, int64_t stack, int64_t vectors, const float* x,
                        const float* dy, bool fresh, float* to, Lines& lines) {
  typename V::Reg sum[kTaps][4];
#pragma GCC unroll 8
  for (int t = 0; t < kTaps; ++t) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) sum[t][k] = V::zero();
  }
  for (int64_t tile = 0; tile < stack; ++tile, x += plan.x_floats, dy += plan.dy_floats) {
    const float* at[kTaps];
#pragma GCC unroll 8
    for (int t = 0; t < kTaps; ++t) at[t] = x + taps[t].source;
    for (int64_t i = 0; i < vectors * V::kWidth; i += V::kWidth) {
      prefetch_some(lines);
      typename V::Reg gradient[kLanes];
#pragma GCC unroll 4
      for (int k = 0; k < kLanes; ++k) gradient[k] = V::load(dy + k * plan.dy_tile.plane + i);
#pragma GCC unroll 8
      for (int t = 0; t < kTaps; ++t) {
        const typename V::Reg value = V::load(at[t] + i);
#pragma GCC unroll 4
        for (int k = 0; k < kLanes; ++k) sum[t][k] = V::fma(value, gradient[k], sum[t][k]);
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTaps; ++t) {
    float total[4];
    Quad<V>::sums(sum[t], total);
    float* out = to + taps[t].w;
#pragma GCC unroll 4
    for (int k = 0; k < kLanes; ++k, out += plan.w_lane) *out = fresh ? total[k] : *out + total[k];
  }
}

using WgradBlock = void (*)(const GroupedWgradPlan&, const TapAt*, int64_t, int64_t, const float*, const float*, bool,
                            float*, Lines&);

// AVX-512: 24 sums, 4 gradients and a value; AVX2: 8, 4 and 1.
template <class V>
constexpr int kMostTaps = V::kRegisters == 32 ? 6 : 2;

template <class V, int kLanes>
CONVBOUND_INLINE WgradBlock wgrad_block_of(int64_t taps) {
  constexpr int kMost = kMostTaps<V>;
  static constexpr WgradBlock kBlocks[] = {wgrad_block<V, kLanes, 1>,
                                           wgrad_block<V, kLanes, 2>,
                                           wgrad_block<V, kLanes, (kMost < 3 ? kMost : 3)>,
                                           wgrad_block<V, kLanes, (kMost < 4 ? kMost : 4)>,
                                           wgrad_block<V, kLanes, (kMost < 5 ? kMost : 5)>,
                                           wgrad_block<V, kLanes, (kMost < 6 ? kMost : 6)>};
  return kBlocks[taps - 1];
}

template <class V>
CONVBOUND_INLINE WgradBlock wgrad_block_of(int64_t lanes, int64_t taps) {
  return lanes == 4   ? wgrad_block_of<V, 4>(taps)
         : lanes == 3 ? wgrad_block_of<V, 3>(taps)
         : lanes == 2 ? wgrad_block_of<V, 2>(taps)
                      : wgrad_block_of<V, 1>(taps);
}

template <class V>
static void add_bias_gradient(const GroupedWgradPlan& plan, int64_t channels, int64_t stack, int64_t vectors,
                              const float* dy, bool fresh, float* to) {
  for (int64_t k = 0; k < channels; ++k) {
    typename V::Reg sum = V::zero();
    for (int64_t tile = 0; tile < stack; ++tile) {
      const float* from = dy + tile * plan.dy_floats + k * plan.dy_tile.plane;
      for (int64_t i = 0; i < vectors * V::kWidth; i += V::kWidth) sum = V::add(sum, V::load(from + i));
    }
    to[k] = V::sum(sum) + (fresh ? 0.0f : to[k]);
  }
}

CONVBOUND_INLINE TileAt tile_at(const GroupedWgradPlan& plan, int64_t tile, int64_t bundle, bool dy) {
  const int64_t plane = tile / plan.column_tiles / plan.row_tiles, out = plan.dy_tile.depth.out;
  TileAt at{};
  at.image = plane / out;
  at.depth = plane % out;
  at.row = tile / plan.column_tiles % plan.row_tiles * plan.x_tile.rows;
  at.column = tile % plan.column_tiles * plan.x_tile.columns;
  at.rows = smaller(plan.x_tile.rows, plan.dy_tile.height.out - at.row);
  at.columns = smaller(plan.x_tile.columns, plan.dy_tile.width.out - at.column);
  at.group = bundle * plan.bundle;
  at.groups = smaller(plan.bundle, plan.groups - at.group);
  at.channel = at.group * (dy ? plan.k_fan : plan.c_fan);
  at.channels = at.groups * (dy ? plan.k_fan : plan.c_fan);
  return at;
}

// Tiles [tile, end) of one bundle, x and dy in turn, are fetched while another stack is summed.
struct StackAhead {
  int64_t tile, end, bundle;
  bool dy;
};

template <bool kNhwc>
CONVBOUND_INLINE void plan_lines(const GroupedWgradPlan& plan, int64_t element, StackAhead& ahead, Lines& lines) {
  if (lines.next < lines.count || ahead.tile == ahead.end) return;
  lines.next = lines.count = 0;
  const TileAt at = tile_at(plan, ahead.tile, ahead.bundle, ahead.dy);
  add_lines(source_part(ahead.dy ? plan.dy_tile : plan.x_tile, ahead.dy ? plan.dy : plan.x, at), kNhwc, element, 0,
            lines);
  ahead.tile += ahead.dy;
  ahead.dy = !ahead.dy;
}

template <class V, class E, bool kNhwc>
static void grouped_wgrad_item(const GroupedWgradPlan& plan, int64_t chunk, int64_t bundle, float* memory,
                               float* sums) {
  constexpr int64_t kElement = sizeof(typename E::Type);
  float* const x = memory;
  float* const dy = memory + plan.stack * plan.x_floats;
  const int64_t vectors = ceil_div(plan.dy_tile.positions, V::kWidth);
  const int64_t lane_blocks = ceil_div(plan.k_fan, kMostLanes), tap_blocks = ceil_div(plan.tap_count, kMostTaps<V>);
  const int64_t first = plan.tiles * chunk / plan.chunks, last = plan.tiles * (chunk + 1) / plan.chunks;
  const TileAt item = tile_at(plan, first, bundle, true);
  Lines lines;
  lines.next = lines.count = 0;
  lines.rate = 1;
  for (int64_t begin = first; begin < last; begin += plan.stack) {
    const int64_t stack = smaller(plan.stack, last - begin);
    const bool fresh = begin == first;
    for (int64_t i = 0; i < stack; ++i) {
      read_tile<V, E, kNhwc>(plan.x_tile, plan.x, tile_at(plan, begin + i, bundle, false), x + i * plan.x_floats);
      read_tile<V, E, kNhwc>(plan.dy_tile, plan.dy, tile_at(plan, begin + i, bundle, true), dy + i * plan.dy_floats);
    }
    // The next stack, or the next bundle's first.
    const bool more = begin + stack < last;
    const int64_t from = more ? begin + stack : first;
    StackAhead ahead{from, smaller(from + plan.stack, last), more ? bundle : bundle + 1, false};
    if (ahead.bundle == plan.bundles) ahead.tile = ahead.end;
    for (int64_t g = 0; g < item.groups; ++g) {
      const float* group_x = x + g * plan.c_fan * plan.x_tile.planes * plan.x_tile.plane;
      const float* group_dy = dy + g * plan.k_fan * plan.dy_tile.plane;
      for (int64_t i = 0; i < lane_blocks; ++i) {
        const int64_t k = plan.k_fan * i / lane_blocks, lanes = plan.k_fan * (i + 1) / lane_blocks - k;
        float* to = sums + (item.group + g) * plan.w_group + k * plan.w_lane;
        for (int64_t j = 0; j < tap_blocks; ++j) {
          const int64_t tap = plan.tap_count * j / tap_blocks, taps = plan.tap_count * (j + 1) / tap_blocks - tap;
          plan_lines<kNhwc>(plan, kElement, ahead, lines);
          wgrad_block_of<V>(lanes, taps)(plan, plan.taps + tap, stack, vectors, group_x,
                                         group_dy + k * plan.dy_tile.plane, fresh, to, lines);
        }
      }
    }
    if (plan.bias) {
      add_bias_gradient<V>(plan, item.channels, stack, vectors, dy, fresh, sums + plan.w_floats + item.channel);
    }
  }
}

template <class V>
constexpr GroupedKernels make_grouped_kernels() {
  using F = Fp32Element<V>;
  using H = HalfElement<V, Fp16<V>>;
  using B = HalfElement<V, Bf16<V>>;
  return {V::kWidth,
          {grouped_gather<V, F, false>, grouped_gather<V, H, false>, grouped_gather<V, B, false>},
          {grouped_gather<V, F, true>, grouped_gather<V, H, true>, grouped_gather<V, B, true>},
          {grouped_wgrad_item<V, F, false>, grouped_wgrad_item<V, H, false>, grouped_wgrad_item<V, B, false>},
          {grouped_wgrad_item<V, F, true>, grouped_wgrad_item<V, H, true>, grouped_wgrad_item<V, B, true>}};
}

}  // namespace
}  // namespace convbound::cpu
