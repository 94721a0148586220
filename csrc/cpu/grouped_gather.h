// Grouped fprop and dgrad over a tile in memory. grouped_gather.cpp has the overview.
#pragma once

#include "grouped_prefetch.h"
#include "grouped_read.h"
#include "grouped_write.h"

namespace convbound::cpu {
namespace {

constexpr int kMostLanes = 4;  // target channels of a block

// Where the results of a block go: to a tile of their own, or, packed, to `total` consecutive values of the target.
struct GatherOut {
  float* to;
  int64_t lane;          // floats from channel to channel
  const RowLanes* pack;  // of the block's first vector
  int64_t total;
};

template <class V>
CONVBOUND_INLINE void store_result(const GatherOut& out, int lane, int vector, typename V::Reg v) {
  float* to = out.to + lane * out.lane;
  if constexpr (Quad<V>::kPacks) {
    if (out.pack != nullptr) {
      const RowLanes& row = out.pack[vector];
      to += row.before;
      // Lanes beyond the packed ones are overwritten by the next vector.
      if (row.before + V::kWidth <= out.total) {
        V::store(to, Quad<V>::pack(v, row.mask));
      } else if (row.before < out.total) {
        V::store_first(to, Quad<V>::pack(v, row.mask), static_cast<int>(out.total - row.before));
      }
      return;
    }
  }
  V::store(to + vector * V::kWidth, v);
}

// kLanes channels x kVectors vectors of consecutive positions.
template <class V, int kLanes, int kVectors>
static void gather_block(const TapList& list, const float* source, const float* w, int64_t w_lane, const float* bias,
                         const GatherOut& out, Lines& lines) {
  typename V::Reg sum[kLanes][kVectors];
#pragma GCC unroll 8
  for (int k = 0; k < kLanes; ++k) {
    const typename V::Reg first = bias == nullptr ? V::zero() : V::broadcast(bias + k);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[k][v] = first;
  }
  const TapAt* const end = list.taps + list.count;
  for (const TapAt* tap = list.taps; tap != end; ++tap) {
    prefetch_some(lines);
    const float* x = source + tap->source;
    const float* f = w + tap->w;
    typename V::Reg value[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) value[v] = V::load(x + v * V::kWidth);
#pragma GCC unroll 8
    for (int k = 0; k < kLanes; ++k) {
      const typename V::Reg factor = V::broadcast(f + k * w_lane);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[k][v] = V::fma(factor, value[v], sum[k][v]);
    }
  }
#pragma GCC unroll 8
  for (int k = 0; k < kLanes; ++k) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) store_result<V>(out, k, v, sum[k][v]);
  }
}

using GatherBlock = void (*)(const TapList&, const float*, const float*, int64_t, const float*, const GatherOut&,
                             Lines&);

// AVX-512: 24 sums, 6 values and a factor; AVX2: 12, 3 and 1.
template <class V>
constexpr int kMostVectors = V::kRegisters == 32 ? 6 : 3;

template <class V, int kLanes>
CONVBOUND_INLINE GatherBlock gather_block_of(int64_t vectors) {
  constexpr int kMost = kMostVectors<V>;
  static constexpr GatherBlock kBlocks[] = {gather_block<V, kLanes, 1>,
                                            gather_block<V, kLanes, 2>,
                                            gather_block<V, kLanes, 3>,
                                            gather_block<V, kLanes, (kMost < 4 ? kMost : 4)>,
                                            gather_block<V, kLanes, (kMost < 5 ? kMost : 5)>,
                                            gather_block<V, kLanes, (kMost < 6 ? kMost : 6)>};
  return kBlocks[vectors - 1];
}

template <class V>
CONVBOUND_INLINE GatherBlock gather_block_of(int64_t lanes, int64_t vectors) {
  return lanes == 4   ? gather_block_of<V, 4>(vectors)
         : lanes == 3 ? gather_block_of<V, 3>(vectors)
         : lanes == 2 ? gather_block_of<V, 2>(vectors)
                      : gather_block_of<V, 1>(vectors);
}

// All positions of one class, for `lanes` target channels.
template <class V>
static void gather_class(const GroupedPlan& plan, const TapList& list, int64_t positions, const float* source,
                         const float* w, const float* bias, int64_t lanes, GatherOut out, Lines& lines) {
  const int64_t vectors = ceil_div(positions, V::kWidth), blocks = ceil_div(vectors, kMostVectors<V>);
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t begin = vectors * i / blocks, end = vectors * (i + 1) / blocks;
    gather_block_of<V>(lanes, end - begin)(list, source + begin * V::kWidth, w, plan.w_lane, bias, out, lines);
    if (out.pack != nullptr) {
      out.pack += end - begin;
    } else {
      out.to += (end - begin) * V::kWidth;
    }
  }
}

// The order of items is that of the target: groups come before positions in NCHW, after them in NHWC.
template <bool kNhwc>
CONVBOUND_INLINE TileAt item_at(const GroupedPlan& plan, int64_t item) {
  const TilePlan& tile = plan.tile;
  const int64_t bundles = kNhwc ? plan.bundles : 1, plane_bundles = kNhwc ? 1 : plan.bundles;
  const int64_t depth_steps = ceil_div(tile.depth.out, tile.depth.out_step);
  TileAt at{};
  int64_t bundle = item % bundles;
  item /= bundles;
  at.column = item % plan.column_tiles * tile.columns;
  item /= plan.column_tiles;
  at.row = item % plan.row_tiles * tile.rows;
  item /= plan.row_tiles;
  at.depth = item % depth_steps;
  item /= depth_steps;
  bundle += item % plane_bundles;
  at.image = item / plane_bundles;
  at.rows = smaller(tile.rows, ceil_div(tile.height.out, tile.height.out_step) - at.row);
  at.columns = smaller(tile.columns, ceil_div(tile.width.out, tile.width.out_step) - at.column);
  at.group = bundle * plan.bundle;
  at.groups = smaller(plan.bundle, plan.groups - at.group);
  at.channel = at.group * plan.in_fan;
  at.channels = at.groups * plan.in_fan;
  return at;
}

