// The kernel of depthwise wgrad, for all layouts, element types and tiles of taps. See depthwise_wgrad.h.
#pragma once

#include "csrc/common/numeric.h"
#include "csrc/common/shared.h"
#include "csrc/depthwise/depthwise_wgrad.h"
#include "csrc/depthwise/depthwise_wgrad_copy.h"
#include "csrc/depthwise/depthwise_wgrad_plan.h"

namespace convbound::depthwise {

template <typename T>
struct WgradParams {
  WgradPlan plan;
  Source<T> x, dy;
  T* dw;
  T* dbias;                      // or null
  float* partial;                // [splits][outputs], null where there is one split
  bool x_granules, dy_granules;  // whether tiles can be copied by 16 bytes
};

// One unit of work: rows [first, end) of dy and columns from `column` on, of one image. No rows: nothing.
struct Unit {
  int image, first, end, column;
};

__device__ __forceinline__ Unit unit_at(const WgradPlan& plan, int index, int end) {
  if (index >= end) return {0, 0, 0, 0};
  Unit unit{index, 0, plan.p, 0};
  if (plan.column_tiles > 1) {
    const int tile = unit.image % plan.column_tiles;
    unit.image /= plan.column_tiles;
    unit.column = tile * plan.columns;
  }
  if (plan.strips > 1) {
    unit.first = unit.image % plan.strips * plan.strip_rows;
    unit.image /= plan.strips;
    unit.end = min(unit.first + plan.strip_rows, plan.p);
  }
  return unit;
}

template <typename T, Layout kLayout, typename Tile>
struct WgradBlock {
  using Traits = WgradTraits<T, kLayout, Tile>;
  using Taps = Tile;
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

  __device__ __forceinline__ int stride_h() const { return kSliding ? Tile::kStride : plan.stride_h; }
  __device__ __forceinline__ int stride_w() const { return kSliding ? Tile::kStride : plan.stride_w; }
  __device__ __forceinline__ int dilation_h() const { return kSliding ? 1 : plan.dilation_h; }
  __device__ __forceinline__ int dilation_w() const { return kSliding ? 1 : plan.dilation_w; }
  __device__ __forceinline__ int first_tap_row() const { return tile / plan.tile_columns * Tile::kRows; }
  __device__ __forceinline__ int last_tap_row() const { return last_tile / plan.tile_columns * Tile::kRows; }
  // The leftmost filter column that the block's stages have to serve.
  __device__ __forceinline__ int first_tap_column() const {
    return plan.block_tiles > 1 ? 0 : tile % plan.tile_columns * Tile::kCols;
  }
  __device__ __forceinline__ int x_channel() const { return channel / plan.multiplier; }

  // What one stage holds of a unit: rows [dy_first, dy_end) of dy and [x_first, x_end) of x; if folded, elements.
  struct Range {
    int dy_first, dy_end, x_first, x_end;
  };

  __device__ __forceinline__ Range range(const Unit& unit, int chunk) const {
    Range r;
    const int first = unit.first + chunk * plan.chunk_steps;
    const int end = min(first + plan.chunk_steps, unit.end);
    if constexpr (kFolded) {
      r.dy_first = first * plan.columns, r.dy_end = min(end * plan.columns, plan.q);
      const int last_tap =
          (plan.block_tiles > 1 ? plan.tile_columns * Tile::kCols : first_tap_column() + Tile::kCols) - 1;
      r.x_first = r.dy_first * stride_w() + first_tap_column() * dilation_w() - plan.padding_w;
      r.x_end = (r.dy_end - 1) * stride_w() + last_tap * dilation_w() - plan.padding_w + 1;
      r.x_first = min(max(r.x_first, 0), plan.w), r.x_end = min(max(r.x_end, r.x_first), plan.w);
    } else {
      r.dy_first = first, r.dy_end = end;
      const int last = min(first + plan.chunk_steps, unit.end + kDepth - 1) - 1;
      const int reach = kSliding ? Tile::kStride - 1 : (Tile::kRows - 1) * dilation_h();
      r.x_first = first * stride_h() + first_tap_row() * dilation_h() - plan.padding_h;
      r.x_end = last * stride_h() + reach + last_tap_row() * dilation_h() - plan.padding_h + 1;
      r.x_first = min(max(r.x_first, 0), plan.h), r.x_end = min(max(r.x_end, r.x_first), plan.h);
    }
    return r;
  }

