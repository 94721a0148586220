// depthwise_fprop_nchw_toeplitz and depthwise_dgrad_nchw_toeplitz: filters of any size at stride 1 in 16 bits, on
// tensor cores (depthwise_nchw_problem.h has the equation).
//
// One row r of the filter makes, of 8 neighbouring outputs, a product of the row of input above them with a banded
// Toeplitz matrix: out[p, q + n] += sum over k of in[p + r, q + k] * T[k, n], T[k, n] = w[r, k - n - shift]. So
// mma.m16n8k16 multiplies 16 rows of input (A) by T (B) and adds up over r in fp32. The share of T that is not zero is
// S / (16 * windows), windows = ceil((7 + S + shift) / 16): 44 % at S = 7, 56 % at 9, 66 % at 21, 65 % at 31. Zeros are
// multiplied, too: an infinity or NaN of the input reaches outputs some columns further than its filter does.
//
// Rows of A may lie anywhere in shared memory. Those of several images of a channel are interleaved, row h of image i
// at h * images + i, as are outputs: so small planes fill the 16 rows, a step of r is the same distance for all, one
// comparison tells whether a row is inside the planes (if not, ldmatrix reads a row of zeros), and filter rows that
// reach no row of a product are left out of the loop. Columns have zeros on both sides. A strip of 8 columns that
// ldmatrix has read serves 2 * windows tiles; T is read from two copies of the filter's row, one of them moved by one
// element, because its columns begin at even and odd ones.
//
// Floor: input and output once, 2 * R * S FLOP per output. Traffic: outputs once; inputs once where a plane fits into a
// block, as those of image models do, else with the halo of R - 1 rows; the filter once per block. Rows whose bytes are
// a multiple of 16 go by 16-byte cp.async to their place, others as one run and from there to their columns; outputs
// leave through shared memory as 16-byte stores.
//
// Tile: 128 threads. 28 to 32 sums per lane keep 7 or 8 products independent, and their fragments below 128 registers.
#pragma once

#include "csrc/common/divisor.h"
#include "csrc/common/index_divisor.h"
#include "csrc/common/pair.h"
#include "csrc/common/run_copy.h"
#include "csrc/common/shared.h"
#include "csrc/depthwise/depthwise_nchw_toeplitz_plan.h"

