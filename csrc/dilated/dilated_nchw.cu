// dilated_fprop_nchw and dilated_dgrad_nchw, depthwise, stride 1:
//
//   out[y,x] = bias + sum over i,r,s of in_i[y + r * dilation_h - padding_h, x + s * dilation_w - padding_w] * w_i[r,s]
//
// For dgrad, dy is the input and the filter is flipped (as_fprop() in csrc/common/view.h). With a channel multiplier M,
// fprop has M planes of output for one of input, dgrad the reverse.
//
// Output rows y = f + k * dilation of one class f need input rows of one class only. A thread that walks down a column
// through the rows of a class has an ordinary convolution before it: at 3x3 it keeps a window of 3x3 values in
// registers and loads three of them a step. Shared memory of a block holds one of
//   - whole (n, c) planes, input and output each one run of memory: any dilation, everything read and written once
//     (DeepLab's 33 x 33 planes are 2 to 4 KB);
//   - where a plane is larger than that, a class of rows, or a band of it with R - 1 rows of halo: whole rows, so that
//     classes share no sectors but those at the ends of rows that are no multiple of 32 bytes;
//   - where rows do not depend on each other (1-D), a long tile of one row with (S - 1) * dilation of halo.
//
//   global memory   input and output once, but for halos; all by 16-byte accesses (csrc/common/run_copy.h)
//   per output      3x3: 9 FMA, 3 shared loads, 1 shared store; others: R * S FMA and shared loads, and a load of the
//                   filter for every four of them
//   instructions    3x3: 29 for an output of the inner loop on sm_80, and about 90 to begin a class of two columns,
//                   which at DeepLab's rates has few rows: 12 at 33 x 33 takes 45 for an output, 2 at 128 x 128 32
//   in flight       stages of input, 9 KB of a block's 20, of which at least 4 share an SM (224 threads of
//                   64 registers)
//
// A team of threads takes one plane after the other, with its filter in registers at 3x3. In a plane it takes one item
// after the other: columns of some classes. Neighbouring lanes have neighbouring columns, so that a warp's access is a
// few runs of shared memory.
//
// It is no instance of depthwise_nchw_tiled.cu with other numbers. That kernel multiplies vectors of neighbouring
// columns by neighbouring taps, and a dilation tears both apart. Its tile has a halo of zeros, which at DeepLab's rate
// 12 would make 57 x 57 of 33 x 33.
#include "csrc/common/plane_filters.h"
#include "csrc/common/shared.h"
#include "csrc/dilated/dilated_nchw_walk.h"
#include "csrc/dilated/dilated_problem.h"