  // The first column of x in a tile; it may lie outside.
  __device__ __forceinline__ int x_column(const Unit& unit) const {
    return unit.column * stride_w() + first_tap_column() * dilation_w() - plan.padding_w;
  }

  // The element of the tensor that the first byte of a slot stands for, without its misalignment.
  __device__ __forceinline__ int64_t x_origin(const Unit& unit, const Range& r) const {
    const int64_t image = unit.image * plan.x_image;
    if (kChannelsLast) return image;
    const int64_t plane = image + static_cast<int64_t>(x_channel()) * plan.h * plan.w;
    if (kFolded) return plane + r.x_first;
    return plane + static_cast<int64_t>(r.x_first) * plan.w + (plan.whole_rows ? 0 : x_column(unit));
  }
  __device__ __forceinline__ int64_t dy_origin(const Unit& unit, const Range& r) const {
    const int64_t image = unit.image * plan.dy_image;
    if (kChannelsLast) return image;
    if (kFolded) return image + static_cast<int64_t>(channel) * plan.q + r.dy_first;
    return image + (static_cast<int64_t>(channel) * plan.p + r.dy_first) * plan.q + unit.column;
  }

  // Copies rows and columns of a tile, 32 channels at a position (NHWC) or one (NCHW).
  __device__ __forceinline__ void copy_tile(unsigned char* to, const Source<T>& source, int64_t origin, int row,
                                            int rows, int column, int columns, int width, bool of_x, int lane,
                                            int lanes) const {
    if constexpr (kChannelsLast) {
      const int64_t row_stride = of_x ? plan.x_row : plan.dy_row, column_stride = of_x ? plan.x_column : plan.dy_column;
      const unsigned reciprocal = of_x ? plan.x_reciprocal : plan.dy_reciprocal;
      const bool granules = of_x ? params.x_granules : params.dy_granules;
      const int divisor = of_x ? plan.multiplier : 1;
      constexpr int kParts = 32 * kSize / 16, kElements = 16 / kSize;
      const int parts = granules ? kParts : 32, shift = granules ? (kParts == 8 ? 3 : 2) : 5;
      const int part = lane & (parts - 1), step = lanes >> shift, positions = rows * columns;
      const int k = channel + (granules ? part * kElements : part);
      if (k >= plan.channels) return;
      const int64_t base = origin + k / divisor;
      for (int at = lane >> shift; at < positions; at += step) {
        const int i = columns == 1 ? at : static_cast<int>(__umulhi(static_cast<unsigned>(at), reciprocal));
        const int j = at - i * columns;
        if (static_cast<unsigned>(column + j) >= static_cast<unsigned>(width)) continue;
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
          copy_run(line, source, begin, count, lane, lanes);
        } else {
          copy_elements(line, source, begin, count, lane, lanes);
        }
      }
    }
  }

  __device__ __forceinline__ void copy(unsigned char* x_slot, unsigned char* dy_slot, const Unit& unit, int chunk,
                                       int lane, int lanes) const {
    if (unit.end == unit.first) return;
    const Range r = range(unit, chunk);
    const int64_t x_begin = x_origin(unit, r), dy_begin = dy_origin(unit, r);
    if (kFolded || plan.whole_rows) {
      // From the first row of the first plane to the last row of the last one.
      const int more_planes = min(plan.block_channels, plan.channels - channel) - 1;
      const int x_count = (r.x_end - r.x_first + more_planes * plan.h) * (kFolded ? 1 : plan.w);
      const int dy_count = (r.dy_end - r.dy_first + more_planes * plan.p) * (kFolded ? 1 : plan.q);
      copy_run(x_slot + params.x.misalignment(x_begin), params.x, x_begin, x_count, lane, lanes);
      copy_run(dy_slot + params.dy.misalignment(dy_begin), params.dy, dy_begin, dy_count, lane, lanes);
    } else {
      copy_tile(x_slot, params.x, x_begin, r.x_first, r.x_end - r.x_first, x_column(unit), plan.x_columns, plan.w, true,
                lane, lanes);
      copy_tile(dy_slot, params.dy, dy_begin, r.dy_first, r.dy_end - r.dy_first, unit.column, plan.columns, plan.q,
                false, lane, lanes);
    }
  }
};