namespace convbound::depthwise {

template <int kWindows, int kTiles, int kTall>
struct ToeplitzTraits {
  static constexpr int kStrips = kTiles + 2 * kWindows - 1;  // that one step of r reads per 16 rows
  static constexpr int kBlocks = 4;                          // 16 warps on a multiprocessor, up to 128 registers
  static_assert(kTall * kTiles >= 4, "independent products");
  static_assert(kTall * (kTiles * 4 + kStrips * 2) + 2 * kWindows < 96, "sums and fragments stay in registers");
};

template <typename T>
struct ToeplitzParams {
  const T* in;
  const T* filter;
  const T* bias;
  T* out;
  int64_t images;
  PlaneProblem problem;
  ToeplitzPlan plan;
  bool rows_aligned;  // rows of the input begin at 16-byte boundaries
  int unit_log2;      // of the elements that others are moved by: 0, 1 or 2
  bool pairs;         // neighbouring outputs can be stored as one word
  Divisor bands, filters;
  IndexDivisor multiplier, image, column_group;
  IndexDivisor row_vectors, row_zeros, row_units, filter_words;
};

// What a block owns: the output rows [first_row, first_row + rows) of `images` images of one filter.
struct ToeplitzPart {
  int images;
  int rows, in_rows;
  int above;  // of the output's first row, counted from the first row of input that is in shared memory
  int threads;
};

// The rows of the input that begin at boundaries, straight to their columns, and zeros on both sides of them.
template <typename T>
__device__ __forceinline__ void load_aligned_rows(T* xs, const T* in, int64_t in_image, const ToeplitzPart& part,
                                                  const ToeplitzParams<T>& params) {
  const ToeplitzPlan& plan = params.plan;
  const int thread = static_cast<int>(threadIdx.x), vectors = part.in_rows * params.row_vectors.size;
  for (int image = 0; image < plan.images; image++) {
    const T* const from = in + image * in_image + plan.skip;
    const int bytes = image < part.images ? kVectorBytes : 0;
    if (plan.width > 0) {
      for (int i = thread; i < vectors; i += part.threads) {
        const auto [row, vector] = divide(i, params.row_vectors);
        const T* const source = bytes > 0 ? from + row * params.problem.in_w + vector * kStrip : params.in;
        ptx::cp_async<kVectorBytes>(xs + (row * plan.images + image) * plan.pitch + plan.left + vector * kStrip, source,
                                    bytes);
      }
    }
  }
  const int zeros = part.in_rows * plan.images * params.row_zeros.size;
  for (int i = thread; i < zeros; i += part.threads) {
    const auto [row, vector] = divide(i, params.row_zeros);
    const int column = vector * kStrip + (vector * kStrip < plan.left ? 0 : plan.width);
    *reinterpret_cast<uint4*>(xs + row * plan.pitch + column) = make_uint4(0, 0, 0, 0);
  }
}

// Moves rows from the runs that they were loaded as to their columns, in words of what divides their length.
template <typename Word, typename T>
__device__ __forceinline__ void move_rows(T* xs, const unsigned char* stage, const T* in, int64_t in_image,
                                          const ToeplitzPart& part, const ToeplitzParams<T>& params) {
  constexpr int kElements = sizeof(Word) / sizeof(T);
  const ToeplitzPlan& plan = params.plan;
  const int words = part.in_rows * params.row_units.size;
  for (int image = 0; image < plan.images; image++) {
    const T* const from = reinterpret_cast<const T*>(stage + image * plan.y_bytes) +
                          elements_after_boundary(in + image * in_image) + plan.skip - plan.left;
    for (int i = static_cast<int>(threadIdx.x); i < words; i += part.threads) {
      const auto [row, word] = divide(i, params.row_units);
      const int column = word * kElements;
      const bool inside = image < part.images && column >= plan.left && column < plan.left + plan.width;
      Word value{};
      if (inside) value = *reinterpret_cast<const Word*>(from + row * params.problem.in_w + column);
      *reinterpret_cast<Word*>(xs + (row * plan.images + image) * plan.pitch + column) = value;
    }
  }
}

// The two copies of the filter, rows with zeros on both sides: element i of the first is tap i - 8 - shift, of the
// second tap i - 7 - shift. For dgrad it is turned round.
template <typename T>
__device__ __forceinline__ void spread_filter(T* ws, const T* raw, const ToeplitzPart& part,
                                              const ToeplitzParams<T>& params) {
  using Bits = unsigned short;
  const PlaneProblem& p = params.problem;
  const ToeplitzPlan& plan = params.plan;
  const int words = p.filter_h * params.filter_words.size;
  for (int i = static_cast<int>(threadIdx.x); i < words; i += part.threads) {
    const auto [r, word] = divide(i, params.filter_words);
    const int s = 2 * word - kStrip - plan.shift;
    const int row = r * p.filter_w, last = p.filter_h * p.filter_w - 1;
    unsigned bits[3];
#pragma unroll
    for (int e = 0; e < 3; e++) {
      const int tap = p.flip ? last - row - s - e : row + s + e;
      const bool inside = static_cast<unsigned>(s + e) < static_cast<unsigned>(p.filter_w);
      bits[e] = inside ? reinterpret_cast<const Bits*>(raw)[tap] : 0;
    }
    T* const to = ws + r * plan.filter_pitch + 2 * word;
    *reinterpret_cast<unsigned*>(to) = bits[0] | bits[1] << 16;
    *reinterpret_cast<unsigned*>(to + plan.odd_copy) = bits[1] | bits[2] << 16;
  }
}

// Adds to the sums what the filter rows [0, steps) give. `at` are the lane's rows of the first of them in shared
// memory, as elements of xs; `limit` is the end of the rows that are there; a step goes `stride` elements on.
template <int kWindows, int kTiles, int kTall, typename T>
__device__ __forceinline__ void add_products(float (&sum)[kTall][kTiles][4], const T* xs, int (&at)[kTall], int zeros,
                                             unsigned limit, int stride, const T* w, int filter_pitch, int steps) {
  constexpr int kStrips = ToeplitzTraits<kWindows, kTiles, kTall>::kStrips;
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    uint32_t b[2 * kWindows];
#pragma unroll
    for (int i = 0; i < 2 * kWindows; i++) b[i] = *reinterpret_cast<const uint32_t*>(w + i * kStrip);
    uint32_t a[kTall][kStrips][2];
#pragma unroll
    for (int i = 0; i < kTall; i++) {
      const T* const row = xs + (static_cast<unsigned>(at[i]) < limit ? at[i] : zeros);
#pragma unroll
      for (int strip = 0; strip < kStrips - 1; strip += 2) {
        uint32_t two[4];
        ptx::ldmatrix<4>(two, row + strip * kStrip);
        a[i][strip][0] = two[0], a[i][strip][1] = two[1], a[i][strip + 1][0] = two[2], a[i][strip + 1][1] = two[3];
      }
      if constexpr (kStrips % 2 == 1) ptx::ldmatrix<2>(a[i][kStrips - 1], row + (kStrips - 1) * kStrip);
      at[i] += stride;
    }
#pragma unroll
    for (int k = 0; k < kWindows; k++) {
      const uint32_t band[2] = {b[2 * k], b[2 * k + 1]};
#pragma unroll
      for (int i = 0; i < kTall; i++) {
#pragma unroll
        for (int j = 0; j < kTiles; j++) {
          const auto& first = a[i][j + 2 * k];
          const auto& second = a[i][j + 2 * k + 1];
          const uint32_t window[4] = {first[0], first[1], second[0], second[1]};
          ptx::mma_m16n8k16<T>(sum[i][j], window, band, sum[i][j]);
        }
      }
    }
    w += filter_pitch;
  }
}

