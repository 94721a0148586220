// What the kernels of grouped_small share: the block's part of the work, the tile of the input on its way into shared
// memory, the weights of a lane, and the outputs on their way back. grouped_small_nhwc.cu has the whole picture.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "csrc/common/divisor.h"
#include "csrc/common/numeric.h"
#include "csrc/common/pair.h"
#include "csrc/common/ptx.h"
#include "csrc/common/shared.h"
#include "csrc/common/vector.h"
#include "csrc/grouped/grouped_small_plan.h"

namespace convbound::grouped {

// How the threads of a block are spread over slabs and over the positions of a plane: each has one slab, every
// columns_at_once-th column and every rows_at_once-th row. Slabs go first, so that neighbours share sectors.
struct SmallSpread {
  IndexDivisor slabs, columns;
  int columns_at_once;
  IndexDivisor rows_at_once;

  SmallSpread(int slabs, int width)
      : slabs(slabs),
        columns(std::min(width, kSmallThreads / slabs)),
        columns_at_once(columns.size),
        rows_at_once(kSmallThreads / slabs / columns_at_once) {}
};

template <typename T>
struct SmallParams {
  ConvTensors<T> tensors;
  SmallPlan plan;
  int64_t images;
  int in_channels, out_channels;
  int inputs, outputs, taps;   // of a group; of a filter
  bool dgrad;                  // the filters' first axis has the inputs
  bool vector_in, vector_out;  // all positions begin at 16-byte boundaries
  SmallSpread in_spread, out_spread;
  IndexDivisor per_group;               // outputs of a group
  IndexDivisor octets_w, rows, depths;  // of a tile; rows are bands where a warp marches
  IndexDivisor in_step_w, phases_w, phases_h;
  IndexDivisor slab_groups, tiles_w, tiles_h, tiles_d;
};

// The first slab of inputs that a slab of outputs meets.
template <typename T>
__device__ __forceinline__ int first_in_slab(const SmallParams<T>& p, int out_slab) {
  return divide(out_slab * kSlab, p.per_group).quotient * p.inputs / kSlab;
}

// What a block owns: slabs of channels, and some tiles one after the other.
struct SmallBlock {
  int in_slab, out_slab;  // the first ones
  int tile, tiles;        // the first one, and how many
};

template <typename T>
__device__ __forceinline__ SmallBlock small_block(const SmallParams<T>& p) {
  const auto [tile_group, slab_group] = divide(static_cast<int>(blockIdx.x), p.slab_groups);
  const int out_slab = slab_group * p.plan.out_slabs, tile = tile_group * p.plan.tiles_of_block;
  return {first_in_slab(p, out_slab), out_slab, tile, min(p.plan.tiles_of_block, p.plan.tiles - tile)};
}

// What a warp owns of a tile: one slab of outputs, the slabs of inputs from one on, and every `parts`-th part of
// octets.
struct SmallWarp {
  int in_slab, out_slab;  // counted from the block's first
  int part, parts;
  bool idle;  // the slab does not exist
};

// The first of the slabs of inputs that one of the block's slabs of outputs is multiplied with.
template <typename T>
__device__ __forceinline__ int met_in_slab(const SmallParams<T>& p, const SmallBlock& block, int out_slab) {
  const int nth = first_in_slab(p, block.out_slab + out_slab) - block.in_slab;
  return min(nth, p.plan.in_slabs - p.plan.depth_slabs);
}

template <typename T>
__device__ __forceinline__ SmallWarp small_warp(const SmallParams<T>& p, const SmallBlock& block) {
  const int warp = static_cast<int>(threadIdx.x) / 32, slab = warp * p.plan.out_slabs / kSmallWarps;
  const int parts = p.plan.warps_of_slab;
  return {met_in_slab(p, block, slab), slab, warp - slab * parts, parts,
          (block.out_slab + slab) * kSlab >= p.out_channels};
}

// The first output of a tile, in numbers of a phase, and its images.
struct SmallPlace {
  int d, h, w, images;
  int64_t image;
};

template <typename T>
__device__ __forceinline__ SmallPlace small_place(const SmallParams<T>& p, int tile) {
  const auto [row_of_tiles, w] = divide(tile, p.tiles_w);
  const auto [plane_of_tiles, h] = divide(row_of_tiles, p.tiles_h);
  const auto [images, d] = divide(plane_of_tiles, p.tiles_d);
  const int64_t image = static_cast<int64_t>(images) * p.plan.images, left = p.images - image;
  return {d * p.plan.d.tile, h * p.plan.h.tile, w * p.plan.w.tile,
          static_cast<int>(left < p.plan.images ? left : p.plan.images), image};
}

// A thread's part of a tile: its slab, its first row and column, and how many rows.
struct SmallShare {
  int slab, row, column, rows;

