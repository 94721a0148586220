// dilated_fprop and dilated_dgrad, NHWC, depthwise; see dilated.h for the correlation that both are.
//
// A thread owns 16 bytes of channels (8 halves) and makes outputs k and k + 1 of one class, rows f + k * dilation, so
// that a filter value read from shared memory serves two. Every tap is a 16-byte load of input: the first use of an
// element in a block comes from L2 and the others from L1. Tiles are cut so that this holds:
//   - of all columns, as many whole classes of rows as keep to 28 KB with 128, 64 or 32 bytes of channels: classes have
//     no input in common, so everything is read once (DeepLab's 33 x 33 at rate 12: three classes of 128 bytes);
//   - where one class of rows is larger than that, 32 bytes of channels and a class of rows and columns, or a compact
//     part of one with halos of R - 1 and S - 1. A sector of 32 bytes is one position, so classes of columns waste
//     none.
// Registers (96 a thread) allow 2 blocks of 320 threads on an SM; tiles are cut for 6, which would have 32 KB of L1
// each on sm_80 and 42 on sm_90.
//
//   in flight   640 threads at least (96 registers) x several loads of 16 bytes: the taps of 3x3 are 18 independent
//               loads, of which 4 are enough for 40 KB
//
// Channels that are no multiple of 16 bytes, pointers that are not aligned and channel multipliers take the same kernel
// with one channel a thread.
#include <algorithm>

#include "csrc/common/channel_slices.h"
#include "csrc/common/shared.h"
#include "csrc/dilated/dilated.h"

namespace convbound::dilated {

namespace {

constexpr int kThreads = 320;
constexpr int64_t kCacheBytes = 28 * 1024;
constexpr int64_t kMostBytes = 96 * 1024;
constexpr int kRows = 2;  // outputs of one thread at a time, below each other in their class

struct Tile {
  int row_classes, column_classes;  // of the whole output
  int classes;                      // of rows, in a tile
  int rows, columns;                // of each class, in a tile
  int class_tiles, row_tiles, column_tiles;

