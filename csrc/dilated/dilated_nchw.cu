// dilated_fprop and dilated_dgrad, NCHW, depthwise; see dilated.h for the correlation that both are.
//
// Output rows y = f + k * dilation of one class f need input rows of one class only, so a thread that walks down a
// column through the rows of a class has an ordinary convolution before it: at 3x3 it keeps a window of 3x3 values in
// registers and loads three of them a step. What a block holds in shared memory is one of
//   - whole (n, c) planes, input and output each one run of memory: any dilation, everything read and written once
//     (DeepLab's 33 x 33 planes are 2 to 4 KB);
//   - where a plane is larger than that, a class of rows, or a band of it with R - 1 rows of halo: whole rows, so no
//     sector is shared out between classes but at the ends of rows that are no multiple of 32 bytes;
//   - where rows do not depend on each other (1-D), a long tile of one row with (S - 1) * dilation of halo.
//
//   global memory   input and output once, but for halos; all by 16-byte accesses (csrc/common/run_copy.h)
//   per output      3x3: 9 FMA, 3 shared loads, 1 shared store; others: R * S FMA and shared loads, and a load of the
//                   filter for every four of them
//   instructions    3x3: 29 for an output of the inner loop on sm_80, and about 90 to begin a class of two columns,
//                   which at DeepLab's rates has few rows: 12 at 33 x 33 takes 45 for an output, 2 at 128 x 128 32
//   in flight       stages of input, 9 KB of a block's 20, of which at least 4 share an SM (224 threads of 64
//   registers)
//
// A team of threads takes one plane after the other, its filter in registers at 3x3, and in it one item after the
// other: columns of some classes. Neighbouring lanes have neighbouring columns, so that a warp's access is a few runs
// of shared memory.
#include "csrc/dilated/dilated_nchw.h"

#include "csrc/common/filter_stage.h"
#include "csrc/common/numeric.h"
#include "csrc/common/shared.h"

