// Depthwise wgrad, a block's part of the work: which unit of rows, columns and taps it has, what its stages hold of x
// and dy, how they are copied, and where a thread stands in it. depthwise_wgrad.h has the algorithm.
#pragma once

#include "csrc/common/partial_sums.h"
#include "csrc/depthwise/depthwise_wgrad_copy.h"
#include "csrc/depthwise/depthwise_wgrad_plan.h"

namespace convbound::depthwise {

template <typename T>
struct WgradParams {
  WgradPlan plan;
  WgradTensor<T> x, dy;
  PartialSums<T> sums;
  bool x_granules, dy_granules;  // whether tiles can be copied by 16 bytes
};

// One unit of work: rows [first, end) of dy and columns from `column` on, of one image. No rows: nothing.
struct WgradUnit {
  int image, first, end, column;
};

__device__ __forceinline__ WgradUnit unit_at(const WgradPlan& plan, int index, int end) {
  if (index >= end) return {0, 0, 0, 0};
  WgradUnit unit{index, 0, plan.rows, 0};
  if (plan.column_tiles > 1) {
    const int tile = unit.image % plan.column_tiles;
    unit.image /= plan.column_tiles;
    unit.column = tile * plan.columns;
  }
  if (plan.strips > 1) {
    unit.first = unit.image % plan.strips * plan.strip_rows;
    unit.image /= plan.strips;
    unit.end = min(unit.first + plan.strip_rows, plan.rows);
  }
  return unit;
}

template <typename Traits_>
struct WgradBlock {
  using Traits = Traits_;
  using T = typename Traits::Element;
  static constexpr int kSize = sizeof(T), kDepth = Traits::kDepth, kColumns = Traits::kColumns;
  static constexpr bool kChannelsLast = Traits::kChannelsLast, kFolded = Traits::kFolded, kSliding = Traits::kSliding;
  static constexpr int kColumnBytes = kChannelsLast ? 32 * kSize : kSize;

  const WgradParams<T>& params;
  const WgradPlan& plan;
  int channel, split, tile, last_tile;  // first channel, first and last tile of taps of the block

  __device__ __forceinline__ explicit WgradBlock(const WgradParams<T>& p) : params(p), plan(p.plan) {
    int index = static_cast<int>(blockIdx.x);
    tile = index % plan.tile_groups * plan.block_tiles;
    last_tile = min(tile + plan.block_tiles, plan.tiles) - 1;
    index /= plan.tile_groups;
    channel = index % plan.channel_blocks * plan.block_channels;
    split = index / plan.channel_blocks;
  }

  __device__ __forceinline__ int stride_h() const { return kSliding ? Traits::kStride : plan.h.stride; }
  __device__ __forceinline__ int stride_w() const { return kSliding ? Traits::kStride : plan.w.stride; }
  __device__ __forceinline__ int dilation_h() const { return kSliding ? 1 : plan.h.dilation; }
  __device__ __forceinline__ int dilation_w() const { return kSliding ? 1 : plan.w.dilation; }
  __device__ __forceinline__ int first_tap_row() const { return tile / plan.tile_columns * Traits::kRows; }
  __device__ __forceinline__ int last_tap_row() const { return last_tile / plan.tile_columns * Traits::kRows; }
  // The leftmost filter column that the block's stages have to serve.
  __device__ __forceinline__ int first_tap_column() const {
    return plan.block_tiles > 1 ? 0 : tile % plan.tile_columns * Traits::kCols;
  }
  __device__ __forceinline__ int x_channel() const { return channel / plan.outputs; }

  // What one stage holds of a unit: rows [dy_first, dy_end) of dy and [x_first, x_end) of x; if folded, elements.
  struct Range {
    int dy_first, dy_end, x_first, x_end;
  };

