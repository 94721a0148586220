// depthwise_fprop_nchw_tiled and depthwise_dgrad_nchw_tiled: any filter, and for fprop any stride (depthwise_nchw.h has
// the equation). Made for large filters, 9x9 to 31x31, and for oblong ones.
//
// Floor: input and output once, and 2 * R * S FLOP per output. From 9x9 on FMA issue is the limit on every GPU.
//
// A block takes a tile of a plane, or several small planes. Shared memory holds the input tile with its halo of zeros,
// and the filters as floats. At stride 1 a thread computes 4 rows of one vector (16 bytes) of outputs. It walks down
// the rows of its input. It loads vectors of each row into registers, and uses them for all output rows that they reach
// and for one vector of taps after another. So 8 * 8 * 4 FMAs in 16 bits (4 * 4 * 4 in fp32) share 1 vector of input,
// its conversion, and 4 * 2 (4 * 1) broadcast vectors of taps. Taps beyond the filter's width are not multiplied, not
// even by zero: they would spread infinities. At other strides a thread computes 4 rows of one column, tap by tap.
//
// Traffic: outputs once. Inputs once where a plane fits into one tile of 128 columns and 512 vectors, as those of image
// models do; else with the halo of R - stride rows and S - stride columns.
//
// Tile: 128 threads with 32 sums each: 96 registers allow 20 warps. Lanes with a vector each read shared memory without
// conflicts within a row. `skew` moves threads of other rows to other banks.
#include "csrc/common/divisor.h"
#include "csrc/common/numeric.h"
#include "csrc/common/run_copy.h"
#include "csrc/common/shared.h"
#include "csrc/depthwise/depthwise_nchw_tiled_plan.h"

