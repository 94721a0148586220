// depthwise_fprop_ncl and depthwise_dgrad_ncl, in one dimension:
//
//   y[n,k,q] = bias[k] + sum over s of x[n,k / m,q + s - padding] * w[k,s]
//
// The padding is causal, centred or any other. dx is the same with the filter turned around, for m = 1. A filter of one
// row over images (1 x S, NCHW) is the same convolution with more rows.
//
// Bytes: x and y once, and one or two vectors of 16 bytes before and after each tile. A row of 2048 halves is one tile.
// FLOPs: 2 S per output, so that up to about 16 taps memory is the floor.
//
// A block takes up to 512 vectors of a row, or several shorter rows. It copies them into shared memory by cp.async,
// each element where it lay in its vector: 8 KB in flight per block, whatever the registers hold. A thread then owns
// the 16 bytes of one output vector at a time. It reads the two or three vectors that its window touches. Which of
// their elements meet which tap depends only on the padding modulo the vector. So there are 8 unrolled bodies (fp32:
// 4), of which all threads take the same, without shifts of misaligned data and without bank conflicts.
#include <algorithm>

#include "csrc/common/divisor.h"
#include "csrc/common/integers.h"
#include "csrc/common/numeric.h"
#include "csrc/common/ptx.h"
#include "csrc/common/shared.h"
#include "csrc/common/vector.h"
#include "csrc/depthwise/depthwise_nhwc_plan.h"