  __device__ __forceinline__ SmallShare(const SmallSpread& spread, int height) {
    const auto [position, nth] = divide(static_cast<int>(threadIdx.x), spread.slabs);
    const auto [first_row, first_column] = divide(position, spread.columns);
    slab = nth, row = first_row, column = first_column;
    // Threads at the end may be left over.
    const bool any = first_row < min(height, spread.rows_at_once.size);
    rows = any ? divide(height - 1 - first_row, spread.rows_at_once).quotient + 1 : 0;
  }
};

// Calls visit(image, plane, column) for every column of a thread: the planes of a tile lie in `images` times `depth`.
template <typename Visit>
__device__ __forceinline__ void for_each_column(int images, int depth, int first, int columns, int columns_at_once,
                                                const Visit& visit) {
  for (int image = 0; image < images; image++) {
    for (int d = 0; d < depth; d++) {
      for (int column = first; column < columns; column += columns_at_once) visit(image, d, column);
    }
  }
}

// A thread's rows of one column of the input, from row h of the image on.
template <bool kVector, typename T>
__device__ __forceinline__ void copy_rows(unsigned char* to, const T* from, int rows, int h, int h_step, int height,
                                          int to_pitch, int64_t from_pitch, int channels) {
#pragma unroll 4
  for (int i = 0; i < rows; i++) {
    const bool inside = within(h, height);
    if constexpr (kVector) {
      if (inside) {
        ptx::cp_async<kVectorBytes>(to, from);
      } else {
        *reinterpret_cast<uint4*>(to) = make_uint4(0, 0, 0, 0);
      }
    } else {
#pragma unroll
      for (int e = 0; e < kSlab; e++) {
        reinterpret_cast<T*>(to)[e] = inside && e < channels ? from[e] : narrow<T>(0.0f);
      }
    }
    to += to_pitch, from += from_pitch, h += h_step;
  }
}

// Starts the copy of a tile of the input; what lies outside of it becomes zero.
template <typename T>
__device__ __forceinline__ void copy_tile(const SmallParams<T>& p, const SmallBlock& block, const SmallPlace& place,
                                          unsigned char* tile) {
  const SmallPlan& plan = p.plan;
  const SmallShare mine(p.in_spread, plan.h.extent);
  const int channel = (block.in_slab + mine.slab) * kSlab, channels = p.in_channels - channel;
  const int d0 = place.d * plan.d.in_step + plan.d.lowest, w0 = place.w * plan.w.in_step + plan.w.lowest;
  const int h = place.h * plan.h.in_step + plan.h.lowest + mine.row, at_once = p.in_spread.rows_at_once.size;
  const int64_t row_size = static_cast<int64_t>(plan.w.inputs) * p.in_channels;
  const auto copy_column = [&](int image, int d, int column) {
    const bool inside = image < place.images && within(d0 + d, plan.d.inputs) && within(w0 + column, plan.w.inputs);
    const int height = inside && channels > 0 ? plan.h.inputs : 0;
    const int64_t plane = (place.image + image) * plan.d.inputs + d0 + d;
    const T* const from = p.tensors.in + (plane * plan.h.inputs + h) * row_size +
                          static_cast<int64_t>(w0 + column) * p.in_channels + channel;
    const auto [nth, remainder] = divide(column, p.in_step_w);
    const int position = image * plan.image_pitch + d * plan.depth_pitch + mine.row * plan.row_pitch +
                         remainder * plan.column_class + nth;
    unsigned char* const to = tile + mine.slab * plan.in_pitch + position * kVectorBytes;
    const int to_pitch = at_once * plan.row_pitch * kVectorBytes;
    const int64_t from_pitch = at_once * row_size;
    if (p.vector_in) {
      copy_rows<true>(to, from, mine.rows, h, at_once, height, to_pitch, from_pitch, channels);
    } else {
      copy_rows<false>(to, from, mine.rows, h, at_once, height, to_pitch, from_pitch, channels);
    }
  };
  for_each_column(plan.images, plan.d.extent, mine.column, plan.w.extent, p.in_spread.columns_at_once, copy_column);
}

// A phase of each axis.
struct SmallPhases {
  int d, h, w;
};

template <typename T>
__device__ __forceinline__ SmallPhases phases_at(const SmallParams<T>& p, int phase) {
  const auto [of_planes, w] = divide(phase, p.phases_w);
  const auto [d, h] = divide(of_planes, p.phases_h);
  return {d, h, w};
}

// A thread's rows of one column of the output, from row h of the image on.
template <bool kVector, typename T>
__device__ __forceinline__ void store_rows(T* to, const unsigned char* from, int rows, int h, int h_step, int height,
                                           int64_t to_pitch, int from_pitch, int channels) {
#pragma unroll 4
  for (int i = 0; i < rows; i++) {
    if (h < height) {
      if constexpr (kVector) {
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
      } else {
#pragma unroll
        for (int e = 0; e < kSlab; e++) {
          if (e < channels) to[e] = reinterpret_cast<const T*>(from)[e];
        }
      }
    }
    to += to_pitch, from += from_pitch, h += h_step;
  }
}

// Stores the outputs of a phase. The stage has them as [image][depth][octet of columns][row][column].
template <typename T>
__device__ __forceinline__ void store_tile(const SmallParams<T>& p, const SmallBlock& block, const SmallPlace& place,
                                           const SmallPhases& phase, const unsigned char* stage) {
  const SmallPlan& plan = p.plan;
  const SmallShare mine(p.out_spread, plan.h.tile);
  const int channel = (block.out_slab + mine.slab) * kSlab, channels = p.out_channels - channel;
  if (channels <= 0) return;
  const int at_once = p.out_spread.rows_at_once.size;
  const int h = (place.h + mine.row) * plan.h.out_step + phase.h;
  const int64_t row_size = static_cast<int64_t>(plan.w.outputs) * p.out_channels;
  const auto store_column = [&](int image, int d, int column) {
    const int out_d = (place.d + d) * plan.d.out_step + phase.d;
    const int out_w = (place.w + column) * plan.w.out_step + phase.w;
    const int height = out_d < plan.d.outputs && out_w < plan.w.outputs ? plan.h.outputs : 0;
    const int64_t plane = (place.image + image) * plan.d.outputs + out_d;
    T* const to = p.tensors.out + (plane * plan.h.outputs + h) * row_size +
                  static_cast<int64_t>(out_w) * p.out_channels + channel;
    const int octet = (image * plan.d.tile + d) * (plan.w.tile / kOctet) + column / kOctet;
    const int position = (octet * plan.h.tile + mine.row) * kOctet + column % kOctet;
    const unsigned char* const from = stage + mine.slab * plan.out_pitch + position * kVectorBytes;
    const int h_step = at_once * plan.h.out_step, from_pitch = at_once * kOctet * kVectorBytes;
    const int64_t to_pitch = h_step * row_size;
    if (p.vector_out) {
      store_rows<true>(to, from, mine.rows, h, h_step, height, to_pitch, from_pitch, channels);
    } else {
      store_rows<false>(to, from, mine.rows, h, h_step, height, to_pitch, from_pitch, channels);
    }
  };
  for_each_column(place.images, plan.d.tile, mine.column, plan.w.tile, p.out_spread.columns_at_once, store_column);
}

// A lane's two rows of B (inputs 2t and 2t + 1 of a slab) and its column (output g of a slab): where the weights begin,
// if the two channels are of one group.
template <typename T>
struct LaneWeights {
  const T* from[2];
  bool there[2];
  int tap_size;  // elements between taps

