// depthwise_fprop_nchw_toeplitz and depthwise_dgrad_nchw_toeplitz: large filters of any shape at stride 1 in 16 bits,
// on tensor cores (depthwise_nchw.h has the equation).
//
// One row r of the filter, applied to 8 neighbouring outputs, is a banded Toeplitz matrix T times the row of input:
//
//   out[p, q + n] += sum over k of in[p + r, q + k] * T[k, n],   T[k, n] = w[r, k - n - shift]
//
// mma multiplies 16 rows of input (A) by T (B) and adds up over r in fp32. It works in depths of 16 (m16n8k16) and, at
// the ends, of 8. The share of T that is not zero is S / (8 * strips), with strips = ceil((7 + S + shift) / 8): 44 % at
// S = 7, 56 % at 9, 54 % at 13, 66 % at 21, 78 % at 31, 31 % at 5. Zeros are multiplied too: an infinity or NaN of the
// input reaches outputs some columns further than its filter does.
//
// A strip is 8 columns of input, 16 bytes of each row, where ldmatrix begins. A strip that was read serves the windows
// of all tiles of outputs that it lies in. Depth 16 takes strips 2n and 2n + 1 as they came, so that no register is
// moved; an odd tile begins and ends with depth 8. The columns of T begin at even and odd elements, so T is read from
// two copies of the filter's row, one of them moved by one element.
//
// Rows of A may lie anywhere in shared memory. The rows of several images of a channel are interleaved there, row h of
// image i at h * images + i, and so are outputs. So
//   - small planes fill the 16 rows;
//   - a step of r is the same distance for all;
//   - one comparison tells whether a row is inside the planes (if not, a row of zeros is read);
//   - filter rows that reach no row of a product are left out of the loop.
// Columns have zeros on both sides.
//
// Floor: input and output once, 2 * R * S FLOP per output. Traffic: outputs once; inputs once where a plane fits into a
// block, as those of image models do, else with the halo of R - 1 rows; the filter once per block. Rows whose bytes are
// a multiple of 16 go to their place by 16-byte cp.async. Others come as one run and are moved to their columns.
// Outputs leave through shared memory as 16-byte stores.
//
// Instructions per output, all of the kernel counted (sm_80, batch 32), beside those of the FMA kernel: 75 and 1830 at
// 31x31 on 56 x 56, 40 and 282 at 9x9, 103 and 1737 at 29x29 on 28 x 28, 273 and 698 at 13x13 on 7 x 7. The row serves
// only problems whose instructions it halves.
//
// Tile: 128 threads, 4 blocks on a multiprocessor. 16 to 32 sums per lane are 4 to 8 independent products, and their
// fragments fit below 128 registers. More tiles side by side would read each strip less often, but fit fewer widths.
#include "csrc/common/divisor.h"
#include "csrc/common/numeric.h"
#include "csrc/common/pair.h"
#include "csrc/common/run_copy.h"
#include "csrc/common/shared.h"
#include "csrc/depthwise/depthwise_nchw_toeplitz_plan.h"

namespace convbound::depthwise {

namespace {

template <int kStrips, int kTiles, int kTall>
struct ToeplitzTraits {
  static constexpr int kAllStrips = kTiles + kStrips - 1;  // that one step of r reads per 16 rows
  static constexpr int kBlocks = 4;                        // 16 warps on a multiprocessor, up to 128 registers
  static_assert(kTall * kTiles >= 4, "independent products");
  static_assert(kTall * (kTiles * 4 + kAllStrips * 2) + 2 * kStrips < 96, "sums and fragments stay in registers");
};

template <typename T>
struct ToeplitzParams {
  const T* in;
  const T* filter;
  const T* bias;
  T* out;
  ConvView view;
  ToeplitzPlan plan;
  bool rows_aligned;  // rows of the input begin at 16-byte boundaries
  int unit_log2;      // of the elements that others are moved by: 0, 1 or 2
  bool pairs;         // neighbouring outputs can be stored as one word
  Divisor bands, filters;
  IndexDivisor multiplier, image, column_group;
  IndexDivisor row_words, row_zeros, filter_words;  // of a row: words of input that are copied, 16 bytes of zeros
};

// What a block owns: the output rows [first_row, first_row + rows) of `images` images of one filter. Teams of threads
// copy an image each.
template <typename T>
struct ToeplitzBlock {
  int filter, images;
  int rows, in_rows;
  int above;  // of the output's first row, counted from the first row of input that is in shared memory
  int team, teams, thread, threads;
  int64_t in_image, out_image;  // elements
  const T* in;                  // the first of the input's rows
  T* out;

