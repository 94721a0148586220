// transposed_dgrad_nhwc, depthwise: dx[n,h,w,c] = bias[c] + sum over m,r,s of dy[n,p,q,c*M+m] * w[c*M+m,r,s] with
// h + padding = p * stride + r * dilation (and w alike).
//
// dx is cut into blocks of stride x stride positions (transposed_blocks.h). A thread owns 16 bytes of channels (8
// halves) and takes one block after the other: every tap of the filter once, 16-byte loads of dy, 16-byte stores of dx.
// Neighbouring threads have neighbouring channels, so every access covers whole sectors. Several blocks need one
// element of dy. It comes from L2 once for each thread block, and from L1 after that: the 8 x 16 blocks of a tile and
// 128 bytes of channels need (8 + halo) * (16 + halo) * 128 bytes, which is 20 KB for 3x3 at stride 2. sm_90 would
// leave 32 KB to each of 8 thread blocks, and registers allow 3.
//
//   global memory   dx once; dy (9/8 * 17/16) times at 3x3, stride 2, which is 4 % of all traffic
//   per thread      3x3: 4 loads and 4 stores of 16 bytes for 32 elements, 72 FMA, 26 shared loads of filter and bias;
//                   else a load of dy for each tap of a block and a shared load of filter for two blocks
//   in flight       768 threads x 4 x 16 bytes = 48 KB on sm_80 and sm_90
//
// Channels that are no multiple of 16 bytes, pointers that are not aligned and channel multipliers take the same kernel
// with one channel a thread.
#include <type_traits>

#include "csrc/common/channel_slices.h"
#include "csrc/common/shared.h"
#include "csrc/transposed/transposed_blocks.h"

namespace convbound::transposed {

namespace {

constexpr int kNhwcThreads = 256;
constexpr int kTileHeight = 8, kTileBlocks = 128;

template <typename T>
struct TransposedNhwcParams : ConvTensors<T> {
  ConvView view;
  DxBlocks h, w;
  Phases rows, columns;
  ChannelSlices slices;
};

// What one thread works on: its vector of channels in one image, and where the filter has those.
template <typename T>
struct TransposedNhwcLane {
  const T* dy;
  T* dx;
  const float* filter;
};

// 3x3 at stride 2: the 2x2 block from a window of 2x2 elements of dy. The filter stays in shared memory: in registers
// it would spill, for the compiler keeps it widened there.
template <typename T, int kElements>
struct Blocks3x3 {
  static constexpr int kRows = 1;  // blocks at a time, below each other
  const TransposedNhwcParams<T>& params;
  TransposedNhwcLane<T> at;

  __device__ __forceinline__ void make(int i, int, int j) const {
    const AxisView &h = params.view.h, &w = params.view.w;
    const int channels = params.slices.channels, first_h = 2 * i - h.padding, first_w = 2 * j - w.padding;
    const T* const dy = at.dy + (static_cast<int64_t>(i) * w.output + j) * channels;
    T* const dx = at.dx + (static_cast<int64_t>(first_h) * w.input + first_w) * channels;
    float window[2][2][kElements] = {};
#pragma unroll
    for (int t = 0; t < 2; t++) {
#pragma unroll
      for (int u = 0; u < 2; u++) {
        const int p = i - t, q = j - u;
        if (within(p, h.output) && within(q, w.output)) {
          load_widened(dy - (static_cast<int64_t>(t) * w.output + u) * channels, window[t][u]);
        }
      }
    }
#pragma unroll
    for (int fh = 0; fh < 2; fh++) {
#pragma unroll
      for (int fw = 0; fw < 2; fw++) {
        float sum[kElements];
        read_slot<kElements>(params.slices, at.filter, 9, 0, sum);  // the bias
#pragma unroll
        for (int r = fh; r < 3; r += 2) {
#pragma unroll
          for (int s = fw; s < 3; s += 2) {
            float tap[kElements];
            read_slot<kElements>(params.slices, at.filter, r * 3 + s, 0, tap);
            add_product(window[r / 2][s / 2], tap, sum);
          }
        }
        if (within(first_h + fh, h.input) && within(first_w + fw, w.input)) {
          store_narrowed(dx + (static_cast<int64_t>(fh) * w.input + fw) * channels, sum);
        }
      }
    }
  }
};

// Anything else, two blocks at a time for each tap that is read from shared memory.
template <typename T, int kElements>
struct BlocksAny {
  static constexpr int kRows = 2;
  const TransposedNhwcParams<T>& params;
  TransposedNhwcLane<T> at;