  __device__ __forceinline__ Range range(const WgradUnit& unit, int chunk) const {
    Range r;
    const int first = unit.first + chunk * plan.chunk_steps;
    const int end = min(first + plan.chunk_steps, unit.end);
    if constexpr (kFolded) {
      r.dy_first = first * plan.columns, r.dy_end = min(end * plan.columns, plan.w.output);
      const int last_tap =
          (plan.block_tiles > 1 ? plan.tile_columns * Traits::kCols : first_tap_column() + Traits::kCols) - 1;
      r.x_first = r.dy_first * stride_w() + first_tap_column() * dilation_w() - plan.w.padding;
      r.x_end = (r.dy_end - 1) * stride_w() + last_tap * dilation_w() - plan.w.padding + 1;
      r.x_first = min(max(r.x_first, 0), plan.w.input), r.x_end = min(max(r.x_end, r.x_first), plan.w.input);
    } else {
      r.dy_first = first, r.dy_end = end;
      const int last = min(first + plan.chunk_steps, unit.end + kDepth - 1) - 1;
      const int reach = kSliding ? Traits::kStride - 1 : (Traits::kRows - 1) * dilation_h();
      r.x_first = first * stride_h() + first_tap_row() * dilation_h() - plan.h.padding;
      r.x_end = last * stride_h() + reach + last_tap_row() * dilation_h() - plan.h.padding + 1;
      r.x_first = min(max(r.x_first, 0), plan.h.input), r.x_end = min(max(r.x_end, r.x_first), plan.h.input);
    }
    return r;
  }

  // The first column of x in a tile; it may lie outside.
  __device__ __forceinline__ int x_column(const WgradUnit& unit) const {
    return unit.column * stride_w() + first_tap_column() * dilation_w() - plan.w.padding;
  }

  // The element of the tensor that the first byte of a slot stands for, without its misalignment.
  __device__ __forceinline__ int64_t x_origin(const WgradUnit& unit, const Range& r) const {
    const int64_t image = unit.image * plan.x.image;
    if (kChannelsLast) return image;
    const int64_t plane = image + static_cast<int64_t>(x_channel()) * plan.h.input * plan.w.input;
    if (kFolded) return plane + r.x_first;
    return plane + static_cast<int64_t>(r.x_first) * plan.w.input + (plan.whole_rows ? 0 : x_column(unit));
  }
  __device__ __forceinline__ int64_t dy_origin(const WgradUnit& unit, const Range& r) const {
    const int64_t image = unit.image * plan.dy.image;
    if (kChannelsLast) return image;
    if (kFolded) return image + static_cast<int64_t>(channel) * plan.w.output + r.dy_first;
    return image + (static_cast<int64_t>(channel) * plan.h.output + r.dy_first) * plan.w.output + unit.column;
  }

  // Copies rows and columns of a tile, 32 channels at a position (NHWC) or one (NCHW).
  __device__ __forceinline__ void copy_tile(unsigned char* to, const WgradTensor<T>& source, int64_t origin, int row,
                                            int rows, int column, int columns, int width, bool of_x, int lane,
                                            int lanes) const {
    if constexpr (kChannelsLast) {
      const int64_t row_stride = of_x ? plan.x.row : plan.dy.row, column_stride = of_x ? plan.x.column : plan.dy.column;
      const unsigned reciprocal = of_x ? plan.x_reciprocal : plan.dy_reciprocal;
      const bool granules = of_x ? params.x_granules : params.dy_granules;
      const int divisor = of_x ? plan.outputs : 1;
      constexpr int kParts = 32 * kSize / 16, kElements = 16 / kSize;
      const int parts = granules ? kParts : 32, shift = granules ? (kParts == 8 ? 3 : 2) : 5;
      const int part = lane & (parts - 1), step = lanes >> shift, positions = rows * columns;
      const int k = channel + (granules ? part * kElements : part);
      if (k >= plan.channels) return;
      const int64_t base = origin + k / divisor;
      for (int at = lane >> shift; at < positions; at += step) {
        const int i = columns == 1 ? at : static_cast<int>(__umulhi(static_cast<unsigned>(at), reciprocal));
        const int j = at - i * columns;
        if (!within(column + j, width)) continue;
        const T* const from = source.data + base + (row + i) * row_stride + (column + j) * column_stride;
        unsigned char* const cell = to + at * kColumnBytes;
        if (granules) {
          ptx::cp_async<16>(cell + part * 16, from);
        } else {
          reinterpret_cast<T*>(cell)[part] = *from;
        }
      }
    } else {
      const int skip = max(-column, 0), count = min(column + columns, width) - max(column, 0);
      const int pitch = of_x ? plan.x_pitch : plan.dy_pitch;
      const bool granules = of_x ? params.x_granules : params.dy_granules;
      unsigned char* line = to + skip * kSize + (granules ? source.misalignment(origin) : 0);
      int64_t begin = origin + skip;
      for (int i = 0; i < rows; i++, line += pitch, begin += width) {
        if (granules) {
          copy_sectors(line, source, begin, count, lane, lanes);
        } else {
          copy_elements(line, source, begin, count, lane, lanes);
        }
      }
    }
  }

