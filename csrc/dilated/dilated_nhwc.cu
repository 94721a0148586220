// dilated_fprop_nhwc and dilated_dgrad_nhwc, depthwise, stride 1: the equation of dilated_nchw.cu.
//
// A thread owns 16 bytes of channels (8 halves) and makes outputs k and k + 1 of one class, rows f + k * dilation. So a
// filter value that is read from shared memory serves two outputs. Every tap is a 16-byte load of input. The first use
// of an element in a block comes from L2 and the others come from L1. Tiles are cut so that this holds:
//   - of all columns, as many whole classes of rows as keep to 28 KB with 128, 64 or 32 bytes of channels: classes have
//     no input in common, so everything is read once (DeepLab's 33 x 33 at rate 12: three classes of 128 bytes);
//   - where one class of rows is larger than that, 32 bytes of channels and a class of rows and columns, or a compact
//     part of one with halos of R - 1 and S - 1. A sector of 32 bytes is one position, so classes of columns waste
//     none.
// Registers (96 a thread) allow 2 blocks of 320 threads on an SM. Tiles are cut for 6, which would have 32 KB of L1
// each on sm_80 and 42 on sm_90.
//
//   in flight   640 threads at least (96 registers) x several loads of 16 bytes: the taps of 3x3 are 18 independent
//               loads, of which 4 are enough for 40 KB
//
// Channels that are no multiple of 16 bytes, pointers that are not aligned and channel multipliers take the same kernel
// with one channel a thread.
#include <algorithm>

#include "csrc/common/channel_slices.h"
#include "csrc/common/integers.h"
#include "csrc/common/shared.h"
#include "csrc/dilated/dilated_problem.h"

namespace convbound::dilated {

namespace {

constexpr int kThreads = 320;
constexpr int64_t kCacheBytes = 28 * 1024;
constexpr int kRows = 2;  // outputs of one thread at a time, below each other in their class

struct DilatedNhwcTile {
  int row_classes, column_classes;  // of the whole output
  int classes;                      // of rows, in a tile
  int rows, columns;                // of each class, in a tile
  int class_tiles, row_tiles, column_tiles;