  __device__ __forceinline__ void make(int i, int i_end, int j) const {
    const AxisView &h = params.view.h, &w = params.view.w;
    const Phases &rows = params.rows, &columns = params.columns;
    const int channels = params.slices.channels, taps = h.filter * w.filter;
    for (int fh = 0; fh < h.stride; fh++) {
      const int row_taps = rows.count[fh];
      for (int fw = 0; fw < w.stride; fw++) {
        const int at_w = j * w.stride + fw - w.padding, column_taps = columns.count[fw];
        if (!within(at_w, w.input)) continue;
        float sum[kRows][kElements];
#pragma unroll
        for (int b = 0; b < kRows; b++) read_slot<kElements>(params.slices, at.filter, params.slices.taps, 0, sum[b]);
        for (int m = 0; m < params.view.outputs; m++) {
          for (int t = 0; t < row_taps; t++) {
            const int p = i + rows.offset[fh] - t * rows.move;
            const int first = m * taps + (rows.first[fh] + t * rows.step) * w.filter + columns.first[fw];
            const T* const row = at.dy + static_cast<int64_t>(p) * w.output * channels * params.view.outputs + m;
#pragma unroll 2
            for (int u = 0; u < column_taps; u++) {
              const int q = j + columns.offset[fw] - u * columns.move;
              if (!within(q, w.output)) continue;
              float tap[kElements];
              read_slot<kElements>(params.slices, at.filter, first + u * columns.step, 0, tap);
#pragma unroll
              for (int b = 0; b < kRows; b++) {
                if (!within(p + b, h.output)) continue;
                float value[kElements];
                load_widened(row + static_cast<int64_t>(b * w.output + q) * channels * params.view.outputs, value);
                add_product(value, tap, sum[b]);
              }
            }
          }
        }
#pragma unroll
        for (int b = 0; b < kRows; b++) {
          const int at_h = (i + b) * h.stride + fh - h.padding;
          if (i + b >= i_end || !within(at_h, h.input)) continue;
          store_narrowed(at.dx + (static_cast<int64_t>(at_h) * w.input + at_w) * channels, sum[b]);
        }
      }
    }
  }
};

template <typename T, int kElements, int kFilter>
__global__ void __launch_bounds__(kNhwcThreads, 3)
    dgrad_nhwc_kernel(const __grid_constant__ TransposedNhwcParams<T> params) {
  const ChannelSlices& slices = params.slices;
  const AxisView &h = params.view.h, &w = params.view.w;
  const DxBlocks &rows = params.h, &columns = params.w;
  const int thread = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x);
  const int slice = block % slices.slices, tile = block / slices.slices % (rows.tiles * columns.tiles);
  const int64_t n = block / slices.slices / (rows.tiles * columns.tiles);
  const int first_channel = slice * slices.lanes * kElements;
  float* const filter = dynamic_shared<float>();
  load_slice_filters<T, kElements, kNhwcThreads>(slices, first_channel, params.filter, params.bias, filter, thread, 0);
  __syncthreads();