  int64_t tiles() const { return int64_t{class_tiles} * column_classes * row_tiles * column_tiles; }
};

struct Params {
  Correlation c;
  ChannelSlices slices;
  Tile tile;
};

// Elements of a class of an axis with this many positions.
__device__ __forceinline__ int class_size(int positions, int first, int step) {
  return (positions - first + step - 1) / step;
}

template <typename T, int kElements, int kFilter>
__global__ void __launch_bounds__(kThreads, 2) nhwc_kernel(const __grid_constant__ Params params) {
  const Correlation& c = params.c;
  const Tile& tile = params.tile;
  const ChannelSlices& slices = params.slices;
  const Axis &h = c.h, &w = c.w;
  const int thread = static_cast<int>(threadIdx.x);
  int rest = static_cast<int>(blockIdx.x);
  const int slice = rest % slices.slices;
  rest /= slices.slices;
  const int first_j = rest % tile.column_tiles * tile.columns;
  rest /= tile.column_tiles;
  const int column_class = rest % tile.column_classes;
  rest /= tile.column_classes;
  const int first_k = rest % tile.row_tiles * tile.rows;
  rest /= tile.row_tiles;
  const int first_class = rest % tile.class_tiles * tile.classes;
  const int64_t n = rest / tile.class_tiles;

  const int first_channel = slice * slices.lanes * kElements;
  float* const filter = dynamic_shared<float>();
  const int taps = h.filter * w.filter;
  load_filter<T, kElements, kThreads>(slices, first_channel, static_cast<const T*>(c.filter),
                                      static_cast<const T*>(c.bias), filter, thread, c.turned ? taps : 0);
  __syncthreads();

  const int positions = kThreads / slices.lanes, lane = thread % slices.lanes, position = thread / slices.lanes;
  const int channel = first_channel + lane * kElements;
  const int step_w = tile.column_classes > 1 ? w.dilation : 1;
  const int classes = min(tile.classes, tile.row_classes - first_class);
  const int columns = min(tile.columns, class_size(w.output, column_class, step_w) - first_j);
  const int pairs = (tile.rows + kRows - 1) / kRows;
  const int items = position < positions && channel < slices.channels ? classes * pairs * max(columns, 0) : 0;
  const int in_channels = slices.channels / c.outputs * c.inputs;
  const T* const in =
      static_cast<const T*>(c.in) + n * h.input * w.input * in_channels + channel / c.outputs * c.inputs;
  T* const out = static_cast<T*>(c.out) + n * h.output * w.output * slices.channels + channel;
#pragma unroll 1
  for (int item = position; item < items; item += positions) {
    const int x = column_class + (first_j + item % columns) * step_w, index = item / columns;
    const int first_y = first_class + index / pairs + (first_k + index % pairs * kRows) * h.dilation;
    float sum[kRows][kElements];
#pragma unroll
    for (int b = 0; b < kRows; b++) read_slot<kElements>(slices, filter, slices.taps, lane, sum[b]);
    const auto add_tap = [&](int input, int r, int s) {
      const int at_y = first_y + r * h.dilation - h.padding, at_x = x + s * w.dilation - w.padding;
      if (at_x < 0 || at_x >= w.input) return;
      float tap[kElements];
      read_slot<kElements>(slices, filter, input * taps + r * w.filter + s, lane, tap);
#pragma unroll
      for (int b = 0; b < kRows; b++) {
        const int y = at_y + b * h.dilation;
        if (y < 0 || y >= h.input) continue;
        float value[kElements];
        load_widened(in + (static_cast<int64_t>(y) * w.input + at_x) * in_channels + input, value);
        add_product(value, tap, sum[b]);
      }
    };
    if constexpr (kFilter == 3) {
#pragma unroll
      for (int t = 0; t < 9; t++) add_tap(0, t / 3, t % 3);
    } else {
      for (int input = 0; input < c.inputs; input++) {
        for (int r = 0; r < h.filter; r++) {
          for (int s = 0; s < w.filter; s++) add_tap(input, r, s);
        }
      }
    }
#pragma unroll
    for (int b = 0; b < kRows; b++) {
      const int y = first_y + b * h.dilation;
      if (y >= h.output || index % pairs * kRows + b >= tile.rows) continue;
      store_narrowed(out + (static_cast<int64_t>(y) * w.output + x) * slices.channels, sum[b]);
    }
  }
}

int class_count(int positions, int step) { return (positions + step - 1) / step; }

// Whole classes of rows if they fit with a slice of this many bytes.
bool whole_classes(Tile& tile, const Correlation& c, int64_t slice_bytes) {
  const int64_t class_bytes = int64_t{class_count(c.h.input, c.h.dilation)} * c.w.input * slice_bytes;
  tile.row_classes = std::min(c.h.dilation, c.h.output);
  tile.column_classes = 1;
  tile.classes = static_cast<int>(std::clamp<int64_t>(kCacheBytes / class_bytes, 1, tile.row_classes));
  tile.class_tiles = class_count(tile.row_classes, tile.classes);
  tile.classes = class_count(tile.row_classes, tile.class_tiles);
  tile.rows = class_count(c.h.output, c.h.dilation);
  tile.row_tiles = 1;
  tile.columns = c.w.output;
  tile.column_tiles = 1;
  return class_bytes <= kCacheBytes;
}

// One class of rows and columns, or a part of it.
void part_of_class(Tile& tile, const Correlation& c, int64_t slice_bytes) {
  tile.classes = 1;
  tile.class_tiles = tile.row_classes;
  tile.column_classes = std::min(c.w.dilation, c.w.output);
  const auto cut = [](int size, int64_t most, int& part, int& parts) {
    parts = static_cast<int>((size + most - 1) / most);
    part = class_count(size, parts);
  };
  const int rows = class_count(c.h.output, c.h.dilation), columns = class_count(c.w.output, c.w.dilation);
  const int64_t cells = kCacheBytes / slice_bytes;
  int64_t square = 1;
  for (int64_t side = 1; side < cells; side++) {
    if (side * side <= cells) square = side;
  }
  const int64_t most_rows = std::max<int64_t>(square - (c.h.filter - 1), 2);
  cut(rows, rows <= most_rows ? rows : most_rows, tile.rows, tile.row_tiles);
  const int64_t most_columns = cells / (tile.rows + c.h.filter - 1) - (c.w.filter - 1);
  cut(columns, std::max<int64_t>(most_columns, 4), tile.columns, tile.column_tiles);
}

template <typename T>
Params make_params(Pass pass, const ConvProblem& p, const Tensors& t, int vector) {
  Params params{};
  params.c = make_correlation(pass, p, t);
  const Correlation& c = params.c;
  constexpr int64_t kFilterTarget = 8 * 1024;
  const int64_t channels = int64_t{c.channels} * c.outputs, taps = int64_t{c.inputs} * c.h.filter * c.w.filter;
  for (const int bytes : {128, 64, 32}) {
    params.slices = make_slices(channels, taps, vector, sizeof(T), bytes);
    const int64_t slice_bytes = int64_t{params.slices.lanes} * vector * static_cast<int64_t>(sizeof(T));
    const bool fits = whole_classes(params.tile, c, slice_bytes);
    if (fits && filter_bytes(params.slices, vector) <= kFilterTarget) break;
    if (bytes == 32 && !fits) part_of_class(params.tile, c, slice_bytes);
  }
  return params;
}

template <typename T>
LaunchShape shape_of(const Params& params, const ConvProblem& p, int vector) {
  LaunchShape shape;
  shape.grid_x = p.n * params.tile.tiles() * params.slices.slices;
  shape.block_x = kThreads;
  shape.shared_bytes = static_cast<size_t>(filter_bytes(params.slices, vector));
  return shape;
}

template <typename T>
int widest(const ConvProblem& p) {
  return p.k == p.c && p.c % kVectorElements<T> == 0 ? kVectorElements<T> : 1;
}

}  // namespace

bool supports_nhwc(const ConvProblem& p) {
  if (!dilated_depthwise(p)) return false;
  for (const int vector : {1, 8}) {
    for (const Pass pass : {Pass::kFprop, Pass::kDgrad}) {
      const Params params = make_params<__half>(pass, p, {}, vector);
      if (filter_bytes(params.slices, vector) > kMostBytes) return false;
    }
  }
  return true;
}

template <Pass kPass, typename T>
LaunchShape nhwc_shape(const ConvProblem& p) {
  return shape_of<T>(make_params<T>(kPass, p, {}, widest<T>(p)), p, widest<T>(p));
}

template <Pass kPass, typename T>
void nhwc(const ConvProblem& p, const Tensors& t, cudaStream_t stream) {
  const bool small = p.filter[1] == 3 && p.filter[2] == 3 && p.k == p.c;
  const bool aligned = (reinterpret_cast<uintptr_t>(t.x) | reinterpret_cast<uintptr_t>(t.y)) % 16 == 0;
  const int vector = aligned ? widest<T>(p) : 1;
  const Params params = make_params<T>(kPass, p, t, vector);
  constexpr int kWide = kVectorElements<T>;
  const auto kernel = vector == 1 ? (small ? nhwc_kernel<T, 1, 3> : nhwc_kernel<T, 1, 0>)
                                  : (small ? nhwc_kernel<T, kWide, 3> : nhwc_kernel<T, kWide, 0>);
  launch("dilated_nhwc", kernel, shape_of<T>(params, p, vector), stream, params);
}

#define CONVBOUND_DILATED(pass, T)                              \
  template LaunchShape nhwc_shape<pass, T>(const ConvProblem&); \
  template void nhwc<pass, T>(const ConvProblem&, const Tensors&, cudaStream_t);
CONVBOUND_DILATED(Pass::kFprop, __half)
CONVBOUND_DILATED(Pass::kFprop, __nv_bfloat16)
CONVBOUND_DILATED(Pass::kFprop, float)
CONVBOUND_DILATED(Pass::kDgrad, __half)
CONVBOUND_DILATED(Pass::kDgrad, __nv_bfloat16)
CONVBOUND_DILATED(Pass::kDgrad, float)

}  // namespace convbound::dilated