// The part of the source that a tile reads: of its last plane along D only, the others were read before.
CONVBOUND_INLINE Part source_part(const TilePlan& tile, const void* tensor, const TileAt& at) {
  const TileAxis &depth = tile.depth, &height = tile.height, &width = tile.width;
  const int64_t row = height.in_step * (at.row + height.low), column = width.in_step * (at.column + width.low);
  return {tensor,
          tile.channels,
          depth.in,
          height.in,
          width.in,
          at.image,
          at.channel,
          at.channels,
          depth.in_step * (at.depth + depth.low + depth.reach),
          larger(row, 0),
          smaller(row + height.in_step * (at.rows + height.reach), height.in),
          larger(column, 0),
          smaller(column + width.in_step * (at.columns + width.reach), width.in)};
}

CONVBOUND_INLINE Part target_part(const GroupedPlan& plan, const TileAt& at) {
  const TileAxis &depth = plan.tile.depth, &height = plan.tile.height, &width = plan.tile.width;
  const int64_t row = height.out_step * at.row, column = width.out_step * at.column;
  return {plan.target,
          plan.groups * plan.out_fan,
          depth.out,
          height.out,
          width.out,
          at.image,
          at.group * plan.out_fan,
          at.groups * plan.out_fan,
          at.depth * depth.out_step,
          row,
          smaller(row + height.out_step * at.rows, height.out),
          column,
          smaller(column + width.out_step * at.columns, width.out)};
}

// While an item is computed, the lines that its results go to are fetched, and the next item's source.
template <bool kNhwc>
CONVBOUND_INLINE void plan_lines(const GroupedPlan& plan, int64_t item, int64_t end, int64_t element, int64_t taps,
                                 Lines& lines) {
  lines.next = lines.count = 0;
  add_lines(target_part(plan, item_at<kNhwc>(plan, item)), kNhwc, element, 0, lines);
  if (item + 1 < end) {
    add_lines(source_part(plan.tile, plan.source, item_at<kNhwc>(plan, item + 1)), kNhwc, element, 1, lines);
  }
  lines.rate = ceil_div(lines.count, larger(taps, 1));
}

template <class V, class E, bool kNhwc>
static void grouped_gather(const GroupedPlan& plan, int64_t begin, int64_t end, float* memory) {
  const TileAxis& depth = plan.tile.depth;
  float* const source = memory;
  float* const results = memory + plan.source_floats;
  const int64_t classes = plan.height_classes * plan.width_classes, to_lane = classes * plan.result_plane;
  const int64_t blocks = ceil_div(plan.out_fan, kMostLanes);
  Lines lines;
  for (int64_t item = begin; item < end; ++item) {
    const TileAt at = item_at<kNhwc>(plan, item);
    const int64_t positions = (at.rows - 1) * plan.tile.pitch + at.columns;
    const int64_t vector_blocks = ceil_div(ceil_div(positions, V::kWidth), kMostVectors<V>);
    plan_lines<kNhwc>(plan, item, end, sizeof(typename E::Type),
                      at.groups * blocks * vector_blocks * plan.classes[0].count, lines);
    read_tile<V, E, kNhwc>(plan.tile, plan.source, at, source);
    for (int64_t t = 0; t < plan.depth_classes; ++t) {
      const int64_t d = at.depth * depth.out_step + t;
      if (d >= depth.out) break;
      for (int64_t g = 0; g < at.groups; ++g) {
        const float* x = source + g * plan.in_fan * plan.tile.planes * plan.tile.plane;
        for (int64_t block = 0; block < blocks; ++block) {
          const int64_t k = plan.out_fan * block / blocks, lanes = plan.out_fan * (block + 1) / blocks - k;
          const int64_t channel = (at.group + g) * plan.out_fan + k;
          const float* w = plan.w + (at.group + g) * plan.w_group + k * plan.w_lane;
          const float* bias = plan.bias == nullptr ? nullptr : plan.bias + channel;
          if (!kNhwc && plan.pack != nullptr) {
            const TileAxis &height = plan.tile.height, &width = plan.tile.width;
            const int64_t lane = depth.out * height.out * width.out;
            float* to = static_cast<float*>(plan.target) + (at.image * plan.groups * plan.out_fan + channel) * lane +
                        (d * height.out + at.row) * width.out + at.column;
            gather_class<V>(plan, plan.classes[t], positions, x, w, bias, lanes,
                            {to, lane, plan.pack, at.rows * at.columns}, lines);
            continue;
          }
          float* to = kNhwc ? results + (g * plan.out_fan + k) * to_lane : results;
          for (int64_t c = 0; c < classes; ++c) {
            gather_class<V>(plan, plan.classes[t * classes + c], positions, x, w, bias, lanes,
                            {to + c * plan.result_plane, to_lane, nullptr, 0}, lines);
          }
          if (!kNhwc) write_tile<V, E, kNhwc>(plan, results, at, channel, lanes, d);
        }
      }
      if (kNhwc) write_tile<V, E, kNhwc>(plan, results, at, at.group * plan.out_fan, at.groups * plan.out_fan, d);
    }
  }
}

}  // namespace
}  // namespace convbound::cpu