  __device__ __forceinline__ explicit ToeplitzBlock(const ToeplitzParams<T>& params) {
    const ConvView& p = params.view;
    const ToeplitzPlan& plan = params.plan;
    int64_t group = blockIdx.x;
    const int band = take(group, params.bands);
    filter = take(group, params.filters);
    const int64_t first_image = group * plan.images;
    const int first_row = band * plan.band_rows, top = first_row - p.h.padding;
    images = static_cast<int>(p.images - first_image < plan.images ? p.images - first_image : plan.images);
    rows = min(plan.band_rows, p.h.output - first_row);
    const int in_first = min(max(top, 0), p.h.input);
    in_rows = min(max(top + rows - 1 + p.h.filter, in_first), p.h.input) - in_first;
    above = top - in_first;
    threads = 1 << plan.team_log2;
    teams = kToeplitzThreads >> plan.team_log2;
    team = static_cast<int>(threadIdx.x) >> plan.team_log2;
    thread = static_cast<int>(threadIdx.x) & (threads - 1);

    const int channel = divide(filter, params.multiplier).quotient;
    in_image = static_cast<int64_t>(p.groups) * p.h.input * p.w.input;
    out_image = static_cast<int64_t>(params.filters.size) * p.h.output * p.w.output;
    in = params.in + first_image * in_image + static_cast<int64_t>(channel) * p.h.input * p.w.input +
         in_first * p.w.input;
    out = params.out + first_image * out_image + static_cast<int64_t>(filter) * p.h.output * p.w.output +
          first_row * p.w.output;
  }
};

// The rows of the input that begin at boundaries, straight to their columns, and zeros on both sides of them.
template <typename T>
__device__ __forceinline__ void load_aligned_rows(T* xs, const ToeplitzBlock<T>& block,
                                                  const ToeplitzParams<T>& params) {
  const ToeplitzPlan& plan = params.plan;
  const int vectors = plan.width > 0 ? block.in_rows * params.row_words.size : 0;
  for (int image = block.team; image < plan.images; image += block.teams) {
    // Rows of an image that does not exist are zeros.
    const bool exists = image < block.images;
    const T* const from = block.in + (exists ? image * block.in_image + plan.skip : 0);
    for (int i = block.thread; i < vectors; i += block.threads) {
      const auto [row, vector] = divide(i, params.row_words);
      ptx::cp_async<kVectorBytes>(xs + (row * plan.images + image) * plan.pitch + plan.left + vector * kStrip,
                                  from + row * params.view.w.input + vector * kStrip, exists ? kVectorBytes : 0);
    }
  }
  // A divisor is never 0, but there may be no room for zeros.
  const int zeros = plan.columns > plan.width ? block.in_rows * plan.images * params.row_zeros.size : 0;
  for (int i = static_cast<int>(threadIdx.x); i < zeros; i += kToeplitzThreads) {
    const auto [row, vector] = divide(i, params.row_zeros);
    const int column = vector * kStrip + (vector * kStrip < plan.left ? 0 : plan.width);
    *reinterpret_cast<uint4*>(xs + row * plan.pitch + column) = make_uint4(0, 0, 0, 0);
  }
}

// Moves rows from the runs that they were loaded as to their columns, in words of what divides their length.
template <typename Word, typename T>
__device__ __forceinline__ void move_rows(T* xs, const unsigned char* stage, const ToeplitzBlock<T>& block,
                                          const ToeplitzParams<T>& params) {
  constexpr int kElements = sizeof(Word) / sizeof(T);
  const ToeplitzPlan& plan = params.plan;
  const int words = plan.width > 0 ? block.in_rows * params.row_words.size : 0;
  for (int image = block.team; image < block.images; image += block.teams) {
    const T* const from = reinterpret_cast<const T*>(stage + image * plan.y_bytes) +
                          elements_after_boundary(block.in + image * block.in_image) + plan.skip;
    for (int i = block.thread; i < words; i += block.threads) {
      const auto [row, word] = divide(i, params.row_words);
      *reinterpret_cast<Word*>(xs + (row * plan.images + image) * plan.pitch + plan.left + word * kElements) =
          *reinterpret_cast<const Word*>(from + row * params.view.w.input + word * kElements);
    }
  }
}

// The two copies of the filter, rows with zeros on both sides: element i of the first is tap i - 8 - shift, of the
// second tap i - 7 - shift. For dgrad it is turned round.
template <typename T>
__device__ __forceinline__ void spread_filter(T* ws, const T* raw, const ToeplitzParams<T>& params) {
  using Bits = unsigned short;
  const ConvView& p = params.view;
  const ToeplitzPlan& plan = params.plan;
  const int words = p.h.filter * params.filter_words.size;
  for (int i = static_cast<int>(threadIdx.x); i < words; i += kToeplitzThreads) {
    const auto [r, word] = divide(i, params.filter_words);
    const int s = 2 * word - kStrip - plan.shift;
    const int row = r * p.w.filter, last = p.h.filter * p.w.filter - 1;
    unsigned bits[3];
#pragma unroll
    for (int e = 0; e < 3; e++) {
      const int tap = p.flip ? last - row - s - e : row + s + e;
      const bool inside = static_cast<unsigned>(s + e) < static_cast<unsigned>(p.w.filter);
      bits[e] = inside ? reinterpret_cast<const Bits*>(raw)[tap] : 0;
    }
    T* const to = ws + r * plan.filter_pitch + 2 * word;
    *reinterpret_cast<unsigned*>(to) = bits[0] | bits[1] << 16;
    *reinterpret_cast<unsigned*>(to + plan.odd_copy) = bits[1] | bits[2] << 16;
  }
}

// Adds to the sums what the filter rows [0, steps) give. `at` are the lane's rows of the first of them in shared
// memory, as elements of xs; `limit` is the end of the rows that are there, others are read from `zeros` on; a step
// goes `stride` elements on.
template <int kStrips, int kTiles, int kTall, typename T>
__device__ __forceinline__ void add_products(float (&sum)[kTall][kTiles][4], const T* xs, int (&at)[kTall], int zeros,
                                             unsigned limit, int stride, const T* w, int filter_pitch, int steps) {
  constexpr int kAllStrips = ToeplitzTraits<kStrips, kTiles, kTall>::kAllStrips, kPairsOfStrips = kAllStrips / 2;
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    uint32_t band[kStrips];
#pragma unroll
    for (int i = 0; i < kStrips; i++) band[i] = *reinterpret_cast<const uint32_t*>(w + i * kStrip);
#pragma unroll
    for (int i = 0; i < kTall; i++) {
      const T* const row = xs + (static_cast<unsigned>(at[i]) < limit ? at[i] : zeros | (at[i] & (kWavefront - 1)));
      at[i] += stride;
      // Strips 2n and 2n + 1 lie in the four registers that depth 16 takes.
      uint32_t two[(kAllStrips + 1) / 2][4];
#pragma unroll
      for (int n = 0; n < kPairsOfStrips; n++) ptx::ldmatrix<4>(two[n], row + n * kWindow);
      if constexpr (kAllStrips % 2 == 1) {
        uint32_t last[2];
        ptx::ldmatrix<2>(last, row + (kAllStrips - 1) * kStrip);
        two[kAllStrips / 2][0] = last[0], two[kAllStrips / 2][1] = last[1];
      }
#pragma unroll
      for (int k = 0; k < kStrips; k++) {
#pragma unroll
        for (int j = 0; j < kTiles; j++) {
          const int n = j + k;  // the strip at hand, the k-th of tile j
          if (n % 2 == 0 && k + 1 < kStrips) {
            const uint32_t both[2] = {band[k], band[k + 1]};
            ptx::mma_m16n8k16<T>(sum[i][j], two[n / 2], both, sum[i][j]);
          } else if (n % 2 == 0 || k == 0) {
            const uint32_t one[2] = {two[n / 2][n % 2 * 2], two[n / 2][n % 2 * 2 + 1]};
            const uint32_t half[1] = {band[k]};
            ptx::mma_m16n8k8<T>(sum[i][j], one, half, sum[i][j]);
          }
        }
      }
    }
    w += filter_pitch;
  }
}

// Where things lie in shared memory: a row of zeros, rows of input, two copies of the filter, the filter as it is,
// outputs.
template <typename T>
struct ToeplitzMemory {
  T *rows, *filters, *raw_filter;  // rows: after the zeros
  unsigned char* outputs;

