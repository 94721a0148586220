// What a block of the implicit GEMM (grouped_gemm.h) owns, and how it copies inputs and filter to shared memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "csrc/common/numeric.h"
#include "csrc/common/ptx.h"
#include "csrc/common/vector.h"
#include "csrc/grouped/grouped_gemm_plan.h"

namespace convbound::grouped {

template <typename T>
struct GemmParams : ConvTensors<T> {
  GemmShape shape;
  bool copy_vectors, out_vectors;  // granules lie at 16-byte boundaries
};

// An output position: where its first tap reads, and the offsets of both, in elements.
struct GemmRow {
  int d, h, w;
  int64_t in, out;  // out < 0: there is no such position
};

// Where 16 bytes of a row of shared memory lie, in elements: neighbouring rows have them in other banks, rows that are
// a multiple of 32 apart in the same ones.
template <typename T, int kGranules>
__device__ __forceinline__ int swizzled(int row, int granule) {
  const int turn = kGranules >= 8 ? (row ^ (row / 8 * 2)) & 7 : row / (8 / kGranules) % kGranules;
  return (row * kGranules + (granule ^ turn)) * kVectorElements<T>;
}

// What a block owns: positions of one phase, channels of one group.
template <Pass kPass>
struct GemmBlock {
  AxisPhase d, h, w;
  int group, first_channel;
  int64_t first_position;

  __device__ __forceinline__ GemmBlock(const GemmShape& shape, const GemmTile& tile) {
    int64_t index = blockIdx.x;
    first_channel = take(index, shape.column_tiles) * tile.columns;
    group = take(index, shape.groups);
    w = phase_of<kPass>(shape.w, take(index, shape.w.phases));
    h = phase_of<kPass>(shape.h, take(index, shape.h.phases));
    d = phase_of<kPass>(shape.d, take(index, shape.d.phases));
    first_position = index * tile.rows;
  }

  __device__ __forceinline__ int64_t positions(const GemmShape& shape) const {
    return shape.images * d.outputs * h.outputs * w.outputs;
  }

  __device__ __forceinline__ int taps() const { return d.taps * h.taps * w.taps; }
};

template <Pass kPass>
__device__ __forceinline__ int take_output(int64_t& index, const GemmAxis& axis, const AxisPhase& phase) {
  return take(index, kPass == Pass::kDgrad && phase.outputs == axis.more.size ? axis.more : axis.fewer);
}

// The coordinates of the block's position number `row`.
template <Pass kPass>
__device__ __forceinline__ GemmRow row_of(const GemmBlock<kPass>& block, const GemmShape& shape, int row) {
  int64_t index = block.first_position + row;
  constexpr int kNowhere = -(1 << 30);  // no tap moves it into the input
  if (index >= block.positions(shape)) return {kNowhere, 0, 0, 0, -1};
  const auto extent = [](const AxisView& v) { return kPass == Pass::kFprop ? v.output : v.input; };
  const int w = take_output<kPass>(index, shape.w, block.w);
  const int h = take_output<kPass>(index, shape.h, block.h);
  const int d = take_output<kPass>(index, shape.d, block.d);
  const int out_w = block.w.out_first + w * block.w.out_step, out_h = block.h.out_first + h * block.h.out_step;
  const int out_d = block.d.out_first + d * block.d.out_step;
  const int64_t out_row = (index * extent(shape.d.view) + out_d) * extent(shape.h.view) + out_h;
  GemmRow found;
  found.d = block.d.in_first + d * block.d.in_step;
  found.h = block.h.in_first + h * block.h.in_step;
  found.w = block.w.in_first + w * block.w.in_step;
  const int64_t in_row = (index * block.d.inputs + found.d) * block.h.inputs + found.h;
  found.in = (in_row * block.w.inputs + found.w) * shape.in_pitch + int64_t{block.group} * shape.inputs;
  found.out = (out_row * extent(shape.w.view) + out_w) * shape.out_pitch + int64_t{block.group} * shape.outputs +
              block.first_channel;
  return found;
}

// Copies `count` elements to 16 bytes of shared memory, and zeros behind them.
template <typename T>
__device__ __forceinline__ void copy_elements(T* to, const T* from, int count) {
  constexpr int kElements = kVectorElements<T>;
  Vector<T> vector;
#pragma unroll
  for (int i = 0; i < kElements; i++) vector.element[i] = i < count ? from[i] : narrow<T>(0.0f);
  store_vector(to, vector);
}

// Copies one stage after the other to shared memory: rows of inputs and of the filter, 4 granules deep.
// A thread has the same granule of each row, so it walks the depth once: the granules of a tap, then the next tap.
//
// The filter [K][taps][C/g] has its depth in rows for fprop, so a stage holds rows of channels. For dgrad its depth, K,
// goes from row to row: a stage holds rows of depth with the channels that are written side by side.
template <typename T, Pass kPass, GemmTile kTile>
class GemmCopies {
  static constexpr int kColumns = kTile.columns;
  static constexpr int kElements = kVectorElements<T>, kThreadsOfGranule = kGemmThreads / kGemmGranules;
  static constexpr int kRowsOfThread = kTile.rows / kThreadsOfGranule;
  static constexpr bool kKeepRows = kColumns <= 32;  // in registers, where the sums leave room
  static constexpr int kItemsOfThread = (kColumns + kThreadsOfGranule - 1) / kThreadsOfGranule;
  static constexpr int kColumnGranules = kColumns / kElements;
  static constexpr int kRow = kGemmGranules * kElements;  // of inputs
  static constexpr bool kDgrad = kPass == Pass::kDgrad;