namespace convbound::dilated {

namespace {

// Elements by which base[offset] lies beyond a 16-byte boundary; the offset may lie outside of the tensor.
template <typename T>
__device__ __forceinline__ int alignment(const T* base, int64_t offset) {
  return static_cast<int>((static_cast<int64_t>(reinterpret_cast<uintptr_t>(base) / sizeof(T)) + offset) &
                          (kVectorElements<T> - 1));
}

// What a block works on. Where planes are whole, class, k and x are 0.
struct DilatedNchwBlock {
  int64_t first_group;
  int groups;
  int row_class, first_k, rows;  // rows k of the class
  int first_x, columns;
  int first_in, in_columns;  // columns of input
};

template <typename T>
__device__ __forceinline__ DilatedNchwBlock find_block(const DilatedNchwParams<T>& params) {
  const DilatedNchwTile& tile = params.tile;
  const AxisView &h = params.conv.view.h, &w = params.conv.view.w;
  const int index = static_cast<int>(blockIdx.x);
  if (tile.whole) {
    const int64_t first = static_cast<int64_t>(index) * tile.groups;
    const int groups = static_cast<int>(min(static_cast<int64_t>(tile.groups), params.conv.groups - first));
    return {first, groups, 0, 0, tile.rows, 0, w.output, 0, w.input};
  }
  const QuotientRemainder columns = divide(index, params.column_tiles),
                          rows = divide(columns.quotient, params.row_tiles);
  const QuotientRemainder classes = divide(rows.quotient, params.cut_classes);
  DilatedNchwBlock block{};
  block.first_group = classes.quotient;
  block.groups = 1;
  block.row_class = classes.remainder;
  block.first_k = rows.remainder * tile.rows;
  block.first_x = columns.remainder * tile.columns;
  block.rows = min(tile.rows, (h.output - block.row_class + h.dilation - 1) / h.dilation - block.first_k);
  block.columns = min(tile.columns, w.output - block.first_x);
  block.first_in = min(max(block.first_x - w.padding, 0), w.input);
  const int end = block.first_x + block.columns + (w.filter - 1) * w.dilation - w.padding;
  block.in_columns = max(min(end, w.input) - block.first_in, 0);
  return block;
}

// Calls copy(stage + at, offset in global memory, lane) for the rows y = first + k * dilation of each plane that exist,
// as many threads at once as a row is worth.
template <typename Copy>
__device__ __forceinline__ void for_each_row(const DilatedNchwTile& tile, const DilatedNchwStage& stage,
                                             const AxisView& h, int planes, int height, int width, int first, int rows,
                                             const Copy& copy) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread & (tile.row_threads - 1);
  const int begin = thread / tile.row_threads, step = tile.threads / tile.row_threads;
  for (int plane = 0; plane < planes; plane++) {
    const int64_t base = static_cast<int64_t>(plane) * height * width;
#pragma unroll 1
    for (int k = begin; k < rows; k += step) {
      const int y = first + k * h.dilation;
      if (within(y, height)) copy(plane * stage.plane + k * stage.step, base + static_cast<int64_t>(y) * width, lane);
    }
  }
}

// What a block reads and writes, and where that lies in shared memory.
template <typename T>
struct StagedPlanes {
  const T* in;  // of the block's first group
  T* out;
  T *in_stage, *out_stage;  // from the block's first elements on
  const T* taps_begin;      // where column 0 meets the first tap, left of and above the stage
  T *filters, *zero;
  float* biases;
  int first_y, first_y_in;  // the first rows of output and input; 0 where planes are whole
};

template <typename T>
__device__ __forceinline__ StagedPlanes<T> place_stages(const DilatedNchwParams<T>& params,
                                                        const DilatedNchwBlock& block) {
  const ConvView& v = params.conv.view;
  const DilatedNchwTile& tile = params.tile;
  const AxisView &h = v.h, &w = v.w;
  StagedPlanes<T> s;
  s.in = params.in + block.first_group * v.inputs * (h.input * w.input);
  s.out = params.out + block.first_group * v.outputs * (h.output * w.output);
  T* const stages = dynamic_shared<T>();
  s.filters = stages + tile.in.elements + tile.out.elements;
  s.biases = reinterpret_cast<float*>(s.filters + tile.filter_elements);
  s.zero = reinterpret_cast<T*>(s.biases + tile.biases);
  s.first_y = block.row_class + block.first_k * h.dilation;
  s.first_y_in = s.first_y - h.padding;
  const int64_t in_first = tile.whole ? 0 : static_cast<int64_t>(s.first_y_in) * w.input + block.first_in;
  const int64_t out_first = tile.whole ? 0 : static_cast<int64_t>(s.first_y) * w.output + block.first_x;
  s.in_stage = stages + alignment(s.in, in_first);
  s.out_stage = stages + tile.in.elements + alignment(s.out, out_first);
  s.taps_begin = s.in_stage - (tile.whole ? h.padding * w.input : block.first_in) - w.padding;
  return s;
}

template <typename T>
__device__ __forceinline__ void copy_input(const DilatedNchwParams<T>& params, const DilatedNchwBlock& block,
                                           const StagedPlanes<T>& s) {
  const ConvView& v = params.conv.view;
  const DilatedNchwTile& tile = params.tile;
  const AxisView &h = v.h, &w = v.w;
  if (tile.whole) {
    load_run(s.in_stage, s.in, block.groups * v.inputs * (h.input * w.input), tile.threads);
    return;
  }
  for_each_row(tile, tile.in, h, v.inputs, h.input, w.input, s.first_y_in, block.rows + h.filter - 1,
               [&](int at, int64_t offset, int lane) {
                 load_run(s.in_stage + at, s.in + offset + block.first_in, block.in_columns, tile.row_threads, lane);
               });
}

// Copies filters, biases and the zero; returns where the filters lie.
template <typename T>
__device__ __forceinline__ const T* copy_filters(const DilatedNchwParams<T>& params, const DilatedNchwBlock& block,
                                                 const StagedPlanes<T>& s) {
  const ConvView& v = params.conv.view;
  const int threads = params.tile.threads, taps = v.inputs * v.outputs * params.conv.taps;
  int64_t image = block.first_group;
  const int channel = take(image, params.channels);
  const T* const filters = load_plane_filters(s.filters, params.filter, channel, block.groups, v.groups, taps, threads);
  load_plane_biases(s.biases, params.bias, channel * v.outputs, block.groups * v.outputs, v.out_channels(), threads);
  if (threadIdx.x == 0) *s.zero = narrow<T>(0);
  return filters;
}

// One plane of output by its team: items are columns of some classes.
template <typename T, int kFilter>
__device__ __forceinline__ void compute_plane(const DilatedNchwParams<T>& params, const DilatedNchwBlock& block,
                                              const StagedPlanes<T>& s, const T* filters, int plane, int first_item) {
  const TrimmedConv& conv = params.conv;
  const DilatedNchwTile& tile = params.tile;
  const AxisView& h = conv.view.h;
  const int inputs = conv.view.inputs, outputs = conv.view.outputs;
  const int group = outputs == 1 ? plane : plane / outputs;
  const int direction = conv.view.flip ? -1 : 1;
  // A group has several inputs or several outputs, not both.
  const T* const filter =
      filters + plane * inputs * conv.taps + (conv.view.flip ? conv.taps - 1 - conv.first_tap : conv.first_tap);
  const float bias = params.bias != nullptr ? s.biases[plane] : 0.0f;
  float tap[9];
  if constexpr (kFilter == 3) {
#pragma unroll
    for (int t = 0; t < 9; t++) tap[t] = widen(filter[direction * (t / 3 * conv.tap_row + t % 3)]);
  }
  const T* const plane_in = s.taps_begin + group * inputs * tile.in.plane;
  T* const plane_out = s.out_stage + plane * tile.out.plane - block.first_x;
#pragma unroll 1
  for (int item = first_item; item < tile.items; item += tile.team) {
    const QuotientRemainder column = divide(item, params.columns), part = divide(column.quotient, params.class_groups);
    const int k = part.quotient * tile.steps, k_end = min(k + tile.steps, tile.rows);
    ClassWalk<T> walk;
    walk.x = block.first_x + column.remainder;
    walk.x_end = block.first_x + block.columns;
    if (walk.x >= walk.x_end) continue;
    walk.row_class = block.row_class + part.remainder;
    walk.class_end = tile.whole ? tile.classes : block.row_class + 1;
    walk.class_step = tile.class_groups;
    walk.y = (block.first_k + k) * h.dilation;
    walk.y_end = (block.first_k + k_end) * h.dilation;
    walk.in = plane_in + walk.row_class * tile.in.row + k * tile.in.step + walk.x;
    walk.out = plane_out + walk.row_class * tile.out.row + k * tile.out.step + walk.x;
    if constexpr (kFilter == 3) {
      walk_3x3(params, walk, tap, bias, s.zero);
    } else {
      walk_any(params, walk, filter, direction, bias);
    }
  }
}

template <typename T>
__device__ __forceinline__ void store_output(const DilatedNchwParams<T>& params, const DilatedNchwBlock& block,
                                             const StagedPlanes<T>& s) {
  const ConvView& v = params.conv.view;
  const DilatedNchwTile& tile = params.tile;
  const AxisView &h = v.h, &w = v.w;
  if (tile.whole) {
    store_run(s.out, s.out_stage, block.groups * v.outputs * (h.output * w.output), tile.threads);
    return;
  }
  for_each_row(tile, tile.out, h, v.outputs, h.output, w.output, s.first_y, block.rows,
               [&](int at, int64_t offset, int lane) {
                 store_run(s.out + offset + block.first_x, s.out_stage + at, block.columns, tile.row_threads, lane);
               });
}

template <typename T, int kFilter>
__global__ void __launch_bounds__(kMostThreads, 4) nchw_kernel(const __grid_constant__ DilatedNchwParams<T> params) {
  const DilatedNchwBlock block = find_block(params);
  const StagedPlanes<T> staged = place_stages(params, block);
  copy_input(params, block, staged);
  const T* const filters = copy_filters(params, block, staged);
  ptx::cp_async_wait_all();
  __syncthreads();
  const QuotientRemainder team = divide(static_cast<int>(threadIdx.x), params.team);
  const int plane_end = team.quotient < params.tile.teams ? block.groups * params.conv.view.outputs : 0;
#pragma unroll 1
  for (int plane = team.quotient; plane < plane_end; plane += params.tile.teams) {
    compute_plane<T, kFilter>(params, block, staged, filters, plane, team.remainder);
  }
  __syncthreads();
  store_output(params, block, staged);
}

template <typename T>
LaunchPlan plan_nchw(const KernelRow& row, const ConvProblem& p, const Device&) {
  if (std::string reason = problem_refused(p); !reason.empty()) return refuse(std::move(reason));
  const TrimmedConv conv = trimmed_conv(row.pass, p);
  const DilatedNchwTile tile = choose_tile(conv, sizeof(T));
  const DilatedNchwParams<T> params{{},
                                    conv,
                                    tile,
                                    Divisor(p.c),
                                    IndexDivisor(tile.team),
                                    IndexDivisor(tile.item_columns),
                                    IndexDivisor(tile.class_groups),
                                    IndexDivisor(tile.column_tiles),
                                    IndexDivisor(tile.row_tiles),
                                    IndexDivisor(tile.classes)};
  const auto kernel = is_3x3(conv.view) ? nchw_kernel<T, 3> : nchw_kernel<T, 0>;
  return plan_launch(row, kernel, tile_shape(conv, tile, sizeof(T)), params);
}

}  // namespace

KernelRows nchw_rows() {
  return rows_of_fast_types([&]<typename T> {
    return with_dgrad({.name = "dilated_fprop_nchw",
                       .family = Family::kDilated,
                       .pass = Pass::kFprop,
                       .dtype = kDTypeOf<T>,
                       .layout = Layout::kChannelsFirst,
                       .stride = 1,
                       .tile = "at most " + std::to_string(kMostThreads) +
                               " threads, whole planes, or rows of one class modulo the dilation",
                       .plan = plan_nchw<T>},
                      "dilated_dgrad_nchw");
  });
}

}  // namespace convbound::dilated
