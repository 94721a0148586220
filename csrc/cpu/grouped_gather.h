// Grouped fprop and dgrad over a tile in memory. grouped_gather.cpp has the overview.
#pragma once

#include "grouped_read.h"
#include "grouped_write.h"

namespace convbound::cpu {
namespace {

constexpr int kMostLanes = 4;  // target channels of a block

// kLanes channels x kVectors vectors of consecutive positions.
template <class V, int kLanes, int kVectors>
static void gather_block(const TapList& list, const float* source, const float* w, int64_t w_lane, const float* bias,
                         float* to, int64_t to_lane) {
  typename V::Reg sum[kLanes][kVectors];
#pragma GCC unroll 8
  for (int k = 0; k < kLanes; ++k) {
    const typename V::Reg first = bias == nullptr ? V::zero() : V::broadcast(bias + k);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[k][v] = first;
  }
  const TapAt* const end = list.taps + list.count;
  for (const TapAt* tap = list.taps; tap != end; ++tap) {
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
    for (int v = 0; v < kVectors; ++v) V::store(to + k * to_lane + v * V::kWidth, sum[k][v]);
  }
}

using GatherBlock = void (*)(const TapList&, const float*, const float*, int64_t, const float*, float*, int64_t);

// AVX-512: 24 sums, 6 values and a factor; AVX2: 12, 3 and 1.
template <class V>
constexpr int kMostVectors = V::kRegisters == 32 ? 6 : 3;

template <class V, int kLanes>
CONVBOUND_INLINE GatherBlock gather_block_of(int64_t vectors) {
  constexpr int kMost = kMostVectors<V>;
  static constexpr GatherBlock kBlocks[] = {
      gather_block<V, kLanes, 1>,
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
                         const float* w, const float* bias, int64_t lanes, float* to, int64_t to_lane) {
  const int64_t vectors = ceil_div(positions, V::kWidth), blocks = ceil_div(vectors, kMostVectors<V>);
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t begin = vectors * i / blocks, end = vectors * (i + 1) / blocks;
    gather_block_of<V>(lanes, end - begin)(list, source + begin * V::kWidth, w, plan.w_lane, bias,
                                           to + begin * V::kWidth, to_lane);
  }
}

template <class V, class E, bool kNhwc>
static void grouped_gather(const GroupedPlan& plan, int64_t begin, int64_t end, float* memory) {
  const TileAxis &depth = plan.tile.depth, &height = plan.tile.height, &width = plan.tile.width;
  float* const source = memory;
  float* const results = memory + plan.source_floats;
  const int64_t classes = plan.height_classes * plan.width_classes, to_lane = classes * plan.result_plane;
  const int64_t blocks = ceil_div(plan.out_fan, kMostLanes);
  const int64_t steps[3] = {ceil_div(depth.out, depth.out_step), ceil_div(height.out, height.out_step),
                            ceil_div(width.out, width.out_step)};
  for (int64_t item = begin; item < end; ++item) {
    // The order of the target: groups come before positions in NCHW, after them in NHWC.
    int64_t rest = item;
    const auto take = [&](int64_t count) {
      const int64_t i = rest % count;
      rest /= count;
      return i;
    };
    int64_t bundle = kNhwc ? take(plan.bundles) : 0;
    const int64_t column = take(plan.column_tiles) * plan.tile.columns, row = take(plan.row_tiles) * plan.tile.rows;
    const int64_t at_depth = take(steps[0]);
    if (!kNhwc) bundle = take(plan.bundles);
    const int64_t group = bundle * plan.bundle, groups = smaller(plan.bundle, plan.groups - group);
    const int64_t rows = smaller(plan.tile.rows, steps[1] - row);
    const int64_t columns = smaller(plan.tile.columns, steps[2] - column);
    const int64_t positions = (rows - 1) * plan.tile.pitch + columns;
    read_tile<V, E, kNhwc>(
        plan.tile, plan.source,
        {rest, group * plan.in_fan, groups * plan.in_fan, at_depth, row, column, rows, columns}, source);
    for (int64_t t = 0; t < plan.depth_classes; ++t) {
      const int64_t d = at_depth * depth.out_step + t;
      if (d >= depth.out) break;
      for (int64_t g = 0; g < groups; ++g) {
        const float* x = source + g * plan.in_fan * plan.tile.planes * plan.tile.plane;
        for (int64_t block = 0; block < blocks; ++block) {
          const int64_t k = plan.out_fan * block / blocks, lanes = plan.out_fan * (block + 1) / blocks - k;
          const int64_t channel = (group + g) * plan.out_fan + k;
          const float* w = plan.w + (group + g) * plan.w_group + k * plan.w_lane;
          const float* bias = plan.bias == nullptr ? nullptr : plan.bias + channel;
          float* to = kNhwc ? results + (g * plan.out_fan + k) * to_lane : results;
          for (int64_t c = 0; c < classes; ++c) {
            gather_class<V>(plan, plan.classes[t * classes + c], positions, x, w, bias, lanes,
                            to + c * plan.result_plane, to_lane);
          }
          if (!kNhwc) {
            write_tile<V, E, kNhwc>(plan, results, rest, channel, lanes, d, row, rows, column, columns);
          }
        }
      }
      if (kNhwc) {
        write_tile<V, E, kNhwc>(plan, results, rest, group * plan.out_fan, groups * plan.out_fan, d, row, rows, column,
                                columns);
      }
    }
  }
}

}  // namespace
}  // namespace convbound::cpu