namespace convbound::dilated {

namespace {

constexpr int64_t kMostBytes = 96 * 1024;

// Elements by which base[offset] lies beyond a 16-byte boundary; the offset may lie outside of the tensor.
template <typename T>
__device__ __forceinline__ int alignment(const T* base, int64_t offset) {
  return static_cast<int>((static_cast<int64_t>(reinterpret_cast<uintptr_t>(base) / sizeof(T)) + offset) &
                          (kVectorElements<T> - 1));
}

__device__ __forceinline__ bool within(int index, int size) {
  return static_cast<unsigned>(index) < static_cast<unsigned>(size);
}

// What a block works on. Where planes are whole, class, k and x are 0.
struct Block {
  int64_t first_group;
  int groups;
  int row_class, first_k, rows;  // rows k of the class
  int first_x, columns;
  int first_in, in_columns;  // columns of input
};

__device__ __forceinline__ Block find_block(const NchwParams& params) {
  const Correlation& c = params.c;
  const Tile& tile = params.tile;
  const Axis& w = c.w;
  const int index = static_cast<int>(blockIdx.x);
  if (tile.whole) {
    const int64_t first = static_cast<int64_t>(index) * tile.groups;
    const int groups = static_cast<int>(min(static_cast<int64_t>(tile.groups), c.groups - first));
    return {first, groups, 0, 0, tile.rows, 0, w.output, 0, w.input};
  }
  const QuotientRemainder columns = divide(index, params.column_tiles),
                          rows = divide(columns.quotient, params.row_tiles);
  const QuotientRemainder classes = divide(rows.quotient, params.cut_classes);
  Block block{};
  block.first_group = classes.quotient;
  block.groups = 1;
  block.row_class = classes.remainder;
  block.first_k = rows.remainder * tile.rows;
  block.first_x = columns.remainder * tile.columns;
  block.rows = min(tile.rows, (c.h.output - block.row_class + c.h.dilation - 1) / c.h.dilation - block.first_k);
  block.columns = min(tile.columns, w.output - block.first_x);
  block.first_in = min(max(block.first_x - w.padding, 0), w.input);
  const int end = block.first_x + block.columns + (w.filter - 1) * w.dilation - w.padding;
  block.in_columns = max(min(end, w.input) - block.first_in, 0);
  return block;
}

// Calls copy(stage + at, offset in global memory, lane) for the rows y = first + k * dilation of each plane that exist,
// as many threads at once as a row is worth.
template <typename Copy>
__device__ __forceinline__ void for_each_row(const Tile& tile, const Stage& stage, const Axis& h, int planes,
                                             int height, int width, int first, int rows, const Copy& copy) {
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

// One thread's part of one plane: a column of some classes of rows. `in` is where the first tap meets the first output
// (it may lie in the padding), `y` and `y_end` are rows of class 0.
template <typename T>
struct Walk {
  const T* in;
  T* out;
  int row_class, class_end, class_step;
  int y, y_end;
  int x, x_end;
};

// 3x3: down two columns of input, half a row apart, which share the tests for rows and the loop. A row adds to three
// outputs of each, whose sums take turns; one in the padding is passed over. A column in the padding is read from a
// zero, again and again.
template <typename T>
__device__ __forceinline__ void walk_3x3(const NchwParams& params, const Walk<T>& walk, const float (&tap)[9],
                                         float bias, const T* zero) {
  const Axis &h = params.c.h, &w = params.c.w;
  const Tile& tile = params.tile;
  const int apart = tile.item_columns;
  const bool second = walk.x + apart < walk.x_end;
#pragma unroll 1
  for (int row_class = walk.row_class; row_class < walk.class_end; row_class += walk.class_step) {
    const int skipped = row_class - walk.row_class;
    const T* const in = walk.in + skipped * tile.in.row;
    T* out = walk.out + skipped * tile.out.row;
    const T* at[2][3];
    int step[2][3];
#pragma unroll
    for (int i = 0; i < 6; i++) {
      const int column = i / 3, s = i % 3, offset = column * apart + s * w.dilation;
      const bool inside = (column == 0 || second) && within(walk.x - w.padding + offset, w.input);
      at[column][s] = inside ? in + offset : zero;
      step[column][s] = inside ? tile.in.step : 0;
    }
    int y = walk.y + row_class - h.padding;
    const int y_end = min(walk.y_end + row_class, h.output) - h.padding + 2 * h.dilation;
    float sum[2][3] = {};
    const auto add_row = [&](int turn) {
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
      y += h.dilation;
    };
    add_row(0);
    add_row(1);
#pragma unroll 1
    while (y < y_end) {
#pragma unroll
      for (int turn = 2; turn < 5; turn++) {
        if (turn > 2 && y >= y_end) break;
        add_row(turn);
        out[0] = narrow<T>(sum[0][(turn + 1) % 3]);
        if (second) out[apart] = narrow<T>(sum[1][(turn + 1) % 3]);
        out += tile.out.step;
      }
    }
  }
}

// Any filter: kBatch outputs for each tap that is loaded, a step of the class apart, or in 1-D a part of the row.
template <typename T>
__device__ __forceinline__ void walk_any(const NchwParams& params, const Walk<T>& walk, const T* filter, int direction,
                                         float bias) {
  const Correlation& c = params.c;
  const Tile& tile = params.tile;
  const Axis &h = c.h, &w = c.w;
  const int by_x = tile.one_row ? tile.item_columns : 0, by_y = tile.one_row ? 0 : h.dilation;
  const int in_batch = tile.one_row ? by_x : tile.in.step, out_batch = tile.one_row ? by_x : tile.out.step;
  const int x_in = walk.x - w.padding;
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
      for (int input = 0; input < c.inputs; input++) {
        for (int r = 0; r < h.filter; r++) {
          const T* tap = filter + input * c.taps + direction * r * c.tap_row;
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

template <typename T, int kFilter>
__global__ void __launch_bounds__(kMostThreads, 4) nchw_kernel(const __grid_constant__ NchwParams params) {
  const Correlation& c = params.c;
  const Tile& tile = params.tile;
  const Axis &h = c.h, &w = c.w;
  const int thread = static_cast<int>(threadIdx.x), threads = tile.threads;
  const Block block = find_block(params);
  const int in_plane = h.input * w.input, out_plane = h.output * w.output;
  const T* const in = static_cast<const T*>(c.in) + block.first_group * c.inputs * in_plane;
  T* const out = static_cast<T*>(c.out) + block.first_group * c.outputs * out_plane;
  T* const in_stage = dynamic_shared<T>();
  T* const out_stage = in_stage + tile.in.elements;
  T* const filter_stage = out_stage + tile.out.elements;
  float* const biases = reinterpret_cast<float*>(filter_stage + tile.filter_elements);
  T* const zero = reinterpret_cast<T*>(biases + tile.biases);

  // Where the first rows of input and output lie in global memory, and in their stages.
  const int first_y = block.row_class + block.first_k * h.dilation, first_y_in = first_y - h.padding;
  const int64_t in_first = tile.whole ? 0 : static_cast<int64_t>(first_y_in) * w.input + block.first_in;
  const int64_t out_first = tile.whole ? 0 : static_cast<int64_t>(first_y) * w.output + block.first_x;
  const int in_begin = alignment(in, in_first), out_begin = alignment(out, out_first);
  if (tile.whole) {
    load_run(in_stage + elements_after_boundary(in), in, block.groups * c.inputs * in_plane, threads, thread);
  } else {
    for_each_row(tile, tile.in, h, c.inputs, h.input, w.input, first_y_in, block.rows + h.filter - 1,
                 [&](int at, int64_t offset, int lane) {
                   load_run(in_stage + in_begin + at, in + offset + block.first_in, block.in_columns, tile.row_threads,
                            lane);
                 });
  }
  int64_t image = block.first_group;
  const int first_channel = take(image, params.channels);
  const auto filters = load_filters(filter_stage, static_cast<const T*>(c.filter), first_channel, block.groups,
                                    c.channels, c.inputs * c.outputs * c.taps, thread, threads);
  ptx::cp_async_commit();
  const int planes = block.groups * c.outputs;
  const auto channel_of = [&](int group) { return divide(first_channel + group, params.wrap).remainder; };
  if (thread == 0) *zero = narrow<T>(0);
  if (c.bias != nullptr) {
    for (int plane = thread; plane < planes; plane += threads) {
      const int group = plane / c.outputs;
      const int64_t at = static_cast<int64_t>(channel_of(group)) * c.outputs + plane - group * c.outputs;
      biases[plane] = widen(static_cast<const T*>(c.bias)[at]);
    }
  }
  ptx::cp_async_wait_all();
  __syncthreads();

  const QuotientRemainder team = divide(thread, params.team);
  const int plane_end = team.quotient < tile.teams ? planes : 0;
#pragma unroll 1
  for (int plane = team.quotient; plane < plane_end; plane += tile.teams) {
    const int group = c.outputs == 1 ? plane : plane / c.outputs;
    const int direction = c.turned ? -1 : 1;
    const T* const filter = filters(channel_of(group)) + (plane - group * c.outputs) * c.taps +
                            (c.turned ? c.taps - 1 - c.first_tap : c.first_tap);
    const float bias = c.bias != nullptr ? biases[plane] : 0.0f;
    float tap[9];
    if constexpr (kFilter == 3) {
#pragma unroll
      for (int t = 0; t < 9; t++) tap[t] = widen(filter[direction * (t / 3 * c.tap_row + t % 3)]);
    }
    const T* const plane_in = in_stage + in_begin + group * c.inputs * tile.in.plane -
                              (tile.whole ? h.padding * w.input : block.first_in) - w.padding;
    T* const plane_out = out_stage + out_begin + plane * tile.out.plane - block.first_x;
#pragma unroll 1
    for (int item = team.remainder; item < tile.items; item += tile.team) {
      const QuotientRemainder column = divide(item, params.columns),
                              part = divide(column.quotient, params.class_groups);
      const int k = part.quotient * tile.steps, k_end = min(k + tile.steps, tile.rows);
      Walk<T> walk;
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
        walk_3x3(params, walk, tap, bias, zero);
      } else {
        walk_any(params, walk, filter, direction, bias);
      }
    }
  }
  __syncthreads();

  if (tile.whole) {
    store_run(out, out_stage + elements_after_boundary(out), planes * out_plane, threads, thread);
  } else {
    for_each_row(
        tile, tile.out, h, c.outputs, h.output, w.output, first_y, block.rows, [&](int at, int64_t offset, int lane) {
          store_run(out + offset + block.first_x, out_stage + out_begin + at, block.columns, tile.row_threads, lane);
        });
  }
}

template <typename T>
LaunchShape shape_of(const Correlation& c, const Tile& tile) {
  LaunchShape shape;
  const int64_t parts = tile.whole ? 1 : int64_t{tile.classes} * tile.row_tiles * tile.column_tiles;
  shape.grid_x = (c.groups + tile.groups - 1) / tile.groups * parts;
  shape.block_x = tile.threads;
  shape.shared_bytes = static_cast<size_t>(tile.shared_bytes(sizeof(T)));
  return shape;
}

template <typename T>
LaunchShape shape_of(Pass pass, const ConvProblem& p) {
  const Correlation c = without_idle_taps(make_correlation(pass, p, {}));
  return shape_of<T>(c, choose_tile(c, sizeof(T)));
}

}  // namespace

bool supports_nchw(const ConvProblem& p) {
  return dilated_depthwise(p) && shape_of<float>(Pass::kFprop, p).shared_bytes <= kMostBytes &&
         shape_of<float>(Pass::kDgrad, p).shared_bytes <= kMostBytes;
}

template <Pass kPass, typename T>
LaunchShape nchw_shape(const ConvProblem& p) {
  return shape_of<T>(kPass, p);
}

template <Pass kPass, typename T>
void nchw(const ConvProblem& p, const Tensors& t, cudaStream_t stream) {
  const Correlation c = without_idle_taps(make_correlation(kPass, p, t));
  const Tile tile = choose_tile(c, sizeof(T));
  const NchwParams params{c,
                          tile,
                          Divisor(p.c),
                          IndexDivisor(p.c),
                          IndexDivisor(tile.team),
                          IndexDivisor(tile.item_columns),
                          IndexDivisor(tile.class_groups),
                          IndexDivisor(tile.column_tiles),
                          IndexDivisor(tile.row_tiles),
                          IndexDivisor(tile.classes)};
  launch("dilated_nchw", is_3x3(c) ? nchw_kernel<T, 3> : nchw_kernel<T, 0>, shape_of<T>(c, tile), stream, params);
}

#define CONVBOUND_DILATED(pass, T)                              \
  template LaunchShape nchw_shape<pass, T>(const ConvProblem&); \
  template void nchw<pass, T>(const ConvProblem&, const Tensors&, cudaStream_t);
CONVBOUND_DILATED(Pass::kFprop, __half)
CONVBOUND_DILATED(Pass::kFprop, __nv_bfloat16)
CONVBOUND_DILATED(Pass::kFprop, float)
CONVBOUND_DILATED(Pass::kDgrad, __half)
CONVBOUND_DILATED(Pass::kDgrad, __nv_bfloat16)
CONVBOUND_DILATED(Pass::kDgrad, float)

}  // namespace convbound::dilated
