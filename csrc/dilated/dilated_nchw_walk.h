// How a thread of the dilated NCHW kernel walks down a column through the rows of a class, all in shared memory:
// dilated_nchw.cu has the idea.
#pragma once

#include "csrc/common/numeric.h"
#include "csrc/dilated/dilated_nchw_plan.h"

namespace convbound::dilated {

// One thread's part of one plane: a column of some classes of rows. `in` is where the first tap meets the first output
// (it may lie in the padding), `y` and `y_end` are rows of class 0.
template <typename T>
struct ClassWalk {
  const T* in;
  T* out;
  int row_class, class_end, class_step;
  int y, y_end;
  int x, x_end;
};

// 3x3: down two columns of input, half a row apart, which share the tests for rows and the loop. A row adds to three
// outputs of each, whose sums take turns; one in the padding is passed over.
template <typename T>
struct ColumnPair {
  const T* at[2][3];  // where the taps of a row read; a column in the padding reads a zero, again and again
  int step[2][3];
  float sum[2][3] = {};

  __device__ __forceinline__ void add_row(int turn, int y, const AxisView& h, const float (&tap)[9], float bias) {
    sum[0][turn % 3] = sum[1][turn % 3] = bias;
    if (within(y, h.input)) {
#pragma unroll
      for (int i = 0; i < 6; i++) {
        const int column = i / 3, s = i % 3;
        const float value = widen(*at[column][s]);
#pragma unroll
        for (int r = 0; r < 3; r++) {
          float& to = sum[column][(turn - r + 3) % 3];
          to = fmaf(value, tap[3 * r + s], to);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 6; i++) at[i / 3][i % 3] += step[i / 3][i % 3];
  }
};

template <typename T>
__device__ __forceinline__ void walk_3x3(const DilatedNchwParams<T>& params, const ClassWalk<T>& walk,
                                         const float (&tap)[9], float bias, const T* zero) {
  const AxisView &h = params.conv.view.h, &w = params.conv.view.w;
  const DilatedNchwTile& tile = params.tile;
  const int apart = tile.item_columns;
  const bool second = walk.x + apart < walk.x_end;
#pragma unroll 1
  for (int row_class = walk.row_class; row_class < walk.class_end; row_class += walk.class_step) {
    const int skipped = row_class - walk.row_class;
    const T* const in = walk.in + skipped * tile.in.row;
    T* out = walk.out + skipped * tile.out.row;
    ColumnPair<T> columns;
#pragma unroll
    for (int i = 0; i < 6; i++) {
      const int column = i / 3, s = i % 3, offset = column * apart + s * w.dilation;
      const bool inside = (column == 0 || second) && within(walk.x - w.padding + offset, w.input);
      columns.at[column][s] = inside ? in + offset : zero;
      columns.step[column][s] = inside ? tile.in.step : 0;
    }
    int y = walk.y + row_class - h.padding;
    const int y_end = min(walk.y_end + row_class, h.output) - h.padding + 2 * h.dilation;
    columns.add_row(0, y, h, tap, bias);
    columns.add_row(1, y + h.dilation, h, tap, bias);
    y += 2 * h.dilation;
#pragma unroll 1
    while (y < y_end) {
#pragma unroll
      for (int turn = 2; turn < 5; turn++) {
        if (turn > 2 && y >= y_end) break;
        columns.add_row(turn, y, h, tap, bias);
        y += h.dilation;
        out[0] = narrow<T>(columns.sum[0][(turn + 1) % 3]);
        if (second) out[apart] = narrow<T>(columns.sum[1][(turn + 1) % 3]);
        out += tile.out.step;
      }
    }
  }
}

// Any filter: kBatch outputs for each tap that is loaded, a step of the class apart, or in 1-D a part of the row.
template <typename T>
__device__ __forceinline__ void walk_any(const DilatedNchwParams<T>& params, const ClassWalk<T>& walk, const T* filter,
                                         int direction, float bias) {
  const TrimmedConv& conv = params.conv;
  const DilatedNchwTile& tile = params.tile;
  const AxisView &h = conv.view.h, &w = conv.view.w;
  const int by_x = tile.one_row ? tile.item_columns : 0, by_y = tile.one_row ? 0 : h.dilation;
  const int in_batch = tile.one_row ? by_x : tile.in.step, out_batch = tile.one_row ? by_x : tile.out.step;
  const int x_in = walk.x - w.padding, inputs = conv.view.inputs;
  const T* first_in = walk.in;
  T* first_out = walk.out;
#pragma unroll 1
  for (int row_class = walk.row_class; row_class < walk.class_end; row_class += walk.class_step) {
    const int y_end = min(walk.y_end + row_class, h.output);
    const T* in = first_in;
    T* out = first_out;
#pragma unroll 1
    for (int y = walk.y + row_class; y < y_end; y += kBatch * h.dilation) {
      bool wanted[kBatch];
      float sum[kBatch];
#pragma unroll
      for (int b = 0; b < kBatch; b++) {
        wanted[b] = y + b * by_y < y_end && walk.x + b * by_x < walk.x_end;
        sum[b] = bias;
      }
      const int y_in = y - h.padding;
      const bool inner = wanted[kBatch - 1] && y_in >= 0 && x_in >= 0 &&
                         y_in + (h.filter - 1) * h.dilation + (kBatch - 1) * by_y < h.input &&
                         x_in + (w.filter - 1) * w.dilation + (kBatch - 1) * by_x < w.input;
      for (int input = 0; input < inputs; input++) {
        for (int r = 0; r < h.filter; r++) {
          const T* tap = filter + input * conv.taps + direction * r * conv.tap_row;
          const T* value = in + input * tile.in.plane + r * tile.in.step;
          if (inner) {
#pragma unroll 1
            for (int s = 0; s < w.filter; s++, tap += direction, value += w.dilation) {
              const float factor = widen(*tap);
#pragma unroll
              for (int b = 0; b < kBatch; b++) sum[b] = fmaf(widen(value[b * in_batch]), factor, sum[b]);
            }
          } else {
#pragma unroll 1
            for (int s = 0; s < w.filter; s++, tap += direction, value += w.dilation) {
              const float factor = widen(*tap);
#pragma unroll
              for (int b = 0; b < kBatch; b++) {
                const bool there = wanted[b] && within(y_in + r * h.dilation + b * by_y, h.input) &&
                                   within(x_in + s * w.dilation + b * by_x, w.input);
                if (there) sum[b] = fmaf(widen(value[b * in_batch]), factor, sum[b]);
              }
            }
          }
        }
      }
#pragma unroll
      for (int b = 0; b < kBatch; b++) {
        if (wanted[b]) out[b * out_batch] = narrow<T>(sum[b]);
      }
      in += kBatch * tile.in.step;
      out += kBatch * tile.out.step;
    }
    first_in += walk.class_step * tile.in.row;
    first_out += walk.class_step * tile.out.row;
  }
}

}  // namespace convbound::dilated