  __device__ __forceinline__ void copy(unsigned char* x_slot, unsigned char* dy_slot, const WgradUnit& unit, int chunk,
                                       int lane, int lanes) const {
    if (unit.end == unit.first) return;
    const Range r = range(unit, chunk);
    const int64_t x_begin = x_origin(unit, r), dy_begin = dy_origin(unit, r);
    if (kFolded || plan.whole_rows) {
      // From the first row of the first plane to the last row of the last one.
      const int more_planes = min(plan.block_channels, plan.channels - channel) - 1;
      const int x_count = (r.x_end - r.x_first + more_planes * plan.h.input) * (kFolded ? 1 : plan.w.input);
      const int dy_count = (r.dy_end - r.dy_first + more_planes * plan.h.output) * (kFolded ? 1 : plan.w.output);
      copy_sectors(x_slot + params.x.misalignment(x_begin), params.x, x_begin, x_count, lane, lanes);
      copy_sectors(dy_slot + params.dy.misalignment(dy_begin), params.dy, dy_begin, dy_count, lane, lanes);
    } else {
      copy_tile(x_slot, params.x, x_begin, r.x_first, r.x_end - r.x_first, x_column(unit), plan.x_columns, plan.w.input,
                true, lane, lanes);
      copy_tile(dy_slot, params.dy, dy_begin, r.dy_first, r.dy_end - r.dy_first, unit.column, plan.columns,
                plan.w.output, false, lane, lanes);
    }
  }
};

// Where a thread stands in its block.
struct WgradPlace {
  int tap_row, tap_column;  // of its tile
  int slot;                 // image
  int column;               // of dy, from the unit's first
  int channel;              // from the block's first
  int segment, lane;        // threads of a warp whose sums belong together, and the number among them
  int tile_warp;            // number of its warp among those with the same tile
  bool active;

  template <typename Block>
  __device__ __forceinline__ static WgradPlace of(const Block& block) {
    const WgradPlan& plan = block.plan;
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int tile = block.tile + warp / plan.tile_warps;
    WgradPlace place;
    place.tap_row = tile / plan.tile_columns * Block::Traits::kRows;
    place.tap_column = tile % plan.tile_columns * Block::Traits::kCols;
    place.tile_warp = warp % plan.tile_warps;
    place.channel = 0, place.segment = 32, place.lane = lane;
    int group;
    if (Block::kChannelsLast) {
      group = place.tile_warp % plan.across, place.slot = place.tile_warp / plan.across;
      place.channel = lane, place.segment = 1, place.lane = 0;
      place.active = true;
    } else if (plan.across > 32) {
      const int warps = (plan.across + 31) / 32;
      group = place.tile_warp % warps * 32 + lane, place.slot = place.tile_warp / warps;
      place.active = group < plan.across;
    } else {
      const int part = lane / plan.across;
      group = lane - part * plan.across;
      place.active = part < plan.warp_slots;
      place.slot = place.tile_warp * plan.warp_slots + part;
      if (plan.block_channels > 1) {
        place.slot = place.tile_warp, place.channel = part;
        place.segment = plan.across, place.lane = part < plan.warp_slots ? group : 32;
      }
    }
    place.column = group * Block::kColumns;
    place.active = place.active && tile <= block.last_tile && block.channel + place.channel < plan.channels;
    if (!place.active) place.slot = 0;
    return place;
  }
};

}  // namespace convbound::depthwise