template <typename T, int kWindows, int kTiles, int kTall>
__global__ void __launch_bounds__(kToeplitzThreads, ToeplitzTraits<kWindows, kTiles, kTall>::kBlocks)
    toeplitz_kernel(const __grid_constant__ ToeplitzParams<T> params) {
  const PlaneProblem& p = params.problem;
  const ToeplitzPlan& plan = params.plan;

  int64_t group = blockIdx.x;
  const int band = take(group, params.bands), filter = take(group, params.filters);
  const int64_t first_image = group * plan.images;
  const int first_row = band * plan.band_rows, above = first_row - p.pad_h;
  ToeplitzPart part;
  part.images = static_cast<int>(params.images - first_image < plan.images ? params.images - first_image : plan.images);
  part.rows = min(plan.band_rows, p.out_h - first_row);
  const int in_first = min(max(above, 0), p.in_h);
  part.in_rows = min(max(above + part.rows - 1 + p.filter_h, in_first), p.in_h) - in_first;
  part.above = above - in_first;
  part.threads = kToeplitzThreads;

  const int channels = divide(p.filters, params.multiplier).quotient;
  const int channel = divide(filter, params.multiplier).quotient;
  const int64_t in_image = static_cast<int64_t>(channels) * p.in_h * p.in_w;
  const int64_t out_image = static_cast<int64_t>(p.filters) * p.out_h * p.out_w;
  const T* const in =
      params.in + first_image * in_image + static_cast<int64_t>(channel) * p.in_h * p.in_w + in_first * p.in_w;
  T* const out =
      params.out + first_image * out_image + static_cast<int64_t>(filter) * p.out_h * p.out_w + first_row * p.out_w;
  const int taps = p.filter_h * p.filter_w;
  const T* const w = params.filter + static_cast<int64_t>(filter) * taps;

  // A row of zeros, rows of input, two copies of the filter, the filter as it is, outputs.
  unsigned char* const memory = dynamic_shared<unsigned char>();
  T* const xs = reinterpret_cast<T*>(memory) + plan.pitch;
  T* const ws = reinterpret_cast<T*>(memory + plan.x_bytes);
  T* const raw = reinterpret_cast<T*>(memory + plan.x_bytes + plan.w_bytes) + elements_after_boundary(w);
  unsigned char* const ys = memory + plan.x_bytes + plan.w_bytes + plan.raw_bytes;
  load_run(raw, w, taps, part.threads);
  if (params.rows_aligned) {
    load_aligned_rows(xs, in, in_image, part, params);
  } else {
    for (int image = 0; image < part.images; image++) {
      T* const stage = reinterpret_cast<T*>(ys + image * plan.y_bytes) + elements_after_boundary(in + image * in_image);
      load_run(stage, in + image * in_image, part.in_rows * p.in_w, part.threads);
    }
  }
  const int zero_vectors = plan.pitch / kStrip;
  for (int i = static_cast<int>(threadIdx.x); i < zero_vectors; i += part.threads) {
    reinterpret_cast<uint4*>(memory)[i] = make_uint4(0, 0, 0, 0);
  }
  ptx::cp_async_wait_all();
  __syncthreads();
  if (!params.rows_aligned) {
    if (params.unit_log2 == 2) {
      move_rows<uint2>(xs, ys, in, in_image, part, params);
    } else if (params.unit_log2 == 1) {
      move_rows<unsigned>(xs, ys, in, in_image, part, params);
    } else {
      move_rows<unsigned short>(xs, ys, in, in_image, part, params);
    }
  }
  spread_filter(ws, raw, part, params);
  __syncthreads();

  const float bias = params.bias != nullptr ? widen(params.bias[filter]) : 0.0f;
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  const T* const w_lane = ws + (g % 2 == 0 ? 0 : plan.odd_copy) + kStrip + 2 * t - (g + 1) / 2 * 2;
  const int all_rows = part.rows * plan.images;
  const unsigned limit = static_cast<unsigned>(part.in_rows * plan.images * plan.pitch);
  const int row_groups = (all_rows + kTall * kProductRows - 1) / (kTall * kProductRows);
  const int units = row_groups * plan.column_groups;
  for (int unit = static_cast<int>(threadIdx.x) / 32; unit < units; unit += kToeplitzThreads / 32) {
    const auto [row_group, column_group] = divide(unit, params.column_group);
    const int first = row_group * kTall * kProductRows, tile = column_group * kTiles;
    // Filter rows that reach a row of the input from some row of these outputs.
    const int top = divide(first, params.image).quotient;
    const int bottom = divide(min(first + kTall * kProductRows, all_rows) - 1, params.image).quotient;
    const int r_first = max(-part.above - bottom, 0), r_end = min(part.in_rows - part.above - top, p.filter_h);

    float sum[kTall][kTiles][4];
#pragma unroll
    for (int i = 0; i < kTall; i++) {
#pragma unroll
      for (int j = 0; j < kTiles; j++) sum[i][j][0] = sum[i][j][1] = sum[i][j][2] = sum[i][j][3] = bias;
    }
    for (int chunk = 0; chunk < plan.chunks; chunk++) {
      const int column = (tile + chunk * 2 * kWindows + lane / 16) * kStrip;
      int at[kTall];
#pragma unroll
      for (int i = 0; i < kTall; i++) {
        const int row = first + i * kProductRows + lane % 16 + (part.above + r_first) * plan.images;
        at[i] = row * plan.pitch + column;
      }
      add_products<kWindows, kTiles, kTall>(sum, xs, at, column - plan.pitch, limit, plan.images * plan.pitch,
                                            w_lane + r_first * plan.filter_pitch + chunk * kWindows * kWindow,
                                            plan.filter_pitch, r_end - r_first);
    }

#pragma unroll
    for (int half = 0; half < 2 * kTall; half++) {
      const int row = first + half * 8 + g;
      const auto [y_row, image] = divide(row, params.image);
      T* const y = reinterpret_cast<T*>(ys + image * plan.y_bytes) + elements_after_boundary(out + image * out_image) +
                   y_row * p.out_w;
      const bool wanted = row < all_rows && image < part.images;
#pragma unroll
      for (int j = 0; j < kTiles; j++) {
        const int q = (tile + j) * kStrip - plan.lead + 2 * t;
        const float* const two = sum[half / 2][j] + half % 2 * 2;
        const bool left = wanted && static_cast<unsigned>(q) < static_cast<unsigned>(p.out_w);
        if (params.pairs) {
          if (left) *reinterpret_cast<typename PairOf<T>::Word*>(y + q) = PairOf<T>::narrow(two[0], two[1]);
        } else {
          if (left) y[q] = narrow<T>(two[0]);
          if (wanted && static_cast<unsigned>(q + 1) < static_cast<unsigned>(p.out_w)) y[q + 1] = narrow<T>(two[1]);
        }
      }
    }
  }
  __syncthreads();
  for (int image = 0; image < part.images; image++) {
    T* const to = out + image * out_image;
    const T* const y = reinterpret_cast<const T*>(ys + image * plan.y_bytes) + elements_after_boundary(to);
    store_run(to, y, part.rows * p.out_w, part.threads);
  }
}

}  // namespace convbound::depthwise
