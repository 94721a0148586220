// How the tiled kernel (depthwise_nchw_tiled.cu) shares planes out to blocks and threads. Host code.
#pragma once

#include <algorithm>

#include "csrc/common/integers.h"
#include "csrc/depthwise/depthwise_nchw.h"

namespace convbound::depthwise {

constexpr int kTiledThreads = 128;
constexpr int kTiledRows = 4;                   // of output per thread
constexpr int kSeveralPlanesBytes = 32 * 1024;  // of shared memory, for a block with several planes

struct TiledPlan {
  int slot_log2;         // lanes that lie beside each other along W
  int columns, rows;     // groups of outputs in a tile: per row, and of kTiledRows rows
  int tiles_h, tiles_w;  // of a plane
  int planes;            // per block
  int threads;
  int in_rows, pitch;  // of the input tile, in elements
  int skew;            // elements between every kTiledRows rows of it, for other banks
  int plane_elements;  // from one plane's tile to the next one's
  int filter_pitch;    // floats of a row of the filter
  int filter_stride;   // floats from one plane's filter to the next one's
  int chunk_log2;      // lanes that load one row of the input tile
  int x_bytes, w_bytes, y_bytes;

  int64_t shared_bytes() const { return int64_t{x_bytes} + w_bytes + y_bytes; }
};

struct TiledShape {
  int element, columns;  // bytes; outputs of a thread along W
};

inline TiledPlan plan_tiled(const ConvView& p, const TiledShape& shape) {
  constexpr int kWidest = 128;  // columns of output in a tile
  const int vector = 16 / shape.element;
  TiledPlan plan{};
  const int all_columns = divide_up(p.w.output, shape.columns), all_rows = divide_up(p.h.output, kTiledRows);
  plan.tiles_w = divide_up(all_columns, kWidest / shape.columns);
  plan.columns = divide_up(all_columns, plan.tiles_w);
  plan.slot_log2 = log2_up(plan.columns);
  const int slot = 1 << plan.slot_log2;
  // What a tile of some rows and planes takes.
  const auto size_up = [&](int rows, int planes) {
    plan.rows = rows;
    plan.planes = planes;
    plan.tiles_h = divide_up(all_rows, rows);
    plan.in_rows = (rows * kTiledRows - 1) * p.h.stride + p.h.filter;
    // Vectors of input are loaded as far as whole chunks of taps reach.
    plan.pitch = round_up((plan.columns * shape.columns - 1) * p.w.stride + 1 + round_up(p.w.filter, vector), vector);
    const int wavefront = 8 * vector;  // 128 bytes: threads below each other should start where their upper one ends
    const auto until = [&](int at, int wanted) { return static_cast<int>(modulo(wanted - at, wavefront)); };
    plan.skew = shape.columns > 1 ? until(kTiledRows * plan.pitch, slot * vector) : 0;
    const int elements = plan.in_rows * plan.pitch + divide_up(plan.in_rows, kTiledRows) * plan.skew;
    plan.plane_elements = elements + until(elements, rows * slot * vector);
    plan.filter_pitch = round_up(p.w.filter, 4);
    plan.filter_stride = round_up(p.h.filter * plan.filter_pitch, 32) + 4;
    plan.x_bytes = planes * plan.plane_elements * shape.element;
    plan.w_bytes = planes * plan.filter_stride * 4;
    const int out_row = std::min(plan.columns * shape.columns, p.w.output);
    plan.y_bytes = round_up(planes * rows * kTiledRows * out_row * shape.element, 16) + 16;
    return plan.shared_bytes();
  };
  const int most_rows = std::max(1, kTiledThreads >> plan.slot_log2);
  int rows = divide_up(all_rows, divide_up(all_rows, most_rows));
  for (int halvings = 0; halvings < 5; halvings++) {
    if (size_up(rows, 1) > kMostSharedBytes) rows = divide_up(rows, 2);
  }
  const int one = size_up(rows, 1);
  int planes = 1;
  if (plan.tiles_h * plan.tiles_w == 1) {
    planes = std::max(1, std::min(kTiledThreads / (slot * rows), kSeveralPlanesBytes / one));
  }
  size_up(rows, planes);
  plan.threads = round_up(slot * rows * planes, 32);
  plan.chunk_log2 = std::min(5, log2_up(plan.pitch / vector + 1));
  return plan;
}

inline LaunchShape tiled_shape(const ConvView& p, const TiledPlan& plan) {
  return {.grid_x = divide_up(planes_of(p), plan.planes) * plan.tiles_h * plan.tiles_w,
          .block_x = plan.threads,
          .shared_bytes = static_cast<size_t>(plan.shared_bytes())};
}

}  // namespace convbound::depthwise