 public:
  static constexpr int kInElements = kTile.rows * kRow;
  static constexpr int kStageElements = kInElements + kColumns * kRow;

  __device__ __forceinline__ GemmCopies(const GemmParams<T>& params, const GemmBlock<kPass>& block, const GemmRow* rows)
      : params_(params), block_(block), rows_(rows), channels_(params.shape.outputs - block.first_channel) {
    const GemmShape& s = params.shape;
    const int64_t row = int64_t{s.taps} * (kDgrad ? s.outputs : s.inputs);
    filter_ = params.filter + int64_t{block.group} * (kDgrad ? s.inputs : s.outputs) * row;
    if (kDgrad) {
      filter_ += block.first_channel + (channel_of(item_) < channels_ ? channel_of(item_) : 0);
    } else {
      filter_ += block.first_channel * row;
    }
#pragma unroll
    for (int i = 0; i < kRowsOfThread; i++) kept_[i] = rows[item_ + i * kThreadsOfGranule];
    const auto [tap, granule] = divide(column_, s.granule_count);
    granule_ = granule;
#pragma unroll 1
    for (int i = 0; i < tap; i++) next_tap();
    point_at_tap();
  }

  // Starts to copy the next stage to `shared`.
  __device__ __forceinline__ void copy(T* shared) {
    if (params_.copy_vectors) {
      copy_in<true>(shared);
      copy_filter<true>(shared + kInElements);
    } else {
      copy_in<false>(shared);
      copy_filter<false>(shared + kInElements);
    }
    advance();
  }

 private:
  // dgrad: the channel where an item of the filter begins, and its row of the granule.
  __device__ __forceinline__ static int channel_of(int item) { return item % kColumnGranules * kElements; }
  __device__ __forceinline__ static int row_of(int item) { return item / kColumnGranules; }

  __device__ __forceinline__ int depth() const { return granule_ * kElements; }

  template <bool kVectors>
  __device__ __forceinline__ void copy_in(T* shared) const {
#pragma unroll
    for (int i = 0; i < kRowsOfThread; i++) {
      T* const to = shared + swizzled<T, kGemmGranules>(item_, column_) + i * kThreadsOfGranule * kRow;
      if constexpr (kVectors) {
        ptx::cp_async<kVectorBytes>(to, in_[i] + depth(), valid_[i] ? kVectorBytes : 0);
      } else {
        copy_elements(to, in_[i] + depth(), valid_[i] ? params_.shape.inputs - depth() : 0);
      }
    }
  }