  const int positions = kNhwcThreads / slices.lanes, lane = thread % slices.lanes, position = thread / slices.lanes;
  const int channel = first_channel + lane * kElements;
  const int first_i = rows.first + tile / columns.tiles * rows.tile,
            first_j = columns.first + tile % columns.tiles * columns.tile;
  const int height = min(rows.tile, rows.first + rows.count - first_i);
  const int width = min(columns.tile, columns.first + columns.count - first_j);
  using Blocks = std::conditional_t<kFilter == 3, Blocks3x3<T, kElements>, BlocksAny<T, kElements>>;
  const bool working = position < positions && channel < slices.channels;
  const int items = working ? (height + Blocks::kRows - 1) / Blocks::kRows * width : 0;
  const int multiplier = kFilter == 3 ? 1 : params.view.outputs;
  const T* const dy =
      params.in + n * h.output * w.output * slices.channels * multiplier + static_cast<int64_t>(channel) * multiplier;
  const Blocks blocks{params,
                      {dy, params.out + n * h.input * w.input * slices.channels + channel,
                       filter + filter_index<kElements>(slices, 0, 0, lane)}};
#pragma unroll 1
  for (int item = position; item < items; item += positions) {
    blocks.make(first_i + item / width * Blocks::kRows, first_i + height, first_j + item % width);
  }
}

template <typename T, int kElements, int kFilter>
SlicedLaunch<TransposedNhwcParams<T>> sliced_launch(const ConvView& v) {
  constexpr int64_t kFilterTarget = 24 * 1024;
  const DxBlocks rows = make_blocks(v.h, kTileHeight);
  TransposedNhwcParams<T> params{
      {}, v, rows, make_blocks(v.w, kTileBlocks / rows.tile), make_phases(v.h), make_phases(v.w), {}};
  const int64_t taps = int64_t{v.outputs} * v.h.filter * v.w.filter;
  for (const int bytes : {128, 64, 32}) {
    params.slices = make_slices(v.groups, taps, kElements, sizeof(T), bytes);
    if (filter_bytes(params.slices, kElements) <= kFilterTarget) break;
  }
  const LaunchShape shape{.grid_x = v.images * rows.tiles * params.w.tiles * params.slices.slices,
                          .block_x = kNhwcThreads,
                          .shared_bytes = static_cast<size_t>(filter_bytes(params.slices, kElements))};
  return {dgrad_nhwc_kernel<T, kElements, kFilter>, params, shape};
}

template <typename T, int kFilter>
LaunchPlan plan_nhwc(const KernelRow& row, const ConvProblem& p, const Device&) {
  std::string reason =
      first_of({problem_refused(p), kFilter == 3 ? multiplier_or_dilation_refused(p) : stride_refused(p)});
  if (!reason.empty()) return refuse(std::move(reason));
  const ConvView v = view_of(p);
  constexpr int kVector = kVectorElements<T>;
  const auto single = sliced_launch<T, 1, kFilter>(v);
  return plan_sliced(row, single, p.k == p.c && p.c % kVector == 0 ? sliced_launch<T, kVector, kFilter>(v) : single);
}

// kFilter 3 is 3x3 at stride 2, one filter for each channel; 0 is everything up to stride 16.
template <typename T, int kFilter>
KernelRow nhwc_row() {
  return {.name = "transposed_dgrad_nhwc",
          .family = Family::kTransposed,
          .pass = Pass::kDgrad,
          .dtype = kDTypeOf<T>,
          .layout = Layout::kChannelsLast,
          .filter = kFilter,
          .stride = kFilter == 3 ? 2 : 0,
          .tile = std::to_string(kNhwcThreads) + " threads, " + std::to_string(kTileBlocks) +
                  " blocks of stride x stride, 128 bytes of channels",
          .plan = plan_nhwc<T, kFilter>};
}

}  // namespace

KernelRows dgrad_nhwc_rows() {
  return rows_of_fast_types([&]<typename T> { return KernelRows{nhwc_row<T, 3>(), nhwc_row<T, 0>()}; });
}

}  // namespace convbound::transposed