  int64_t tiles() const { return int64_t{class_tiles} * column_classes * row_tiles * column_tiles; }
};

template <typename T>
struct DilatedNhwcParams : ConvTensors<T> {
  ConvView view;
  ChannelSlices slices;
  DilatedNhwcTile tile;
};

// What a block works on: the first of each.
struct DilatedNhwcBlock {
  int channel, row_class, k, column_class, j;
  int64_t image;
};

template <int kElements, typename T>
__device__ __forceinline__ DilatedNhwcBlock find_block(const DilatedNhwcParams<T>& params) {
  const DilatedNhwcTile& tile = params.tile;
  const ChannelSlices& slices = params.slices;
  DilatedNhwcBlock block;
  int rest = static_cast<int>(blockIdx.x);
  block.channel = rest % slices.slices * slices.lanes * kElements;
  rest /= slices.slices;
  block.j = rest % tile.column_tiles * tile.columns;
  rest /= tile.column_tiles;
  block.column_class = rest % tile.column_classes;
  rest /= tile.column_classes;
  block.k = rest % tile.row_tiles * tile.rows;
  rest /= tile.row_tiles;
  block.row_class = rest % tile.class_tiles * tile.classes;
  block.image = rest / tile.class_tiles;
  return block;
}

// One thread's channels.
template <typename T>
struct DilatedNhwcLane {
  const T* in;
  T* out;
  const float* filter;  // in shared memory
  int lane;
};

// kRows outputs (y, x) of one class; `rows` of them exist in the tile.
template <int kElements, int kFilter, typename T>
__device__ __forceinline__ void make_outputs(const DilatedNhwcParams<T>& params, const DilatedNhwcLane<T>& at,
                                             int first_y, int x, int rows) {
  const ConvView& v = params.view;
  const ChannelSlices& slices = params.slices;
  const AxisView &h = v.h, &w = v.w;
  const int taps = h.filter * w.filter, in_channels = v.in_channels();
  float sum[kRows][kElements];
#pragma unroll
  for (int b = 0; b < kRows; b++) read_slot<kElements>(slices, at.filter, slices.taps, at.lane, sum[b]);
  const auto add_tap = [&](int input, int r, int s) {
    const int at_y = first_y + r * h.dilation - h.padding, at_x = x + s * w.dilation - w.padding;
    if (!within(at_x, w.input)) return;
    float tap[kElements];
    read_slot<kElements>(slices, at.filter, input * taps + r * w.filter + s, at.lane, tap);
#pragma unroll
    for (int b = 0; b < kRows; b++) {
      const int y = at_y + b * h.dilation;
      if (!within(y, h.input)) continue;
      float value[kElements];
      load_widened(at.in + (static_cast<int64_t>(y) * w.input + at_x) * in_channels + input, value);
      add_product(value, tap, sum[b]);
    }
  };
  if constexpr (kFilter == 3) {
#pragma unroll
    for (int t = 0; t < 9; t++) add_tap(0, t / 3, t % 3);
  } else {
    for (int input = 0; input < v.inputs; input++) {
      for (int r = 0; r < h.filter; r++) {
#pragma unroll 2
        for (int s = 0; s < w.filter; s++) add_tap(input, r, s);
      }
    }
  }
#pragma unroll
  for (int b = 0; b < kRows; b++) {
    const int y = first_y + b * h.dilation;
    if (y >= h.output || b >= rows) continue;
    store_narrowed(at.out + (static_cast<int64_t>(y) * w.output + x) * slices.channels, sum[b]);
  }
}

// Elements of a class of an axis with this many positions.
__device__ __forceinline__ int class_size(int positions, int first, int step) {
  return (positions - first + step - 1) / step;
}

template <typename T, int kElements, int kFilter>
__global__ void __launch_bounds__(kThreads, 2) nhwc_kernel(const __grid_constant__ DilatedNhwcParams<T> params) {
  const ConvView& v = params.view;
  const DilatedNhwcTile& tile = params.tile;
  const ChannelSlices& slices = params.slices;
  const AxisView &h = v.h, &w = v.w;
  const int thread = static_cast<int>(threadIdx.x);
  const DilatedNhwcBlock block = find_block<kElements>(params);
  float* const filter = dynamic_shared<float>();
  load_slice_filters<T, kElements, kThreads>(slices, block.channel, params.filter, params.bias, filter, thread,
                                             v.flip ? h.filter * w.filter : 0);
  __syncthreads();

  const int positions = kThreads / slices.lanes, lane = thread % slices.lanes, position = thread / slices.lanes;
  const int channel = block.channel + lane * kElements;
  const int step_w = tile.column_classes > 1 ? w.dilation : 1;
  const int classes = min(tile.classes, tile.row_classes - block.row_class);
  const int columns = min(tile.columns, class_size(w.output, block.column_class, step_w) - block.j);
  const int pairs = (tile.rows + kRows - 1) / kRows;
  const int items = position < positions && channel < slices.channels ? classes * pairs * max(columns, 0) : 0;
  const DilatedNhwcLane<T> at{
      params.in + block.image * h.input * w.input * v.in_channels() + channel / v.outputs * v.inputs,
      params.out + block.image * h.output * w.output * slices.channels + channel, filter, lane};
#pragma unroll 1
  for (int item = position; item < items; item += positions) {
    const int x = block.column_class + (block.j + item % columns) * step_w, index = item / columns;
    const int row = index % pairs * kRows;
    const int y = block.row_class + index / pairs + (block.k + row) * h.dilation;
    make_outputs<kElements, kFilter>(params, at, y, x, tile.rows - row);
  }
}

// Whole classes of rows if they fit with a slice of this many bytes.
bool whole_classes(DilatedNhwcTile& tile, const ConvView& v, int64_t slice_bytes) {
  const int64_t class_bytes = int64_t{divide_up(v.h.input, v.h.dilation)} * v.w.input * slice_bytes;
  tile.row_classes = std::min(v.h.dilation, v.h.output);
  tile.column_classes = 1;
  tile.classes = static_cast<int>(std::clamp<int64_t>(kCacheBytes / class_bytes, 1, tile.row_classes));
  tile.class_tiles = divide_up(tile.row_classes, tile.classes);
  tile.classes = divide_up(tile.row_classes, tile.class_tiles);
  tile.rows = divide_up(v.h.output, v.h.dilation);
  tile.row_tiles = 1;
  tile.columns = v.w.output;
  tile.column_tiles = 1;
  return class_bytes <= kCacheBytes;
}

// One class of rows and columns, or a part of it.
void part_of_class(DilatedNhwcTile& tile, const ConvView& v, int64_t slice_bytes) {
  tile.classes = 1;
  tile.class_tiles = tile.row_classes;
  tile.column_classes = std::min(v.w.dilation, v.w.output);
  const auto cut = [](int size, int64_t most, int& part, int& parts) {
    parts = static_cast<int>(divide_up(size, most));
    part = divide_up(size, parts);
  };
  const int64_t cells = kCacheBytes / slice_bytes;
  int64_t square = 1;
  for (int64_t side = 1; side < cells; side++) {
    if (side * side <= cells) square = side;
  }
  cut(divide_up(v.h.output, v.h.dilation), std::max<int64_t>(square - (v.h.filter - 1), 2), tile.rows, tile.row_tiles);
  const int64_t most_columns = cells / (tile.rows + v.h.filter - 1) - (v.w.filter - 1);
  cut(divide_up(v.w.output, v.w.dilation), std::max<int64_t>(most_columns, 4), tile.columns, tile.column_tiles);
}

template <typename T, int kElements>
SlicedLaunch<DilatedNhwcParams<T>> sliced_launch(const ConvView& v) {
  constexpr int64_t kFilterTarget = 8 * 1024;
  DilatedNhwcParams<T> params{{}, v, {}, {}};
  for (const int bytes : {128, 64, 32}) {
    const int64_t taps = int64_t{v.inputs} * v.h.filter * v.w.filter;
    params.slices = make_slices(v.out_channels(), taps, kElements, sizeof(T), bytes);
    const int64_t slice_bytes = int64_t{params.slices.lanes} * kElements * static_cast<int64_t>(sizeof(T));
    const bool fits = whole_classes(params.tile, v, slice_bytes);
    if (fits && filter_bytes(params.slices, kElements) <= kFilterTarget) break;
    if (bytes == 32 && !fits) part_of_class(params.tile, v, slice_bytes);
  }
  const LaunchShape shape{.grid_x = v.images * params.tile.tiles() * params.slices.slices,
                          .block_x = kThreads,
                          .shared_bytes = static_cast<size_t>(filter_bytes(params.slices, kElements))};
  const bool small = v.h.filter == 3 && v.w.filter == 3 && v.inputs == 1 && v.outputs == 1;
  return {small ? nhwc_kernel<T, kElements, 3> : nhwc_kernel<T, kElements, 0>, params, shape};
}

template <typename T>
LaunchPlan plan_nhwc(const KernelRow& row, const ConvProblem& p, const Device&) {
  if (std::string reason = problem_refused(p); !reason.empty()) return refuse(std::move(reason));
  const ConvView v = as_fprop(row.pass, p);
  constexpr int kVector = kVectorElements<T>;
  const auto single = sliced_launch<T, 1>(v);
  return plan_sliced(row, single, p.k == p.c && p.c % kVector == 0 ? sliced_launch<T, kVector>(v) : single);
}

}  // namespace

KernelRows nhwc_rows() {
  return rows_of_fast_types([&]<typename T> {
    return with_dgrad(
        {.name = "dilated_fprop_nhwc",
         .family = Family::kDilated,
         .pass = Pass::kFprop,
         .dtype = kDTypeOf<T>,
         .layout = Layout::kChannelsLast,
         .stride = 1,
         .tile = std::to_string(kThreads) + " threads, 32 to 128 bytes of channels, whole classes modulo the dilation",
         .plan = plan_nhwc<T>},
        "dilated_dgrad_nhwc");
  });
}

}  // namespace convbound::dilated