// Where a thread stands in its block.
struct Place {
  int tap_row, tap_column;  // of its tile
  int slot;                 // image
  int column;               // of dy, from the unit's first
  int channel;              // from the block's first
  int segment, lane;        // threads of a warp whose sums belong together, and the number among them
  int tile_warp;            // number of its warp among those with the same tile
  bool active;

  template <typename Block>
  __device__ __forceinline__ static Place of(const Block& block) {
    const WgradPlan& plan = block.plan;
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int tile = block.tile + warp / plan.tile_warps;
    Place place;
    place.tap_row = tile / plan.tile_columns * Block::Taps::kRows;
    place.tap_column = tile % plan.tile_columns * Block::Taps::kCols;
    place.tile_warp = warp % plan.tile_warps;
    place.channel = 0, place.segment = 32, place.lane = lane;
    int group;
    if (Block::kChannelsLast) {
      group = place.tile_warp % plan.groups, place.slot = place.tile_warp / plan.groups;
      place.channel = lane, place.segment = 1, place.lane = 0;
      place.active = true;
    } else if (plan.groups > 32) {
      const int warps = (plan.groups + 31) / 32;
      group = place.tile_warp % warps * 32 + lane, place.slot = place.tile_warp / warps;
      place.active = group < plan.groups;
    } else {
      const int part = lane / plan.groups;
      group = lane - part * plan.groups;
      place.active = part < plan.warp_slots;
      place.slot = place.tile_warp * plan.warp_slots + part;
      if (plan.block_channels > 1) {
        place.slot = place.tile_warp, place.channel = part;
        place.segment = plan.groups, place.lane = part < plan.warp_slots ? group : 32;
      }
    }
    place.column = group * Block::kColumns;
    place.active = place.active && tile <= block.last_tile && block.channel + place.channel < plan.channels;
    if (!place.active) place.slot = 0;
    return place;
  }
};

// Output number `at`: the filter, then the bias.
template <typename T>
__device__ __forceinline__ void write_output(const WgradParams<T>& params, int64_t at, float sum) {
  const int64_t filter = params.plan.outputs - params.plan.channels;
  if (at < filter) {
    params.dw[at] = narrow<T>(sum);
  } else if (params.dbias != nullptr) {
    params.dbias[at - filter] = narrow<T>(sum);
  }
}

template <typename T>
__device__ __forceinline__ float load(const unsigned char* at) {
  return widen(*reinterpret_cast<const T*>(at));
}

// The sums of a thread, and the rows of dy that they still need.
template <typename T, Layout kLayout, typename Tile>
struct WgradSums {
  using Block = WgradBlock<T, kLayout, Tile>;
  static constexpr int kDepth = Block::kDepth, kColumns = Block::kColumns, kSpan = Block::Traits::kSpan;
  static constexpr int kColumnBytes = Block::kColumnBytes;

  float taps[Tile::kRows][Tile::kCols] = {};
  float bias = 0;
  float window[kDepth][kColumns] = {};
  unsigned inside = 0;  // a bit for each column of x and, above them, of dy: whether the tensor has it

  __device__ __forceinline__ float value(int i) const {
    return i == Tile::kRows * Tile::kCols ? bias : taps[i / Tile::kCols][i % Tile::kCols];
  }

  // The first column of x that the thread meets.
  __device__ __forceinline__ static int x_column(const Block& block, const Place& place, const Unit& unit) {
    return (unit.column + place.column) * block.stride_w() + place.tap_column * block.dilation_w() -
           block.plan.padding_w;
  }

  __device__ __forceinline__ void start(const Block& block, const Place& place, const Unit& unit) {
#pragma unroll
    for (int d = 0; d < kDepth; d++) {
#pragma unroll
      for (int c = 0; c < kColumns; c++) window[d][c] = 0;
    }
    inside = 0;
#pragma unroll
    for (int c = 0; c < kColumns; c++)
      inside |= (unit.column + place.column + c < block.plan.q ? 1u : 0u) << (kSpan + c);
    const int column = x_column(block, place, unit);
#pragma unroll
    for (int i = 0; i < kSpan; i++) {
      const auto at = static_cast<unsigned>(column + i * block.dilation_w());
      inside |= (at < static_cast<unsigned>(block.plan.w) ? 1u : 0u) << i;
    }
  }

