// What the NCHW kernels of strided dgrad do alike: a tile of dx, what it needs in shared memory, and its way back. The
// kernels' files have the algorithms, transposed_blocks.h has the blocks of dx.
//
// A tile of dx is one contiguous run of memory: several whole (n, c) planes, or a band of rows of one plane, or, where
// rows do not depend on each other (1-D), a part of one row. The rows of dy that it needs are one run too, from those
// of its blocks down.
#pragma once

#include "csrc/common/numeric.h"
#include "csrc/common/plane_filters.h"
#include "csrc/common/shared.h"
#include "csrc/transposed/transposed_nchw_plan.h"

namespace convbound::transposed {

// The part of an axis that a tile has: blocks, and rows or columns of dx and dy.
struct AxisPart {
  int block, block_end;
  int in, in_end;
  int out, out_end;
};

struct TilePart {
  AxisPart h, w;
};

// dy in shared memory.
template <typename T>
struct StagedDy {
  const T* stage;
  const T* global;
  int plane;          // elements of a plane
  int stages, pitch;  // and elements of a stage

  // The tile's first row in the plane with this number.
  __device__ __forceinline__ const T* operator()(int number) const {
    if (stages == 1) return stage + elements_after_boundary(global) + number * plane;
    return stage + number * pitch + elements_after_boundary(global + static_cast<int64_t>(number) * plane);
  }
};

__device__ __forceinline__ AxisPart part_of_axis(const AxisView& axis, const DxBlocks& blocks, int tile) {
  AxisPart part;
  const int reach = (axis.filter - 1) * axis.dilation;
  part.block = blocks.first + tile * blocks.tile;
  part.block_end = min(part.block + blocks.tile, blocks.first + blocks.count);
  part.in = max(part.block * axis.stride - axis.padding, 0);
  part.in_end = min(part.block_end * axis.stride - axis.padding, axis.input);
  // The least and the largest quotient of any element and tap; a block below 0 may not be divided.
  const int least = part.block * axis.stride - reach;
  part.out = least < 0 ? 0 : min(least / axis.stride, axis.output);
  part.out_end = max(min(part.block_end, axis.output), part.out);
  return part;
}

// Filters and biases of the tile's planes, in shared memory.
template <typename T>
struct StagedFilters {
  const T* taps;
  const float* biases;
  int of_plane;  // taps

  __device__ __forceinline__ const T* operator()(int plane) const { return taps + plane * of_plane; }
};

// Where a block's tile lies in global and in shared memory.
template <typename T>
struct TilePlace {
  TilePart part;
  int64_t first_plane;
  int planes;
  const T* dy;
  T* dx;
  T *dx_stage, *dy_stage, *filter_stage;
  float* biases;
};

template <typename T>
__device__ __forceinline__ TilePlace<T> place_tile(const TransposedNchwParams<T>& params) {
  const TransposedNchwTile& tile = params.tile;
  const AxisView &h = params.view.h, &w = params.view.w;
  TilePlace<T> place;
  const QuotientRemainder at = divide(static_cast<int>(blockIdx.x), params.tiles);
  place.first_plane = static_cast<int64_t>(at.quotient) * tile.planes;
  place.planes = static_cast<int>(min(static_cast<int64_t>(tile.planes), params.planes - place.first_plane));
  place.part.h = part_of_axis(h, tile.h, tile.w.tiles == 1 ? at.remainder : 0);
  place.part.w = part_of_axis(w, tile.w, tile.w.tiles == 1 ? 0 : at.remainder);
  place.dy = params.in + place.first_plane * params.view.outputs * (h.output * w.output) +
             static_cast<int64_t>(place.part.h.out) * w.output + place.part.w.out;
  place.dx = params.out + place.first_plane * h.input * w.input + static_cast<int64_t>(place.part.h.in) * w.input +
             place.part.w.in;
  place.dx_stage = dynamic_shared<T>();
  place.dy_stage = place.dx_stage + tile.dx_elements;
  place.filter_stage = place.dy_stage + tile.dy_stages * tile.dy_elements;
  place.biases = reinterpret_cast<float*>(place.filter_stage + tile.filter_elements);
  return place;
}

template <typename T>
__device__ __forceinline__ StagedDy<T> copy_dy(const TransposedNchwParams<T>& params, const TilePlace<T>& place) {
  const TransposedNchwTile& tile = params.tile;
  const AxisView &h = params.view.h, &w = params.view.w;
  const int plane_elements = h.output * w.output, rows = place.part.h.out_end - place.part.h.out;
  const int joined = tile.dy_stages == 1 ? place.planes * params.view.outputs - 1 : 0;
  const int count =
      rows == 0 ? 0 : joined * plane_elements + (rows - 1) * w.output + place.part.w.out_end - place.part.w.out;
  for (int stage = 0; stage < tile.dy_stages; stage++) {
    const T* const from = place.dy + static_cast<int64_t>(stage) * plane_elements;
    load_run(place.dy_stage + stage * tile.dy_elements + elements_after_boundary(from), from, count, kThreads);
  }
  return {place.dy_stage, place.dy, plane_elements, tile.dy_stages, tile.dy_elements};
}

template <typename T>
__device__ __forceinline__ StagedFilters<T> copy_filters(const TransposedNchwParams<T>& params,
                                                         const TilePlace<T>& place) {
  const ConvView& v = params.view;
  const int taps = v.outputs * v.h.filter * v.w.filter;
  int64_t image = place.first_plane;
  const int channel = take(image, params.channels);
  load_plane_biases(place.biases, params.bias, channel, place.planes, v.groups, kThreads);
  return {load_plane_filters(place.filter_stage, params.filter, channel, place.planes, v.groups, taps, kThreads),
          place.biases, taps};
}

template <typename T>
__device__ __forceinline__ void store_dx(const TransposedNchwParams<T>& params, const TilePlace<T>& place,
                                         const T* staged) {
  const int width = params.view.w.input;
  const AxisPart &h = place.part.h, &w = place.part.w;
  const int count = (place.planes - 1) * params.view.h.input * width + (h.in_end - h.in - 1) * width + w.in_end - w.in;
  store_run(place.dx, staged, count, kThreads);
}

// Loads what the tile needs; calls compute(part, planes, dx stage, dy, filters) between two barriers; stores dx.
template <typename T, typename Compute>
__device__ __forceinline__ void run_tile(const TransposedNchwParams<T>& params, const Compute& compute) {
  const TilePlace<T> place = place_tile(params);
  const StagedDy<T> dy = copy_dy(params, place);
  const StagedFilters<T> filters = copy_filters(params, place);
  ptx::cp_async_wait_all();
  __syncthreads();
  T* const dx_staged = place.dx_stage + elements_after_boundary(place.dx);
  compute(place.part, place.planes, dx_staged, dy, filters);
  __syncthreads();
  store_dx(params, place, dx_staged);
}

}  // namespace convbound::transposed