namespace convbound::depthwise {

namespace {

constexpr int kThreads = 128;
// 10 blocks of 128 threads have 48 registers each, and 80 KB of tiles: above the 64 KB that sm_100 wants in flight.
constexpr int kBlocks = 10;
constexpr int kVectorsPerThread = 4;
constexpr int kTileVectors = kThreads * kVectorsPerThread;
constexpr int64_t kTileBytes = 24 * 1024, kFilterBytes = 8 * 1024;
constexpr int64_t kEnoughBlocks = 2 * 132;

template <typename T>
struct NclParams : ConvTensors<T> {
  int rows;  // of the output
  int in_length, out_length, taps;
  int first_vector, shift;  // the window of output vector v begins at element `shift` of input vector v + first_vector
  bool flip, vector_in, vector_out;
  int block_rows, row_vectors;  // of the output, in a block
  int tile_width, pitch;        // vectors of a row in shared memory, and from one row to the next
  IndexDivisor tiles, by_row_vectors, by_tile_width, by_filter, height, channels, multiplier;
};

// Rows of the output are n, k, h in memory order; those of the input n, k / multiplier, h.
struct RowPlace {
  int channel;
  int64_t in;
};

template <typename T>
__device__ __forceinline__ RowPlace row_place(const NclParams<T>& p, int row) {
  const QuotientRemainder h = divide(row, p.height);
  const QuotientRemainder k = divide(h.quotient, p.channels);
  const int64_t plane = static_cast<int64_t>(k.quotient) * divide(p.channels.size, p.multiplier).quotient +
                        divide(k.remainder, p.multiplier).quotient;
  return {k.remainder, plane * p.height.size + h.remainder};
}

// Starts the copy of the block's rows, zeros outside them.
template <typename T>
__device__ __forceinline__ void copy_rows(const NclParams<T>& p, int first_row, int first_vector, uint4* tile) {
  const int vectors = p.block_rows * p.tile_width;
  if (p.vector_in) {
    for (int i = static_cast<int>(threadIdx.x); i < vectors; i += kThreads) {
      const QuotientRemainder row = divide(i, p.by_tile_width);
      const int begin = (first_vector + row.remainder) * kVectorElements<T>;
      const bool inside = begin >= 0 && begin < p.in_length && first_row + row.quotient < p.rows;
      const T* from = p.in;
      if (inside) from += row_place(p, first_row + row.quotient).in * p.in_length + begin;
      ptx::cp_async<16>(tile + row.quotient * p.pitch + row.remainder, from, inside ? 16 : 0);
    }
    return;
  }
  const int elements = vectors * kVectorElements<T>;
  for (int i = static_cast<int>(threadIdx.x); i < elements; i += kThreads) {
    const QuotientRemainder row = divide(i / kVectorElements<T>, p.by_tile_width);
    const int at = (first_vector + row.remainder) * kVectorElements<T> + i % kVectorElements<T>;
    const bool inside = at >= 0 && at < p.in_length && first_row + row.quotient < p.rows;
    T value = narrow<T>(0.0f);
    if (inside) value = p.in[row_place(p, first_row + row.quotient).in * p.in_length + at];
    reinterpret_cast<T*>(tile + row.quotient * p.pitch + row.remainder)[i % kVectorElements<T>] = value;
  }
}

// The filters and biases of the block's rows in fp32, [row][taps + 1].
template <typename T>
__device__ __forceinline__ void load_taps_and_bias(const NclParams<T>& p, int first_row, float* filters) {
  const int count = p.block_rows * (p.taps + 1);
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    const QuotientRemainder row = divide(i, p.by_filter);
    float value = 0.0f;
    if (first_row + row.quotient < p.rows) {
      const int k = row_place(p, first_row + row.quotient).channel, s = row.remainder;
      if (s < p.taps) {
        value = widen(p.filter[static_cast<int64_t>(k) * p.taps + (p.flip ? p.taps - 1 - s : s)]);
      } else if (p.bias != nullptr) {
        value = widen(p.bias[k]);
      }
    }
    filters[i] = value;
  }
}

// Adds up to a vector's number of taps to the outputs of a vector; their window begins at element kShift of `from`.
template <typename T, int kShift>
__device__ __forceinline__ void add_taps(const uint4* from, const float* filter, int taps,
                                         float (&sum)[kVectorElements<T>]) {
  constexpr int kSize = kVectorElements<T>;
  constexpr int kVectors = (kShift + 2 * kSize - 2) / kSize + 1;
  float x[kVectors * kSize];
#pragma unroll
  for (int v = 0; v < kVectors; v++) widen(load_vector(reinterpret_cast<const T*>(from + v)), x + v * kSize);
#pragma unroll
  for (int s = 0; s < kSize; s++) {
    if (s >= taps) continue;
    const float w = filter[s];
#pragma unroll
    for (int i = 0; i < kSize; i++) sum[i] = fmaf(w, x[kShift + i + s], sum[i]);
  }
}

// The same for a shift from kShift on that the compiler does not know.
template <typename T, int kShift = 0>
__device__ __forceinline__ void add_taps(int shift, const uint4* from, const float* filter, int taps,
                                         float (&sum)[kVectorElements<T>]) {
  if constexpr (kShift + 1 < kVectorElements<T>) {
    if (shift != kShift) return add_taps<T, kShift + 1>(shift, from, filter, taps, sum);
  }
  add_taps<T, kShift>(from, filter, taps, sum);
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks) depthwise_ncl(const __grid_constant__ NclParams<T> p) {
  auto* tile = dynamic_shared<uint4>();
  uint4* staging = tile + p.block_rows * p.pitch;
  auto* filters = reinterpret_cast<float*>(staging + kThreads);
  const int thread = static_cast<int>(threadIdx.x);
  const QuotientRemainder place = divide(static_cast<int>(blockIdx.x), p.tiles);
  const int first_row = place.quotient * p.block_rows, first_output = place.remainder * p.row_vectors;
  copy_rows(p, first_row, first_output + p.first_vector, tile);
  load_taps_and_bias(p, first_row, filters);
  ptx::cp_async_wait_all();
  __syncthreads();

  constexpr int kSize = kVectorElements<T>;
  const int vectors = p.block_rows * p.row_vectors;
#pragma unroll 1
  for (int first = 0; first < vectors; first += kThreads) {
    const QuotientRemainder row = divide(first + thread, p.by_row_vectors);
    float sum[kVectorElements<T>];
    if (first + thread < vectors) {
      const float* filter = filters + row.quotient * (p.taps + 1);
      const uint4* from = tile + row.quotient * p.pitch + row.remainder;
#pragma unroll
      for (int i = 0; i < kSize; i++) sum[i] = filter[p.taps];
#pragma unroll 1
      for (int s = 0; s < p.taps; s += kVectorElements<T>) {
        add_taps<T>(p.shift, from, filter + s, p.taps - s, sum);
        from++;
      }
    }
    if (p.vector_out) {
      const int q = (first_output + row.remainder) * kVectorElements<T>;
      if (first + thread < vectors && first_row + row.quotient < p.rows && q < p.out_length) {
        T* to = p.out + static_cast<int64_t>(first_row + row.quotient) * p.out_length + q;
        store_vector(to, narrow_vector<T>(sum));
      }
      continue;
    }
    // Rows that do not begin at 16 bytes: the warp's outputs go out element by element, neighbours together.
    if (first + thread < vectors) store_vector(reinterpret_cast<T*>(staging + thread), narrow_vector<T>(sum));
    __syncwarp();
#pragma unroll 1
    for (int i = 0; i < kSize; i++) {
      const int element = i * 32 + thread % 32;
      const int vector = thread / 32 * 32 + element / kVectorElements<T>;
      const QuotientRemainder at = divide(first + vector, p.by_row_vectors);
      const int q = (first_output + at.remainder) * kVectorElements<T> + element % kVectorElements<T>;
      if (first + vector < vectors && first_row + at.quotient < p.rows && q < p.out_length) {
        p.out[static_cast<int64_t>(first_row + at.quotient) * p.out_length + q] =
            reinterpret_cast<const T*>(staging + vector)[element % kVectorElements<T>];
      }
    }
    __syncwarp();
  }
}

// The block's share of the rows.
struct NclPlan {
  int64_t rows, tiles, row_vectors, tile_width, pitch, block_rows, blocks;
  size_t shared_bytes;
};

NclPlan plan_rows(const ConvView& g, int64_t per_vector) {
  NclPlan plan;
  plan.rows = g.images * g.out_channels() * g.h.output;
  const int64_t vectors = divide_up(g.w.output, per_vector);
  plan.tiles = divide_up(vectors, kTileVectors);
  plan.row_vectors = plan.tiles == 1 ? vectors : round_up(divide_up(vectors, plan.tiles), 8);
  plan.tiles = divide_up(vectors, plan.row_vectors);
  plan.tile_width = plan.row_vectors + 1 + divide_up(g.w.filter, per_vector);
  // Neighbouring threads in different rows meet different banks when the pitch is row_vectors modulo 128 bytes.
  plan.pitch = plan.row_vectors + round_up(plan.tile_width - plan.row_vectors, 8);
  const int64_t filter_bytes = (int64_t{g.w.filter} + 1) * 4;
  plan.block_rows = std::min({kTileVectors / plan.row_vectors, kTileBytes / (plan.pitch * 16),
                              kFilterBytes / filter_bytes, plan.rows * plan.tiles / kEnoughBlocks});
  plan.block_rows = std::max<int64_t>(plan.block_rows, 1);
  plan.blocks = divide_up(plan.rows, plan.block_rows) * plan.tiles;
  plan.shared_bytes = static_cast<size_t>(plan.block_rows * (plan.pitch * 16 + filter_bytes) + kThreads * 16);
  return plan;
}

template <typename T>
NclParams<T> ncl_params(const ConvView& g, const NclPlan& plan, const ConvTensors<T>& tensors) {
  const auto size = [](int64_t value) { return static_cast<int>(value); };
  const int shift = size(modulo(-g.w.padding, kVectorElements<T>));
  return {tensors,
          size(plan.rows),
          g.w.input,
          g.w.output,
          g.w.filter,
          (-g.w.padding - shift) / kVectorElements<T>,
          shift,
          g.flip,
          rows_at_boundaries<T>(tensors.in, g.w.input),
          rows_at_boundaries<T>(tensors.out, g.w.output),
          size(plan.block_rows),
          size(plan.row_vectors),
          size(plan.tile_width),
          size(plan.pitch),
          IndexDivisor(plan.tiles),
          IndexDivisor(plan.row_vectors),
          IndexDivisor(plan.tile_width),
          IndexDivisor(g.w.filter + 1),
          IndexDivisor(g.h.output),
          IndexDivisor(g.out_channels()),
          IndexDivisor(g.outputs)};
}

template <typename T>
LaunchPlan plan_ncl(const KernelRow& row, const ConvProblem& p, const Device&) {
  constexpr int64_t kMostTaps = 1024, kMost = (int64_t{1} << 31) - 1024;
  if (std::string reason = nhwc_refuse(row.pass, p); !reason.empty()) return refuse(std::move(reason));
  const bool one_row = p.filter[1] == 1 && p.stride[1] == 1 && p.padding[1] == 0 && p.input[1] == p.output[1];
  if (!one_row) return refuse("a filter of more than one row");
  if (p.stride[2] != 1 || p.dilation[2] != 1) return refuse("a stride or dilation along w");
  const ConvView view = as_fprop(row.pass, p);
  if (view.inputs != 1) return refuse("dgrad sums over " + std::to_string(view.inputs) + " channels");
  if (view.w.filter > kMostTaps) return refuse(std::to_string(view.w.filter) + " taps, at most 1024");
  const NclPlan ncl = plan_rows(view, kVectorElements<T>);
  if (ncl.rows >= kMost) return refuse(std::to_string(ncl.rows) + " rows are beyond 2^31");
  const LaunchShape shape{.grid_x = ncl.blocks, .block_x = kThreads, .shared_bytes = ncl.shared_bytes};
  return plan_launch_of(row, depthwise_ncl<T>, shape, [=, pass = row.pass](const Tensors& t) {
    return ncl_params(view, ncl, with_tensors(ConvTensors<T>{}, pass, t));
  });
}

}  // namespace

KernelRows ncl_rows() {
  return rows_of_fast_types([&]<typename T> {
    return with_dgrad({.name = "depthwise_fprop_ncl",
                       .family = Family::kDepthwise,
                       .pass = Pass::kFprop,
                       .dtype = kDTypeOf<T>,
                       .layout = Layout::kChannelsFirst,
                       .tile = std::to_string(kThreads) + " threads, up to " + std::to_string(kTileVectors) +
                               " vectors of 16 bytes in a row, rows together",
                       .plan = plan_ncl<T>},
                      "depthwise_dgrad_ncl");
  });
}

}  // namespace convbound::depthwise