  // A row of x times the rows of dy that it meets, in filter rows first, first + stride, ...; the first of them meets
  // row `newest` of the window.
  __device__ __forceinline__ void multiply(const unsigned char* at, int step, int first, int newest) {
    float x[kSpan];
#pragma unroll
    for (int i = 0; i < kSpan; i++) x[i] = (inside >> i & 1u) != 0 ? load<T>(at + i * step) : 0.0f;
#pragma unroll
    for (int m = 0; m < kDepth; m++) {
      if (first + m * Tile::kStride >= Tile::kRows) continue;
#pragma unroll
      for (int c = 0; c < kColumns; c++) {
        const float dy = window[(newest + kDepth - m) % kDepth][c];
#pragma unroll
        for (int s = 0; s < Tile::kCols; s++) {
          float& sum = taps[first + m * Tile::kStride][s];
          sum = fmaf(dy, x[c * Tile::kStride + s], sum);
        }
      }
    }
  }

  // The rows of one stage.
  __device__ __forceinline__ void walk(const Block& block, const Place& place, const Unit& unit, int chunk,
                                       const unsigned char* x_slot, const unsigned char* dy_slot) {
    const WgradPlan& plan = block.plan;
    const auto range = block.range(unit, chunk);
    const int first = unit.first + chunk * plan.chunk_steps;
    const int last = unit.end == unit.first ? unit.end : unit.end + kDepth - 1;
    const int steps = min(plan.chunk_steps, last - first);
    const bool lines = Block::kFolded || plan.whole_rows;
    if constexpr (!Block::kChannelsLast) {
      if (lines || block.params.x_granules) {
        x_slot += block.params.x.misalignment(block.x_origin(unit, range));
      }
      if (lines || block.params.dy_granules) {
        dy_slot += block.params.dy.misalignment(block.dy_origin(unit, range));
      }
    }
    const int column = x_column(block, place, unit);
    if constexpr (Block::kFolded) {
      x_slot -= range.x_first * kColumnBytes;
      dy_slot -= range.dy_first * kColumnBytes;
      int q = first * plan.columns + place.column;
      for (int i = 0; i < steps; i++, q += plan.columns) {
        if (q >= range.dy_end) continue;
        const float dy = load<T>(dy_slot + q * kColumnBytes);
        bias += dy;
        const int at = q * block.stride_w() + place.tap_column * block.dilation_w() - plan.padding_w;
#pragma unroll
        for (int s = 0; s < Tile::kCols; s++) {
          const int x = at + s * block.dilation_w();
          if (x < range.x_first || x >= range.x_end) continue;
          taps[0][s] = fmaf(dy, load<T>(x_slot + x * kColumnBytes), taps[0][s]);
        }
      }
    } else {
      // Where the channel, the column and the first row of the thread lie.
      if (Block::kChannelsLast) {
        x_slot += place.channel * static_cast<int>(sizeof(T)), dy_slot += place.channel * static_cast<int>(sizeof(T));
      } else {
        x_slot += place.channel * plan.h * plan.x_pitch, dy_slot += place.channel * plan.p * plan.dy_pitch;
      }
      const int x_row = first * block.stride_h() + place.tap_row * block.dilation_h() - plan.padding_h;
      x_slot += (column - (lines ? 0 : block.x_column(unit))) * kColumnBytes + (x_row - range.x_first) * plan.x_pitch;
      dy_slot += place.column * kColumnBytes;
      for (int i = 0; i < steps; i += kDepth) {
#pragma unroll
        for (int t = 0; t < kDepth; t++) {
          const int row = first + i + t;
#pragma unroll
          for (int c = 0; c < kColumns; c++) {
            const bool there = (inside >> (kSpan + c) & 1u) != 0 && row < unit.end;
            window[t][c] = there ? load<T>(dy_slot + (i + t) * plan.dy_pitch + c * kColumnBytes) : 0.0f;
            bias += window[t][c];
          }
          if constexpr (Block::kSliding) {
#pragma unroll
            for (int e = 0; e < Tile::kStride; e++) {
              const int line = (i + t) * Tile::kStride + e;
              const bool there = static_cast<unsigned>(x_row + line) < static_cast<unsigned>(plan.h) && row < last;
              if (there) multiply(x_slot + line * plan.x_pitch, kColumnBytes, e, t);
            }
          } else {
#pragma unroll
            for (int r = 0; r < Tile::kRows; r++) {
              const int line = i * plan.stride_h + r * plan.dilation_h;
              const bool there = static_cast<unsigned>(x_row + line) < static_cast<unsigned>(plan.h);
              if (there) multiply(x_slot + line * plan.x_pitch, plan.dilation_w * kColumnBytes, r, t);
            }
          }
        }
      }
    }
  }