namespace convbound::depthwise {

namespace {

template <typename T, bool kUnitStride>
struct TiledTraits {
  static constexpr int kVector = kVectorElements<T>;
  static constexpr int kColumns = kUnitStride ? kVector : 1;
  static constexpr int kRows = kTiledRows;
  static constexpr int kBlocks = 4;  // 16 warps on a multiprocessor, up to 128 registers
  static constexpr TiledShape shape() { return {sizeof(T), kColumns}; }
  static_assert(kRows * kColumns >= 4, "independent sums");
};

template <typename T>
struct TiledParams : ConvTensors<T> {
  int64_t planes;
  ConvView view;
  TiledPlan plan;
  Divisor tiles_h, tiles_w, filters, multiplier;
};

// Loads the rows of the input that the tile needs, amid zeros that are there already.
template <typename T>
__device__ __forceinline__ void load_tile(T* xs, const TiledParams<T>& params, int64_t first, int planes, int h_base,
                                          int w_base) {
  constexpr int kVector = kVectorElements<T>;
  const ConvView& p = params.view;
  const TiledPlan& plan = params.plan;
  const int w_first = max(w_base, 0), width = min(w_base + plan.pitch, p.w.input) - w_first;
  const int lanes = 1 << plan.chunk_log2, chunk0 = static_cast<int>(threadIdx.x) & (lanes - 1);
  const int rows_at_once = static_cast<int>(blockDim.x) >> plan.chunk_log2, all_rows = planes * plan.in_rows;
  for (int at = static_cast<int>(threadIdx.x) >> plan.chunk_log2; at < all_rows; at += rows_at_once) {
    const int plane = at / plan.in_rows, row = at - plane * plan.in_rows, h = h_base + row;
    if (!within(h, p.h.input) || width <= 0) continue;
    int64_t in_plane = first + plane;
    take(in_plane, params.multiplier);
    const T* const global = params.in + in_plane * p.h.input * p.w.input + h * p.w.input + w_first;
    T* const shared =
        xs + plane * plan.plane_elements + row * plan.pitch + row / kTiledRows * plan.skew + w_first - w_base;
    // A vector may reach into the neighbouring rows; what it loads of them is not stored.
    const int in_row = h * p.w.input + w_first, plane_size = p.h.input * p.w.input;
    const int before = elements_after_boundary(global), chunks = (before + width + kVector - 1) / kVector;
    for (int chunk = chunk0; chunk < chunks; chunk += lanes) {
      const int e = chunk * kVector - before;
      Vector<T> vector{};
      const bool whole = in_row + e >= 0 && in_row + e + kVector < plane_size + 1;
      if (whole) vector = load_vector(global + e);
#pragma unroll
      for (int i = 0; i < kVector; i++) {
        const bool inside = e + i >= 0 && e + i < width;
        if (inside) shared[e + i] = whole ? vector.element[i] : global[e + i];
      }
    }
  }
}

// The filters of the block's planes as floats, turned round for dgrad; rows end with zeros that are there already.
template <typename T>
__device__ __forceinline__ void load_filter_rows(float* ws, const TiledParams<T>& params, int64_t first, int planes) {
  const ConvView& p = params.view;
  const int taps = p.h.filter * p.w.filter, threads = static_cast<int>(blockDim.x);
  for (int plane = 0; plane < planes; plane++) {
    int64_t image = first + plane;
    const T* const filter = params.filter + static_cast<int64_t>(take(image, params.filters)) * taps;
    float* const rows = ws + plane * params.plan.filter_stride;
    for (int i = static_cast<int>(threadIdx.x); i < taps; i += threads) {
      const int tap = p.flip ? taps - 1 - i : i, r = tap / p.w.filter;
      rows[r * params.plan.filter_pitch + tap - r * p.w.filter] = widen(filter[i]);
    }
  }
}

// sums += one row of the filter from tap s0 on times a row of input; `taps` of them, all of a vector where kWhole.
template <bool kWhole, int kVector>
__device__ __forceinline__ void multiply_row(float (&sum)[kVector], const float* w, const float (&x)[2 * kVector],
                                             int taps) {
  float tap[kVector];
#pragma unroll
  for (int t = 0; t < kVector; t += 4) {
    if (kWhole || t < taps) {
      const float4 four = *reinterpret_cast<const float4*>(w + t);
      tap[t] = four.x, tap[t + 1] = four.y, tap[t + 2] = four.z, tap[t + 3] = four.w;
    }
  }
#pragma unroll
  for (int t = 0; t < kVector; t++) {
    if (kWhole || t < taps) {
#pragma unroll
      for (int c = 0; c < kVector; c++) sum[c] = fmaf(tap[t], x[c + t], sum[c]);
    }
  }
}

template <typename T>
__device__ __forceinline__ void unit_stride_sums(float (&sum)[kTiledRows][kVectorElements<T>], const T* x,
                                                 const float* w, const TiledParams<T>& params) {
  constexpr int kVector = kVectorElements<T>;
  const ConvView& p = params.view;
  const TiledPlan& plan = params.plan;
  const int whole = p.w.filter / kVector * kVector, rows = kTiledRows - 1 + p.h.filter;
#pragma unroll 1
  for (int h = 0; h < rows; h++) {
    const T* row = x + h * plan.pitch + h / kTiledRows * plan.skew;
    float v[2 * kVector];
    widen(load_vector(row), v);
#pragma unroll 1
    for (int s = 0; s < whole; s += kVector) {
      widen(load_vector(row + s + kVector), v + kVector);
#pragma unroll
      for (int i = 0; i < kTiledRows; i++) {
        const int r = h - i;
        if (r >= 0 && r < p.h.filter) multiply_row<true>(sum[i], w + r * plan.filter_pitch + s, v, kVector);
      }
#pragma unroll
      for (int i = 0; i < kVector; i++) v[i] = v[i + kVector];
    }
    if (whole < p.w.filter) {
      widen(load_vector(row + whole + kVector), v + kVector);
#pragma unroll
      for (int i = 0; i < kTiledRows; i++) {
        const int r = h - i;
        if (r >= 0 && r < p.h.filter) {
          multiply_row<false>(sum[i], w + r * plan.filter_pitch + whole, v, p.w.filter - whole);
        }
      }
    }
  }
}

template <typename T>
__device__ __forceinline__ void strided_sums(float (&sum)[kTiledRows][1], const T* x, const float* w,
                                             const TiledParams<T>& params) {
  const ConvView& p = params.view;
  const int pitch = params.plan.pitch;
#pragma unroll 1
  for (int r = 0; r < p.h.filter; r++) {
#pragma unroll 1
    for (int s = 0; s < p.w.filter; s++) {
      const float tap = w[r * params.plan.filter_pitch + s];
#pragma unroll
      for (int i = 0; i < kTiledRows; i++) {
        sum[i][0] = fmaf(tap, widen(x[(i * p.h.stride + r) * pitch + s]), sum[i][0]);
      }
    }
  }
}

// Writes a row of a thread's outputs, `count` of them, to shared or global memory.
template <typename T, int kColumns>
__device__ __forceinline__ void store_row(T* to, const float (&sum)[kColumns], int count) {
  constexpr int kVector = kVectorElements<T>;
  if constexpr (kColumns == kVector) {
    if (count >= kVector && elements_after_boundary(to) == 0) {
      store_narrowed(to, sum);
      return;
    }
  }
#pragma unroll
  for (int c = 0; c < kColumns; c++) {
    if (c < count) to[c] = narrow<T>(sum[c]);
  }
}

template <typename T, bool kUnitStride>
__global__ void __launch_bounds__(kTiledThreads, TiledTraits<T, kUnitStride>::kBlocks)
    depthwise_nchw_tiled(const __grid_constant__ TiledParams<T> params) {
  using Traits = TiledTraits<T, kUnitStride>;
  constexpr int kColumns = Traits::kColumns;
  const ConvView& p = params.view;
  const TiledPlan& plan = params.plan;

  int64_t group = blockIdx.x;
  const int tile_w = take(group, params.tiles_w), tile_h = take(group, params.tiles_h);
  const int64_t first = group * plan.planes;
  const int planes = static_cast<int>(params.planes - first < plan.planes ? params.planes - first : plan.planes);
  const int first_p = tile_h * plan.rows * kTiledRows, first_q = tile_w * plan.columns * kColumns;
  const int rows = min(plan.rows * kTiledRows, p.h.output - first_p);

  unsigned char* const memory = dynamic_shared<unsigned char>();
  T* const xs = reinterpret_cast<T*>(memory);
  float* const ws = reinterpret_cast<float*>(memory + plan.x_bytes);
  const int zeros = (plan.x_bytes + plan.w_bytes) / kVectorBytes, threads = static_cast<int>(blockDim.x);
  for (int i = static_cast<int>(threadIdx.x); i < zeros; i += threads) {
    reinterpret_cast<uint4*>(memory)[i] = make_uint4(0, 0, 0, 0);
  }
  __syncthreads();
  load_filter_rows(ws, params, first, planes);
  load_tile(xs, params, first, planes, first_p * p.h.stride - p.h.padding, first_q * p.w.stride - p.w.padding);
  __syncthreads();

  // Where all of a plane's width is in the tile, outputs follow each other and leave through shared memory as one run.
  const bool linear = plan.tiles_w == 1;
  T* const out = params.out + (first * p.h.output + first_p) * p.w.output;
  T* const ys = reinterpret_cast<T*>(memory + plan.x_bytes + plan.w_bytes) + elements_after_boundary(out);
  const int column = static_cast<int>(threadIdx.x) & ((1 << plan.slot_log2) - 1);
  const int unit = static_cast<int>(threadIdx.x) >> plan.slot_log2, plane = unit / plan.rows;
  const int row_group = unit - plane * plan.rows, row0 = row_group * kTiledRows, q = first_q + column * kColumns;
  if (column < plan.columns && plane < planes && row0 < rows && q < p.w.output) {
    float bias = 0;
    if (params.bias != nullptr) {
      int64_t image = first + plane;
      bias = widen(params.bias[take(image, params.filters)]);
    }
    float sum[kTiledRows][kColumns];
#pragma unroll
    for (int i = 0; i < kTiledRows; i++) {
#pragma unroll
      for (int c = 0; c < kColumns; c++) sum[i][c] = bias;
    }
    const float* const w = ws + plane * plan.filter_stride;
    const T* const x = xs + plane * plan.plane_elements + row0 * p.h.stride * plan.pitch + row_group * plan.skew +
                       column * kColumns * p.w.stride;
    if constexpr (kUnitStride) {
      unit_stride_sums(sum, x, w, params);
    } else {
      strided_sums(sum, x, w, params);
    }
    T* const y = linear ? ys + (plane * rows + row0) * p.w.output + q : out + row0 * p.w.output + q;
#pragma unroll
    for (int i = 0; i < kTiledRows; i++) {
      if (row0 + i < rows) store_row<T>(y + i * p.w.output, sum[i], p.w.output - q);
    }
  }
  if (linear) {
    __syncthreads();
    store_run(out, ys, planes * rows * p.w.output, threads);
  }
}

template <typename T, bool kUnitStride>
LaunchPlan plan_tiled_launch(const KernelRow& row, const ConvView& view) {
  const TiledPlan plan = plan_tiled(view, TiledTraits<T, kUnitStride>::shape());
  const TiledParams<T> params{{},
                              planes_of(view),
                              view,
                              plan,
                              Divisor(plan.tiles_h),
                              Divisor(plan.tiles_w),
                              Divisor(view.out_channels()),
                              Divisor(view.outputs)};
  return plan_launch(row, depthwise_nchw_tiled<T, kUnitStride>, tiled_shape(view, plan), params);
}

template <typename T>
LaunchPlan plan_tiled_row(const KernelRow& row, const ConvProblem& problem, const Device&) {
  constexpr int64_t kMostTaps = 4096, kMostStride = 64;
  if (std::string reason = planes_refuse(row.pass, problem); !reason.empty()) return refuse(std::move(reason));
  if (problem.filter_size() > kMostTaps) return refuse(std::to_string(problem.filter_size()) + " taps, at most 4096");
  if (problem.stride[1] > kMostStride || problem.stride[2] > kMostStride) return refuse("a stride beyond 64");
  const ConvView view = as_fprop(row.pass, problem);
  return view.h.stride == 1 && view.w.stride == 1 ? plan_tiled_launch<T, true>(row, view)
                                                  : plan_tiled_launch<T, false>(row, view);
}

}  // namespace

KernelRows nchw_tiled_rows() {
  return rows_of_fast_types([&]<typename T> {
    KernelRows rows = with_dgrad(
        {.name = "depthwise_fprop_nchw_tiled",
         .family = Family::kDepthwise,
         .pass = Pass::kFprop,
         .dtype = kDTypeOf<T>,
         .layout = Layout::kChannelsFirst,
         .tile = std::to_string(kTiledThreads) + " threads: " + std::to_string(kTiledRows) + " rows of " +
                 std::to_string(TiledTraits<T, true>::kColumns) + " columns each at stride 1, of one at others",
         .plan = plan_tiled_row<T>},
        "depthwise_dgrad_nchw_tiled");
    rows[1].stride = 1;
    return rows;
  });
}

}  // namespace convbound::depthwise