  __device__ __forceinline__ explicit ToeplitzMemory(const ToeplitzPlan& plan) {
    unsigned char* const memory = dynamic_shared<unsigned char>();
    rows = reinterpret_cast<T*>(memory) + plan.zeros;
    filters = reinterpret_cast<T*>(memory + plan.x_bytes);
    raw_filter = reinterpret_cast<T*>(memory + plan.x_bytes + plan.w_bytes);
    outputs = memory + plan.x_bytes + plan.w_bytes + plan.raw_bytes;
  }
};

// Input and filter into shared memory, to their places. Ends with a barrier.
template <typename T>
__device__ __forceinline__ void load_all(const ToeplitzMemory<T>& memory, const ToeplitzBlock<T>& block,
                                         const ToeplitzParams<T>& params) {
  const ConvView& p = params.view;
  const ToeplitzPlan& plan = params.plan;
  const int taps = p.h.filter * p.w.filter;
  const T* const w = params.filter + static_cast<int64_t>(block.filter) * taps;
  T* const raw = memory.raw_filter + elements_after_boundary(w);
  load_run(raw, w, taps, kToeplitzThreads);
  if (params.rows_aligned) {
    load_aligned_rows(memory.rows, block, params);
  } else {
    for (int image = block.team; image < block.images; image += block.teams) {
      const T* const from = block.in + image * block.in_image;
      T* const stage = reinterpret_cast<T*>(memory.outputs + image * plan.y_bytes) + elements_after_boundary(from);
      load_run(stage, from, block.in_rows * p.w.input, block.threads, block.thread);
    }
  }
  const int zeros = (params.rows_aligned ? plan.zeros * static_cast<int>(sizeof(T)) : plan.x_bytes) / kVectorBytes;
  for (int i = static_cast<int>(threadIdx.x); i < zeros; i += kToeplitzThreads) {
    dynamic_shared<uint4>()[i] = make_uint4(0, 0, 0, 0);
  }
  ptx::cp_async_wait_all();
  __syncthreads();
  if (!params.rows_aligned) {
    if (params.unit_log2 == 2) {
      move_rows<uint2>(memory.rows, memory.outputs, block, params);
    } else if (params.unit_log2 == 1) {
      move_rows<unsigned>(memory.rows, memory.outputs, block, params);
    } else {
      move_rows<unsigned short>(memory.rows, memory.outputs, block, params);
    }
  }
  spread_filter(memory.filters, raw, params);
  __syncthreads();
}

// The sums of a warp into shared memory: output rows from `first` on, tiles from `tile` on.
template <int kTall, int kTiles, typename T>
__device__ __forceinline__ void stage_outputs(const float (&sum)[kTall][kTiles][4], int first, int tile,
                                              const ToeplitzMemory<T>& memory, const ToeplitzBlock<T>& block,
                                              const ToeplitzParams<T>& params) {
  const ConvView& p = params.view;
  const ToeplitzPlan& plan = params.plan;
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  const int all_rows = block.rows * plan.images;
  constexpr int kHalves = 2 * kTall, kColumnsOfLane = 2 * kTiles;
#pragma unroll
  for (int half = 0; half < kHalves; half++) {
    const int row = first + half * 8 + g;
    const auto [y_row, image] = divide(row, params.image);
    T* const y = reinterpret_cast<T*>(memory.outputs + image * plan.y_bytes) +
                 elements_after_boundary(block.out + image * block.out_image) + y_row * p.w.output;
    const bool wanted = row < all_rows && image < block.images;
    const int q = tile * kStrip - plan.lead + 2 * t;
    const unsigned out_w = wanted ? static_cast<unsigned>(p.w.output) : 0;
    if (params.pairs) {
#pragma unroll
      for (int j = 0; j < kTiles; j++) {
        const float* const two = sum[half / 2][j] + half % 2 * 2;
        const int at = q + j * kStrip;
        const auto word = narrow_pair<T>(make_float2(two[0], two[1]));
        if (static_cast<unsigned>(at) < out_w) *reinterpret_cast<PairOf<T>*>(y + at) = word;
      }
    } else {
#pragma unroll
      for (int e = 0; e < kColumnsOfLane; e++) {
        const int at = q + e / 2 * kStrip + e % 2;
        const T value = narrow<T>(sum[half / 2][e / 2][half % 2 * 2 + e % 2]);
        if (static_cast<unsigned>(at) < out_w) y[at] = value;
      }
    }
  }
}

// The products of a warp: units of `kTall` times 16 rows of kTiles tiles.
template <int kStrips, int kTiles, int kTall, typename T>
__device__ __forceinline__ void compute_units(const ToeplitzMemory<T>& memory, const ToeplitzBlock<T>& block,
                                              const ToeplitzParams<T>& params) {
  const ToeplitzPlan& plan = params.plan;
  const float bias = params.bias != nullptr ? widen(params.bias[block.filter]) : 0.0f;
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  const T* const w_lane = memory.filters + (g % 2 == 0 ? 0 : plan.odd_copy) + kStrip + 2 * t - (g + 1) / 2 * 2;
  const int all_rows = block.rows * plan.images;
  const unsigned limit = static_cast<unsigned>(block.in_rows * plan.images * plan.pitch);
  const int row_groups = (all_rows + kTall * kProductRows - 1) / (kTall * kProductRows);
  const int units = row_groups * plan.column_groups;
  for (int unit = static_cast<int>(threadIdx.x) / 32; unit < units; unit += kToeplitzThreads / 32) {
    const auto [row_group, column_group] = divide(unit, params.column_group);
    const int first = row_group * kTall * kProductRows, tile = column_group * kTiles;
    // Filter rows that reach a row of the input from some row of these outputs.
    const int top = divide(first, params.image).quotient;
    const int bottom = divide(min(first + kTall * kProductRows, all_rows) - 1, params.image).quotient;
    const int r_first = max(-block.above - bottom, 0);
    const int r_end = min(block.in_rows - block.above - top, params.view.h.filter);

    float sum[kTall][kTiles][4];
#pragma unroll
    for (int i = 0; i < kTall; i++) {
#pragma unroll
      for (int j = 0; j < kTiles; j++) sum[i][j][0] = sum[i][j][1] = sum[i][j][2] = sum[i][j][3] = bias;
    }
    for (int chunk = 0; chunk < plan.chunks; chunk++) {
      const int column = (tile + chunk * kStrips + lane / 16) * kStrip;
      int at[kTall];
#pragma unroll
      for (int i = 0; i < kTall; i++) {
        const int row = first + i * kProductRows + lane % 16 + (block.above + r_first) * plan.images;
        at[i] = row * plan.pitch + column;
      }
      add_products<kStrips, kTiles, kTall>(sum, memory.rows, at, -plan.zeros, limit, plan.images * plan.pitch,
                                           w_lane + r_first * plan.filter_pitch + chunk * kStrips * kStrip,
                                           plan.filter_pitch, r_end - r_first);
    }
    stage_outputs(sum, first, tile, memory, block, params);
  }
}

template <typename T, int kStrips, int kTiles, int kTall>
__global__ void __launch_bounds__(kToeplitzThreads, ToeplitzTraits<kStrips, kTiles, kTall>::kBlocks)
    depthwise_nchw_toeplitz(const __grid_constant__ ToeplitzParams<T> params) {
  const ToeplitzBlock<T> block(params);
  const ToeplitzMemory<T> memory(params.plan);
  load_all(memory, block, params);
  compute_units<kStrips, kTiles, kTall>(memory, block, params);
  __syncthreads();
  for (int image = block.team; image < block.images; image += block.teams) {
    T* const to = block.out + image * block.out_image;
    const T* const y =
        reinterpret_cast<const T*>(memory.outputs + image * params.plan.y_bytes) + elements_after_boundary(to);
    store_run(to, y, block.rows * params.view.w.output, block.threads, block.thread);
  }
}

template <typename T>
using ToeplitzKernel = void (*)(ToeplitzParams<T>);

template <typename T, int kTiles, int kTall>
ToeplitzKernel<T> toeplitz_kernel_of(int strips) {
  constexpr ToeplitzKernel<T> kKernels[] = {
      depthwise_nchw_toeplitz<T, 2, kTiles, kTall>, depthwise_nchw_toeplitz<T, 3, kTiles, kTall>,
      depthwise_nchw_toeplitz<T, 4, kTiles, kTall>, depthwise_nchw_toeplitz<T, 5, kTiles, kTall>};
  return kKernels[strips - 2];
}

template <typename T>
ToeplitzParams<T> toeplitz_params(const ConvView& p, const ToeplitzPlan& plan, const ConvTensors<T>& tensors) {
  const bool rows_aligned = p.w.input % kStrip == 0 && at_boundary(tensors.in);
  const int unit_log2 = rows_aligned                                       ? 3
                        : p.w.input % 4 == 0 && at_boundary(tensors.in, 8) ? 2
                        : p.w.input % 2 == 0 && at_boundary(tensors.in, 4) ? 1
                                                                           : 0;
  return {tensors.in,
          tensors.filter,
          tensors.bias,
          tensors.out,
          p,
          plan,
          rows_aligned,
          unit_log2,
          p.w.output % 2 == 0 && at_boundary(tensors.out, 4),
          Divisor(plan.bands),
          Divisor(p.out_channels()),
          IndexDivisor(p.outputs),
          IndexDivisor(plan.images),
          IndexDivisor(plan.column_groups),
          IndexDivisor(std::max(1, plan.width >> unit_log2)),
          IndexDivisor(std::max(1, (plan.columns - plan.width) / kStrip)),
          IndexDivisor(plan.filter_pitch / 2)};
}

template <typename T>
LaunchPlan plan_toeplitz_row(const KernelRow& row, const ConvProblem& problem, const Device&) {
  constexpr int64_t kLeastTaps = 49, kMostTaps = 4096, kMostSide = 16384;
  if (std::string reason = planes_refuse(row.pass, problem); !reason.empty()) return refuse(std::move(reason));
  const int64_t taps = problem.filter_size();
  if (taps < kLeastTaps || taps > kMostTaps) return refuse(std::to_string(taps) + " taps, made for 49 to 4096");
  for (int axis = 1; axis < 3; axis++) {
    const bool small = problem.input[axis] < kMostSide && problem.output[axis] < kMostSide &&
                       problem.padding[axis] < kMostSide && problem.padding[axis] > -kMostSide;
    if (!small) return refuse("a side or padding of 16384 and more");
  }
  const ConvView view = as_fprop(row.pass, problem);
  const ToeplitzPlan toeplitz = plan_toeplitz(view);
  if (std::string beyond = shared_beyond(toeplitz.shared_bytes()); !beyond.empty()) return refuse(std::move(beyond));
  if (!toeplitz_halves(view, toeplitz)) return refuse("tensor cores would not halve the instructions");
  const auto kernel = toeplitz.shape.tiles == 7   ? toeplitz_kernel_of<T, 7, 1>(toeplitz.shape.strips)
                      : toeplitz.shape.tiles == 4 ? toeplitz_kernel_of<T, 4, 2>(toeplitz.shape.strips)
                                                  : toeplitz_kernel_of<T, 2, 2>(toeplitz.shape.strips);
  return plan_launch_of(row, kernel, toeplitz_shape(view, toeplitz), [=, pass = row.pass](const Tensors& t) {
    return toeplitz_params(view, toeplitz, with_tensors(ConvTensors<T>{}, pass, t));
  });
}

}  // namespace

KernelRows nchw_toeplitz_rows() {
  return rows_of_types<__half, __nv_bfloat16>([&]<typename T> {
    return with_dgrad(
        {.name = "depthwise_fprop_nchw_toeplitz",
         .family = Family::kDepthwise,
         .pass = Pass::kFprop,
         .dtype = kDTypeOf<T>,
         .layout = Layout::kChannelsFirst,
         .stride = 1,
         .min_arch = 80,
         .tensor_cores = true,
         .tile = std::to_string(kToeplitzThreads / 32) + " warps of " + std::to_string(kProductRows) + " rows x " +
                 std::to_string(7 * kStrip) + " columns or " + std::to_string(2 * kProductRows) + " x " +
                 std::to_string(4 * kStrip) + ", for one or several images",
         .plan = plan_toeplitz_row<T>},
        "depthwise_dgrad_nchw_toeplitz");
  });
}

}  // namespace convbound::depthwise