  // Adds up the block's threads and writes the sums of its channels, in the order of the results' memory.
  __device__ __forceinline__ void reduce(const Block& block, const Place& place) const {
    constexpr int kValues = Block::Traits::kValues, kBatch = Block::Traits::kBatch;
    constexpr int kResults = Block::Traits::kResults;
    const WgradPlan& plan = block.plan;
    float* const shared = dynamic_shared<float>();
    const int threads = plan.threads, tile_threads = 32 * plan.tile_warps;
    const int thread = static_cast<int>(threadIdx.x), tile = thread / tile_threads;
    const float* const own = shared + tile * tile_threads + thread % 32;
    float* const results = shared + kBatch * threads;  // [tile][channel][kResults]
#pragma unroll
    for (int first = 0; first < kValues; first += kBatch) {
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kBatch; i++) {
        if (first + i < kValues) shared[i * threads + thread] = value(first + i);
      }
      __syncthreads();
      const int count = min(kBatch, kValues - first);
      for (int i = place.tile_warp; i < count; i += plan.tile_warps) {
        float sum = 0;
        for (int w = 0; w < plan.tile_warps; w++) sum += own[i * threads + 32 * w];
        // Halves of the segment, rounded up to a power of two, are added until one lane has all.
#pragma unroll
        for (int half = 16; half > 0; half /= 2) {
          if (Block::kChannelsLast) continue;
          const float other = __shfl_down_sync(0xffffffffu, sum, half);
          if (place.lane < half && place.lane + half < place.segment) sum += other;
        }
        if (place.lane == 0) results[(tile * plan.block_channels + place.channel) * kResults + first + i] = sum;
      }
    }
    __syncthreads();
    const int taps = plan.r * plan.s, channels = min(plan.block_channels, plan.channels - block.channel);
    const int outputs = channels * taps;
    for (int i = thread; i < outputs; i += threads) {
      const int channel = i / taps, r = (i - channel * taps) / plan.s, s = i - channel * taps - r * plan.s;
      const int at = r / Tile::kRows * plan.tile_columns + s / Tile::kCols;
      if (at < block.tile || at > block.last_tile) continue;
      write(block, static_cast<int64_t>(block.channel) * taps + i,
            results[((at - block.tile) * plan.block_channels + channel) * kResults + r % Tile::kRows * Tile::kCols +
                    s % Tile::kCols]);
    }
    if (block.tile > 0) return;
    for (int i = thread; i < channels; i += threads) {
      write(block, static_cast<int64_t>(plan.channels) * taps + block.channel + i, results[i * kResults + kValues - 1]);
    }
  }

  __device__ __forceinline__ static void write(const Block& block, int64_t at, float sum) {
    if (block.params.partial != nullptr) {
      block.params.partial[block.split * block.plan.outputs + at] = sum;
    } else {
      write_output(block.params, at, sum);
    }
  }
};

