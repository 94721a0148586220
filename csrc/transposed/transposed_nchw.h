// What the NCHW kernels of strided dgrad share: axes, tile and parameters. The passes' headers have the algorithms.
//
// dx is cut into blocks of stride x stride elements: with a = h + padding, block i holds the rows a = i * stride + f of
// phases f < stride. Row a and tap r meet dy's row p = (a - r) / stride where that division is exact, so a block needs
// every tap of the filter exactly once, and the rows of dy from i down.
//
// A tile of dx is one contiguous run of memory: several whole (n, c) planes, or a band of rows of one plane, or, where
// rows do not depend on each other (1-D), a part of one row. The rows of dy that it needs are one run too.
#pragma once

#include "csrc/common/divisor.h"
#include "csrc/common/filter_stage.h"
#include "csrc/common/numeric.h"
#include "csrc/common/shared.h"
#include "csrc/transposed/transposed.h"

namespace convbound::transposed {

// 128 threads and about 20 KB of shared memory: 7 blocks share an SM of sm_80 and 10 one of sm_90, if registers (64 at
// 3x3 and 4x4, 80 at 5x5, at most 128 at 7x7) do not stop at 8, 6 and 4.
constexpr int kThreads = 128;
constexpr int64_t kTargetBytes = 20 * 1024;
constexpr int64_t kMostBytes = 96 * 1024;
constexpr int64_t kFewestBlocks = 1024;  // several waves on any GPU, where the tensor is large enough

struct Axis {
  int input, output, filter, stride, padding, dilation;
  int first_block, blocks;  // blocks of `stride` elements that hold any of dx
  int tile, tiles;          // blocks in a tile, tiles in a plane
};

Axis make_axis(const ConvProblem&, int axis);  // 1 is h, 2 is w; uncut

struct Tile {
  Axis h, w;
  int planes;                                     // whole planes in a tile; 1 where a plane is cut
  int multiplier;                                 // planes of dy for one of dx
  int dx_elements, dy_elements, filter_elements;  // of the stages
  int dy_stages;  // one for each plane of dy where a plane is cut, for then they are runs apart
  // stride2: threads of one plane's team, and teams; threads that walk down one group of columns of the tile, and how
  // far; groups of columns.
  int team, teams, segments, steps, columns;

  int64_t shared_bytes(int64_t element_bytes) const {
    return (dx_elements + int64_t{dy_stages} * dy_elements + filter_elements) * element_bytes + int64_t{planes} * 4;
  }
};

// Depthwise, 1-D or 2-D, sizes within 32 bits.
bool strided_depthwise_dgrad(const ConvProblem&);

// Columns of dx that a thread of the stride-2 kernel makes: two pairs at 5x5, where one has too few FMA for its loads.
constexpr int column_group(int filter) { return filter == 5 ? 4 : 2; }

Tile choose_tile(const ConvProblem&, int element_bytes);

LaunchShape tile_shape(const ConvProblem&, const Tile&, int element_bytes);

template <typename T>
struct Params {
  const T* dy;
  const T* filter;
  const T* bias;
  T* dx;
  int64_t planes;
  Divisor channels;
  Tile tile;
  IndexDivisor tiles, wrap, team, columns;
};

// The part of a tile that exists, as one block has it.
struct Range {
  int i, i_end;  // blocks of rows
  int j, j_end;
  int h, h_end;  // rows of dx
  int w, w_end;
  int p, p_end;  // rows of dy
  int q, q_end;
};

// dy in shared memory.
template <typename T>
struct Staged {
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

__device__ __forceinline__ void cut(const Axis& axis, int tile, int& block, int& block_end, int& in, int& in_end,
                                    int& out, int& out_end) {
  const int reach = (axis.filter - 1) * axis.dilation;
  block = axis.first_block + tile * axis.tile;
  block_end = min(block + axis.tile, axis.first_block + axis.blocks);
  in = max(block * axis.stride - axis.padding, 0);
  in_end = min(block_end * axis.stride - axis.padding, axis.input);
  // The least and the largest quotient of any element and tap; a block below 0 may not be divided.
  const int least = block * axis.stride - reach;
  out = least < 0 ? 0 : min(least / axis.stride, axis.output);
  out_end = max(min(block_end, axis.output), out);
}

// Filter and bias of the tile's planes, in shared memory.
template <typename T>
struct StagedFilters {
  FilterStage<T> filters;
  const float* biases;
  int first_channel;