  __device__ __forceinline__ LaneWeights(const SmallParams<T>& p, int in_slab, int out_slab) {
    const int lane = static_cast<int>(threadIdx.x) % 32, output = out_slab * kSlab + lane / 4;
    const auto [group, of_group] = divide(output, p.per_group);
    tap_size = p.dgrad ? p.outputs : p.inputs;
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int input = in_slab * kSlab + lane % 4 * 2 + e, nth = input - group * p.inputs;
      there[e] = within(nth, p.inputs) && output < p.out_channels;
      const int64_t filter = p.dgrad ? input : output;
      from[e] = p.tensors.filter + (there[e] ? filter * p.taps * tap_size + (p.dgrad ? of_group : nth) : 0);
    }
  }

  // Counts taps from the last one.
  __device__ __forceinline__ void turn_round(int taps) {
    from[0] += (taps - 1) * tap_size;
    from[1] += (taps - 1) * tap_size;
    tap_size = -tap_size;
  }

  // The register of B for a tap.
  __device__ __forceinline__ uint32_t at(int tap) const {
    using Bits = unsigned short;
    const int64_t skip = static_cast<int64_t>(tap) * tap_size;
    const uint32_t low = there[0] ? reinterpret_cast<const Bits*>(from[0])[skip] : 0;
    const uint32_t high = there[1] ? reinterpret_cast<const Bits*>(from[1])[skip] : 0;
    return low | high << 16;
  }
};

// The sums that mma starts from: the bias of a lane's two outputs, for both octets.
template <typename T>
__device__ __forceinline__ void lane_bias(const SmallParams<T>& p, int out_slab, float (&bias)[4]) {
  const int output = out_slab * kSlab + static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int e = 0; e < 2; e++) {
    const bool there = p.tensors.bias != nullptr && output + e < p.out_channels;
    bias[e] = bias[e + 2] = there ? widen(p.tensors.bias[output + e]) : 0.0f;
  }
}

// Where the inputs of an octet of outputs begin in the tile, in positions. Octets are counted by image, depth, column
// and row (or band of kRows), as they lie in the stage.
template <int kRows, typename T>
__device__ __forceinline__ int octet_inputs(const SmallParams<T>& p, int octet) {
  const SmallPlan& plan = p.plan;
  const auto [column_of_tile, row] = divide(octet, p.rows);
  const auto [plane, column] = divide(column_of_tile, p.octets_w);
  const auto [image, d] = divide(plane, p.depths);
  return image * plan.image_pitch + d * plan.d.in_step * plan.depth_pitch +
         row * kRows * plan.h.in_step * plan.row_pitch + column * kOctet;
}

// Two neighbouring outputs of a lane into the stage.
template <typename T>
__device__ __forceinline__ void stage_pair(unsigned char* to, float first, float second) {
  *reinterpret_cast<PairOf<T>*>(to) = narrow_pair<T>(make_float2(first, second));
}

}  // namespace convbound::grouped