  // What lies beyond the channels or beyond the depth is read from within: no output takes the former, and the latter
  // meets zeros.
  template <bool kVectors>
  __device__ __forceinline__ void copy_filter(T* shared) const {
    const GemmShape& s = params_.shape;
#pragma unroll
    for (int i = 0; i < kItemsOfThread; i++) {
      const int item = item_ + i * kThreadsOfGranule;
      if (kColumns < kThreadsOfGranule && item >= kColumns) continue;
      T* to = shared;
      int count, offset;
      if constexpr (kDgrad) {
        to += swizzled<T, kColumnGranules>(column_ * kElements + row_of(item), item % kColumnGranules);
        count = channels_ - channel_of(item);
        const int row = depth() + row_of(item);  // vectors have all rows of a granule
        offset = (kVectors ? row : min(row, s.inputs - 1)) * (s.taps * s.outputs);
      } else {
        to += swizzled<T, kGemmGranules>(item_, column_) + i * kThreadsOfGranule * kRow;
        count = s.inputs - depth();
        offset = (item < channels_ ? item : 0) * (s.taps * s.inputs) + depth();
      }
      if constexpr (kVectors) {
        ptx::cp_async<kVectorBytes>(to, tap_filter_ + offset);
      } else {
        copy_elements(to, tap_filter_ + offset, count);
      }
    }
  }

  __device__ __forceinline__ void advance() {
    const GemmShape& s = params_.shape;
    int taps = s.tap_skip;
    granule_ += s.granule_skip;
    if (granule_ >= s.granules) granule_ -= s.granules, taps++;
    if (taps == 0) return;
#pragma unroll 1
    for (int i = 0; i < taps; i++) next_tap();
    point_at_tap();
  }

  __device__ __forceinline__ void next_tap() {
    if (++tap_w_ < block_.w.taps) return;
    tap_w_ = 0;
    if (++tap_h_ < block_.h.taps) return;
    tap_h_ = 0;
    tap_d_++;
  }

  // Where the tap meets the rows, and whether it meets the input there.
  __device__ __forceinline__ void point_at_tap() {
    const GemmShape& s = params_.shape;
    const AxisPhase &pd = block_.d, &ph = block_.h, &pw = block_.w;
    const bool inside = tap_d_ < pd.taps;  // not beyond the depth
    const int d = tap_d_ * pd.in_tap, h = tap_h_ * ph.in_tap, w = tap_w_ * pw.in_tap;
    const int64_t in_offset = ((int64_t{d} * ph.inputs + h) * pw.inputs + w) * s.in_pitch;
#pragma unroll
    for (int i = 0; i < kRowsOfThread; i++) {
      const GemmRow& row = kKeepRows ? kept_[i] : rows_[item_ + i * kThreadsOfGranule];
      valid_[i] =
          inside && within(row.d + d, pd.inputs) && within(row.h + h, ph.inputs) && within(row.w + w, pw.inputs);
      in_[i] = params_.in + (valid_[i] ? row.in + in_offset : 0);
    }
    const int tap_d = pd.tap_first + (inside ? tap_d_ * pd.tap_step : 0), tap_h = ph.tap_first + tap_h_ * ph.tap_step;
    const int tap = (tap_d * s.h.view.filter + tap_h) * s.w.view.filter + pw.tap_first + tap_w_ * pw.tap_step;
    tap_filter_ = filter_ + int64_t{tap} * (kDgrad ? s.outputs : s.inputs);
  }

  const GemmParams<T>& params_;
  const GemmBlock<kPass>& block_;
  const GemmRow* rows_;
  int channels_;
  int column_ = static_cast<int>(threadIdx.x) % kGemmGranules, item_ = static_cast<int>(threadIdx.x) / kGemmGranules;
  int granule_, tap_w_ = 0, tap_h_ = 0, tap_d_ = 0;
  bool valid_[kRowsOfThread];
  GemmRow kept_[kRowsOfThread];
  const T *in_[kRowsOfThread], *filter_, *tap_filter_;
};

}  // namespace convbound::grouped
