// Depthwise wgrad, a thread's part of the work: the sums in its registers as it walks down the rows of a stage, and how
// a block adds up its threads' sums in a fixed order. depthwise_wgrad.h has the algorithm.
#pragma once

#include "csrc/common/numeric.h"
#include "csrc/common/shared.h"
#include "csrc/depthwise/depthwise_wgrad_block.h"

namespace convbound::depthwise {

template <typename T>
__device__ __forceinline__ float load(const unsigned char* at) {
  return widen(*reinterpret_cast<const T*>(at));
}

// The sums of a thread, and the rows of dy that they still need.
template <typename Traits>
struct WgradSums {
  using Block = WgradBlock<Traits>;
  using T = typename Traits::Element;
  static constexpr int kDepth = Block::kDepth, kColumns = Block::kColumns, kSpan = Traits::kSpan;
  static constexpr int kColumnBytes = Block::kColumnBytes;

  float taps[Traits::kRows][Traits::kCols] = {};
  float bias = 0;
  float window[kDepth][kColumns] = {};
  unsigned inside = 0;  // a bit for each column of x and, above them, of dy: whether the tensor has it

  __device__ __forceinline__ float value(int i) const {
    return i == Traits::kRows * Traits::kCols ? bias : taps[i / Traits::kCols][i % Traits::kCols];
  }

  // The first column of x that the thread meets.
  __device__ __forceinline__ static int x_column(const Block& block, const WgradPlace& place, const WgradUnit& unit) {
    return (unit.column + place.column) * block.stride_w() + place.tap_column * block.dilation_w() -
           block.plan.w.padding;
  }

  __device__ __forceinline__ void start(const Block& block, const WgradPlace& place, const WgradUnit& unit) {
#pragma unroll
    for (int d = 0; d < kDepth; d++) {
#pragma unroll
      for (int c = 0; c < kColumns; c++) window[d][c] = 0;
    }
    inside = 0;
#pragma unroll
    for (int c = 0; c < kColumns; c++)
      inside |= (unit.column + place.column + c < block.plan.w.output ? 1u : 0u) << (kSpan + c);
    const int column = x_column(block, place, unit);
#pragma unroll
    for (int i = 0; i < kSpan; i++) {
      inside |= (within(column + i * block.dilation_w(), block.plan.w.input) ? 1u : 0u) << i;
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
      if (first + m * Traits::kStride >= Traits::kRows) continue;
#pragma unroll
      for (int c = 0; c < kColumns; c++) {
        const float dy = window[(newest + kDepth - m) % kDepth][c];
#pragma unroll
        for (int s = 0; s < Traits::kCols; s++) {
          float& sum = taps[first + m * Traits::kStride][s];
          sum = fmaf(dy, x[c * Traits::kStride + s], sum);
        }
      }
    }
  }

  // The rows of one stage.
  __device__ __forceinline__ void walk(const Block& block, const WgradPlace& place, const WgradUnit& unit, int chunk,
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
        const int at = q * block.stride_w() + place.tap_column * block.dilation_w() - plan.w.padding;
#pragma unroll
        for (int s = 0; s < Traits::kCols; s++) {
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
        x_slot += place.channel * plan.h.input * plan.x_pitch, dy_slot += place.channel * plan.h.output * plan.dy_pitch;
      }
      const int x_row = first * block.stride_h() + place.tap_row * block.dilation_h() - plan.h.padding;
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
            for (int e = 0; e < Traits::kStride; e++) {
              const int line = (i + t) * Traits::kStride + e;
              const bool there = within(x_row + line, plan.h.input) && row < last;
              if (there) multiply(x_slot + line * plan.x_pitch, kColumnBytes, e, t);
            }
          } else {
#pragma unroll
            for (int r = 0; r < Traits::kRows; r++) {
              const int line = i * plan.h.stride + r * plan.h.dilation;
              if (!within(x_row + line, plan.h.input)) continue;
              multiply(x_slot + line * plan.x_pitch, plan.w.dilation * kColumnBytes, r, t);
            }
          }
        }
      }
    }
  }

  // Adds up the block's threads and writes the sums of its channels, in the order of the results' memory.
  __device__ __forceinline__ void reduce(const Block& block, const WgradPlace& place) const {
    constexpr int kValues = Traits::kValues, kBatch = Traits::kBatch;
    constexpr int kResults = Traits::kResults;
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
    const int taps = plan.h.filter * plan.w.filter, channels = min(plan.block_channels, plan.channels - block.channel);
    const int outputs = channels * taps;
    for (int i = thread; i < outputs; i += threads) {
      const int channel = i / taps, r = (i - channel * taps) / plan.w.filter,
                s = i - channel * taps - r * plan.w.filter;
      const int at = r / Traits::kRows * plan.tile_columns + s / Traits::kCols;
      if (at < block.tile || at > block.last_tile) continue;
      block.params.sums.write(block.split, static_cast<int64_t>(block.channel) * taps + i,
                              results[((at - block.tile) * plan.block_channels + channel) * kResults +
                                      r % Traits::kRows * Traits::kCols + s % Traits::kCols]);
    }
    if (block.tile > 0) return;
    for (int i = thread; i < channels; i += threads) {
      block.params.sums.write(block.split, static_cast<int64_t>(plan.channels) * taps + block.channel + i,
                              results[i * kResults + kValues - 1]);
    }
  }
};

}  // namespace convbound::depthwise