  __device__ __forceinline__ const T* taps(const Params<T>& params, int plane) const {
    return filters(divide(first_channel + plane, params.wrap).remainder);
  }
};

// Loads what the tile needs; calls compute(range, planes, dx stage, dy, filters) between two barriers; stores dx.
template <typename T, typename Compute>
__device__ __forceinline__ void run_tile(const Params<T>& params, const Compute& compute) {
  const Tile& tile = params.tile;
  const int thread = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x);
  const QuotientRemainder at = divide(block, params.tiles);
  const int64_t first_plane = static_cast<int64_t>(at.quotient) * tile.planes;
  const int planes = static_cast<int>(min(static_cast<int64_t>(tile.planes), params.planes - first_plane));
  Range range;
  cut(tile.h, tile.w.tiles == 1 ? at.remainder : 0, range.i, range.i_end, range.h, range.h_end, range.p, range.p_end);
  cut(tile.w, tile.w.tiles == 1 ? 0 : at.remainder, range.j, range.j_end, range.w, range.w_end, range.q, range.q_end);

  T* const dx_stage = dynamic_shared<T>();
  T* const dy_stage = dx_stage + tile.dx_elements;
  T* const filter_stage = dy_stage + tile.dy_stages * tile.dy_elements;
  float* const biases = reinterpret_cast<float*>(filter_stage + tile.filter_elements);

  const int plane_elements = tile.h.output * tile.w.output;
  const T* const dy = params.dy + first_plane * tile.multiplier * plane_elements +
                      static_cast<int64_t>(range.p) * tile.w.output + range.q;
  const int rows = range.p_end - range.p, joined = tile.dy_stages == 1 ? planes * tile.multiplier - 1 : 0;
  const int dy_count = rows == 0 ? 0 : joined * plane_elements + (rows - 1) * tile.w.output + range.q_end - range.q;
  for (int stage = 0; stage < tile.dy_stages; stage++) {
    const T* const from = dy + static_cast<int64_t>(stage) * plane_elements;
    load_run(dy_stage + stage * tile.dy_elements + elements_after_boundary(from), from, dy_count, kThreads, thread);
  }
  int64_t image = first_plane;
  const int first_channel = take(image, params.channels);
  const StagedFilters<T> filters{load_filters(filter_stage, params.filter, first_channel, planes, params.channels.size,
                                              tile.multiplier * tile.h.filter * tile.w.filter, thread, kThreads),
                                 biases, first_channel};
  ptx::cp_async_commit();
  for (int plane = thread; plane < planes; plane += kThreads) {
    const int channel = divide(first_channel + plane, params.wrap).remainder;
    biases[plane] = params.bias != nullptr ? widen(params.bias[channel]) : 0.0f;
  }
  ptx::cp_async_wait_all();
  __syncthreads();

  T* const dx =
      params.dx + first_plane * tile.h.input * tile.w.input + static_cast<int64_t>(range.h) * tile.w.input + range.w;
  T* const dx_staged = dx_stage + elements_after_boundary(dx);
  compute(range, planes, dx_staged, Staged<T>{dy_stage, dy, plane_elements, tile.dy_stages, tile.dy_elements}, filters);
  __syncthreads();
  const int dx_count =
      (planes - 1) * tile.h.input * tile.w.input + (range.h_end - range.h - 1) * tile.w.input + range.w_end - range.w;
  store_run(dx, dx_staged, dx_count, kThreads, thread);
}

template <typename T>
Params<T> make_params(const ConvProblem& p, const Tensors& t) {
  const Tile tile = choose_tile(p, sizeof(T));
  return {static_cast<const T*>(t.y),
          static_cast<const T*>(t.w),
          static_cast<const T*>(t.bias),
          static_cast<T*>(t.x),
          p.n * p.c,
          Divisor(p.c),
          tile,
          IndexDivisor(int64_t{tile.h.tiles} * tile.w.tiles),
          IndexDivisor(p.c),
          IndexDivisor(tile.team),
          IndexDivisor(tile.columns)};
}

}  // namespace convbound::transposed