template <typename T, Layout kLayout, typename Tile>
__global__ void __launch_bounds__(WgradTraits<T, kLayout, Tile>::kThreads, WgradTraits<T, kLayout, Tile>::kBlocks)
    depthwise_wgrad_kernel(const __grid_constant__ WgradParams<T> params) {
  const WgradBlock<T, kLayout, Tile> block(params);
  const WgradPlan& plan = params.plan;
  const Place place = Place::of(block);
  unsigned char* const shared = dynamic_shared<unsigned char>();

  const int first_unit = block.split * plan.block_units;
  const int end_unit = min(first_unit + plan.block_units, plan.units);
  const int rounds = (end_unit - first_unit + plan.slots - 1) / plan.slots;
  const int dy_offset = plan.slots * plan.x_slot_bytes;

  // All threads copy, the same number for each slot; pairs, for a sector.
  const int copiers = max(plan.threads / plan.slots & ~1, 1);
  const int copy_slot = static_cast<int>(threadIdx.x) / copiers;
  const int copy_lane = static_cast<int>(threadIdx.x) - copy_slot * copiers;
  const int copy_end = copy_slot < plan.slots ? end_unit : 0;
  int copy_unit = first_unit, copy_chunk = 0;  // of the first slot
  const auto copy_stage = [&](int stage) {
    unsigned char* const at = shared + stage * plan.stage_bytes;
    block.copy(at + copy_slot * plan.x_slot_bytes, at + dy_offset + copy_slot * plan.dy_slot_bytes,
               unit_at(plan, copy_unit + copy_slot, copy_end), copy_chunk, copy_lane, copiers);
    ptx::cp_async_commit();
    if (++copy_chunk == plan.chunks) copy_chunk = 0, copy_unit += plan.slots;
  };
  const int ahead = plan.stages - 1;
  for (int stage = 0; stage < ahead; stage++) copy_stage(stage);

  WgradSums<T, kLayout, Tile> sums;
  int stage = 0, chunk = 0, slot_unit = first_unit;
  for (int left = rounds * plan.chunks; left > 0; left--) {
    if (ahead == 1) {
      ptx::cp_async_wait<0>();
    } else {
      ptx::cp_async_wait<1>();
    }
    __syncthreads();  // the stage is there for all, and the one before it is read by all
    copy_stage(stage == 0 ? ahead : stage - 1);
    const Unit unit = unit_at(plan, slot_unit + place.slot, place.active ? end_unit : 0);
    if (chunk == 0) sums.start(block, place, unit);
    const unsigned char* const at = shared + stage * plan.stage_bytes;
    sums.walk(block, place, unit, chunk, at + place.slot * plan.x_slot_bytes,
              at + dy_offset + place.slot * plan.dy_slot_bytes);
    stage = stage == ahead ? 0 : stage + 1;
    if (++chunk == plan.chunks) chunk = 0, slot_unit += plan.slots;
  }
  ptx::cp_async_wait_all();
  sums.reduce(block, place);
}

// The second kernel: the sums of all blocks, in their order. One thread per output.
constexpr int kAddThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kAddThreads, 4)
    depthwise_wgrad_add_kernel(const __grid_constant__ WgradParams<T> params) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kAddThreads + threadIdx.x;
  const int64_t outputs = params.plan.outputs;
  if (at >= outputs) return;
  float sum = 0;
#pragma unroll 4
  for (int split = 0; split < params.plan.splits; split++) sum += params.partial[split * outputs + at];
  write_output(params, at, sum);
}

template <typename T, Layout kLayout, typename Tile>
void launch_wgrad(const ConvProblem& problem, const Tensors& tensors, cudaStream_t stream) {
  const WgradPlan plan = make_wgrad_plan<T, kLayout, Tile>(problem);
  const auto multiple_of_16 = [](const void* at, int64_t step) {
    return (reinterpret_cast<uintptr_t>(at) | static_cast<uintptr_t>(step * static_cast<int64_t>(sizeof(T)))) % 16 == 0;
  };
  constexpr bool kChannelsLast = kLayout == Layout::kChannelsLast;
  const bool x_granules =
      kChannelsLast ? multiple_of_16(tensors.x, problem.c) && plan.multiplier == 1 : multiple_of_16(nullptr, plan.w);
  const bool dy_granules = kChannelsLast ? multiple_of_16(tensors.y, problem.k) : multiple_of_16(nullptr, plan.q);
  const WgradParams<T> params{plan,
                              {static_cast<const T*>(tensors.x), plan.images * plan.x_image},
                              {static_cast<const T*>(tensors.y), plan.images * plan.dy_image},
                              static_cast<T*>(tensors.w),
                              static_cast<T*>(tensors.bias),
                              plan.splits > 1 ? static_cast<float*>(tensors.workspace) : nullptr,
                              x_granules,
                              dy_granules};
  launch("depthwise_wgrad", depthwise_wgrad_kernel<T, kLayout, Tile>, wgrad_launch_shape(plan), stream, params);
  if (plan.splits == 1) return;
  LaunchShape shape;
  shape.grid_x = (plan.outputs + kAddThreads - 1) / kAddThreads;
  shape.block_x = kAddThreads;
  launch("depthwise_wgrad_add", depthwise_wgrad_add_kernel<T>, shape, stream, params);
}

}  // namespace convbound::depthwise
