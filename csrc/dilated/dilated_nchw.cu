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
//   global memory   input and output once, but for halos; all by 16-byte accesses (csrc/common/staging.h)
//   per output      3x3: 9 FMA, 3 shared loads, 1 shared store; others: R * S FMA and 2 R * S shared loads
//   in flight       stages of input: 8 KB x 11 blocks on sm_90, x 8 on sm_80
#include "csrc/dilated/dilated.h"

#include <algorithm>

#include "csrc/common/divisor.h"
#include "csrc/common/numeric.h"
#include "csrc/common/shared.h"
#include "csrc/common/staging.h"

namespace convbound::dilated {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kTargetBytes = 20 * 1024;  // of both stages
constexpr int64_t kWholeBytes = 72 * 1024;   // the largest plane that is not cut: two blocks an SM on sm_80
constexpr int64_t kMostBytes = 96 * 1024;
constexpr int64_t kFewestBlocks = 1024;  // several waves on any GPU, where the tensor is large enough

struct Tile {
  bool whole;  // whole planes of `groups` groups; else rows and columns of one group
  int groups;
  int classes, rows, row_tiles;  // rows of a class in a tile, tiles of a class
  int columns, column_tiles;
  int segments, steps;      // threads that share the walk down a column, and their part
  int in_pitch, out_pitch;  // elements of the stage of a row, where cut
  int in_elements, out_elements, weights;

  int64_t shared_bytes(int64_t element_bytes) const {
    return (int64_t{in_elements} + out_elements) * element_bytes + int64_t{weights} * 4;
  }
};

template <typename T>
struct Params {
  Correlation c;
  Divisor channels;
  Tile tile;
};

template <typename T, int kFilter>
__global__ void __launch_bounds__(kThreads, 4) nchw_kernel(const __grid_constant__ Params<T> params) {
  const Correlation& c = params.c;
  const Tile& tile = params.tile;
  const Axis &h = c.h, &w = c.w;
  const int thread = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x);
  const int tiles = tile.whole ? 1 : tile.classes * tile.row_tiles * tile.column_tiles;
  const int part = block % tiles, column_tile = part % tile.column_tiles, rest = part / tile.column_tiles;
  const int64_t first_group = static_cast<int64_t>(block / tiles) * tile.groups;
  const int groups = static_cast<int>(min(static_cast<int64_t>(tile.groups), c.groups - first_group));
  // Where cut: this block's class, rows k of it and columns x; and the columns of input that they need.
  const int cut_class = rest / tile.row_tiles, first_k = rest % tile.row_tiles * tile.rows;
  const int class_rows = (h.output - cut_class + h.dilation - 1) / h.dilation;
  const int rows = min(tile.rows, class_rows - first_k);
  const int first_x = column_tile * tile.columns, columns = min(tile.columns, w.output - first_x);
  const int first_in = min(max(first_x - w.padding, 0), w.input);
  const int reach = first_x + columns - 1 + (w.filter - 1) * w.dilation - w.padding + 1;
  const int in_columns = max(min(reach, w.input) - first_in, 0);
  const int in_rows = rows + h.filter - 1, first_y = cut_class - h.padding + first_k * h.dilation;

  const int in_plane = h.input * w.input, out_plane = h.output * w.output;
  const T* const in = static_cast<const T*>(c.in) + first_group * c.inputs * in_plane;
  T* const out = static_cast<T*>(c.out) + first_group * c.outputs * out_plane;
  T* const in_stage = dynamic_shared<T>();
  T* const out_stage = in_stage + tile.in_elements;
  float* const weights = reinterpret_cast<float*>(out_stage + tile.out_elements);

  if (tile.whole) {
    load_run<T, kThreads>(in_stage, in, groups * c.inputs * in_plane, thread);
  } else {
    const int warp = thread / 32, runs = c.inputs * in_rows;
    for (int run = warp; run < runs; run += kThreads / 32) {
      const int y = first_y + run % in_rows * h.dilation;
      if (y < 0 || y >= h.input) continue;
      load_run<T, 32>(
          in_stage + run * tile.in_pitch,
          in + static_cast<int64_t>(run / in_rows) * in_plane + static_cast<int64_t>(y) * w.input + first_in,
          in_columns, thread % 32);
    }
  }
  ptx::cp_async_commit();

  // For each group inputs x outputs x R x S weights, turned round for dgrad, and a bias for each output.
  const int taps = h.filter * w.filter, of_group = c.inputs * c.outputs * taps, slots = of_group + c.outputs;
  const int all_slots = groups * slots;
  int64_t image = first_group;
  const int first_channel = take(image, params.channels);
  for (int i = thread; i < all_slots; i += kThreads) {
    const int group = i / slots, slot = i - group * slots, channel = (first_channel + group) % c.channels;
    float value = 0;
    if (slot < of_group) {
      const int from = c.turned ? slot / taps * taps + (taps - 1 - slot % taps) : slot;
      value = widen(static_cast<const T*>(c.filter)[static_cast<int64_t>(channel) * of_group + from]);
    } else if (c.bias != nullptr) {
      value = widen(static_cast<const T*>(c.bias)[static_cast<int64_t>(channel) * c.outputs + slot - of_group]);
    }
    weights[i] = value;
  }
  ptx::cp_async_wait_all();
  __syncthreads();

  const int classes = tile.whole ? tile.classes : 1;
  const int items = groups * c.outputs * tile.segments * classes * columns;
  for (int item = thread; item < items; item += kThreads) {
    const int x = first_x + item % columns;
    int index = item / columns;
    const int row_class = tile.whole ? index % classes : cut_class;
    index /= classes;
    const int k_begin = first_k + index % tile.segments * tile.steps, plane = index / tile.segments;
    const int group = plane / c.outputs, output = plane - group * c.outputs;
    const int rows_of_class = (h.output - row_class + h.dilation - 1) / h.dilation;
    const int k_end = min(min(k_begin + tile.steps, first_k + tile.rows), rows_of_class);
    const int steps = k_end - k_begin;
    if (steps <= 0) continue;
    // Row `k` of the class, r taps down, of one of the group's inputs: a pointer to column 0, or null.
    const auto in_row = [&](int input, int k) -> const T* {
      const int y = row_class - h.padding + k * h.dilation;
      if (y < 0 || y >= h.input) return nullptr;
      if (tile.whole) return in_stage + stage_offset(in) + (group * c.inputs + input) * in_plane + y * w.input;
      const T* const global =
          in + static_cast<int64_t>(input) * in_plane + static_cast<int64_t>(y) * w.input + first_in;
      return in_stage + (input * in_rows + k - first_k) * tile.in_pitch + stage_offset(global) - first_in;
    };
    const auto store = [&](int k, float value) {
      const int y = row_class + k * h.dilation;
      if (tile.whole) {
        out_stage[stage_offset(out) + plane * out_plane + y * w.output + x] = narrow<T>(value);
      } else {
        const T* const global =
            out + static_cast<int64_t>(output) * out_plane + static_cast<int64_t>(y) * w.output + first_x;
        out_stage[(output * tile.rows + k - first_k) * tile.out_pitch + stage_offset(global) + x - first_x] =
            narrow<T>(value);
      }
    };
    const float bias = weights[group * slots + of_group + output];
    const float* const filter = weights + group * slots + output * taps;
    if constexpr (kFilter == 3) {
      float tap[3][3], window[3][3];
#pragma unroll
      for (int t = 0; t < 9; t++) tap[t / 3][t % 3] = filter[t];
      const auto load = [&](int k, float (&to)[3]) {
        const T* const row = in_row(0, k);
#pragma unroll
        for (int s = 0; s < 3; s++) {
          const int at = x + s * w.dilation - w.padding;
          to[s] = row != nullptr && at >= 0 && at < w.input ? widen(row[at]) : 0.0f;
        }
      };
      load(k_begin, window[1]);
      load(k_begin + 1, window[2]);
#pragma unroll 1
      for (int step = 0; step < steps; step++) {
        float sum = bias;
#pragma unroll
        for (int s = 0; s < 3; s++) {
          window[0][s] = window[1][s];
          window[1][s] = window[2][s];
        }
        load(k_begin + step + 2, window[2]);
#pragma unroll
        for (int t = 0; t < 9; t++) sum = fmaf(window[t / 3][t % 3], tap[t / 3][t % 3], sum);
        store(k_begin + step, sum);
      }
    } else {
      for (int step = 0; step < steps; step++) {
        const int k = k_begin + step;
        float sum = bias;
        for (int input = 0; input < c.inputs; input++) {
          for (int r = 0; r < h.filter; r++) {
            const T* const row = in_row(input, k + r);
            if (row == nullptr) continue;
            const float* const filter_row = filter + input * taps + r * w.filter;
            for (int s = 0; s < w.filter; s++) {
              const int at = x + s * w.dilation - w.padding;
              if (at >= 0 && at < w.input) sum = fmaf(widen(row[at]), filter_row[s], sum);
            }
          }
        }
        store(k, sum);
      }
    }
  }
  __syncthreads();

  if (tile.whole) {
    store_run<T, kThreads>(out, out_stage, groups * c.outputs * out_plane, thread);
  } else {
    const int warp = thread / 32, runs = c.outputs * rows;
    for (int run = warp; run < runs; run += kThreads / 32) {
      const int output = run / rows, k = run % rows;
      const int y = cut_class + (first_k + k) * h.dilation;
      store_run<T, 32>(out + static_cast<int64_t>(output) * out_plane + static_cast<int64_t>(y) * w.output + first_x,
                       out_stage + (output * tile.rows + k) * tile.out_pitch, columns, thread % 32);
    }
  }
}

void fill_cut(Tile& tile, const Correlation& c, int element_bytes) {
  const int64_t in_columns = std::min<int64_t>(c.w.input, tile.columns + int64_t{c.w.filter - 1} * c.w.dilation);
  const int64_t in_pitch = stage_elements(in_columns, element_bytes);
  tile.in_pitch = static_cast<int>(in_pitch);
  tile.out_pitch = static_cast<int>(stage_elements(tile.columns, element_bytes));
  constexpr int64_t kMost = 1 << 24;
  tile.in_elements = static_cast<int>(std::min(kMost, c.inputs * (tile.rows + int64_t{c.h.filter} - 1) * in_pitch));
  tile.out_elements = static_cast<int>(std::min(kMost, c.outputs * int64_t{tile.rows} * tile.out_pitch));
}

Tile choose_tile(const Correlation& c, int element_bytes) {
  Tile tile{};
  const int64_t in = int64_t{c.inputs} * c.h.input * c.w.input, out = int64_t{c.outputs} * c.h.output * c.w.output;
  const int64_t slots = int64_t{c.inputs} * c.outputs * c.h.filter * c.w.filter + c.outputs;
  const int64_t group_bytes = (in + out) * element_bytes + slots * 4;
  const bool one_row = c.h.input == 1 && c.h.output == 1 && c.h.filter == 1;
  tile.whole = group_bytes + 64 <= (one_row ? kTargetBytes : kWholeBytes);
  tile.groups = 1;
  tile.classes = std::min(c.h.dilation, c.h.output);
  tile.rows = (c.h.output + c.h.dilation - 1) / c.h.dilation;
  tile.columns = c.w.output;
  const int class_rows = tile.rows;
  if (tile.whole) {
    tile.groups =
        static_cast<int>(std::clamp<int64_t>(std::min(kTargetBytes / group_bytes, c.groups / kFewestBlocks), 1, 4096));
    if (tile.groups > 16) tile.groups -= tile.groups % 16;  // a tile ends on a sector
    tile.in_elements = static_cast<int>(stage_elements(tile.groups * in, element_bytes));
    tile.out_elements = static_cast<int>(stage_elements(tile.groups * out, element_bytes));
  } else if (one_row) {
    // Columns: halos of at most a sixteenth, in 64 KB at most.
    const int64_t halo = int64_t{c.w.filter - 1} * c.w.dilation;
    const int64_t column_bytes = int64_t{c.inputs + c.outputs} * element_bytes;
    const int64_t wanted = std::max(kTargetBytes / column_bytes, 16 * halo);
    const int64_t most = 64 * 1024 / column_bytes - halo;
    const int64_t columns = std::clamp<int64_t>(std::min(wanted, most), 256, c.w.output);
    const int64_t tiles = (c.w.output + columns - 1) / columns;
    tile.columns = static_cast<int>((c.w.output + tiles - 1) / tiles + 31) / 32 * 32;
    fill_cut(tile, c, element_bytes);
  } else {
    const int most = class_rows + 1;
    for (int tiles = 1; tiles < most; tiles++) {
      tile.rows = (class_rows + tiles - 1) / tiles;
      fill_cut(tile, c, element_bytes);
      if (tile.shared_bytes(element_bytes) <= 2 * kTargetBytes) break;
    }
  }
  tile.row_tiles = (class_rows + tile.rows - 1) / tile.rows;
  tile.column_tiles = (c.w.output + tile.columns - 1) / tile.columns;
  tile.weights = static_cast<int>(std::min<int64_t>(tile.groups * slots, 1 << 24));
  const int64_t walks = int64_t{tile.groups} * c.outputs * (tile.whole ? tile.classes : 1) * tile.columns;
  tile.segments = static_cast<int>(std::clamp<int64_t>(kThreads / walks, 1, tile.rows));
  tile.steps = (tile.rows + tile.segments - 1) / tile.segments;
  return tile;
}

template <typename T>
LaunchShape shape_of(Pass pass, const ConvProblem& p) {
  const Correlation c = make_correlation(pass, p, {});
  const Tile tile = choose_tile(c, sizeof(T));
  LaunchShape shape;
  const int64_t parts = tile.whole ? 1 : int64_t{tile.classes} * tile.row_tiles * tile.column_tiles;
  shape.grid_x = (c.groups + tile.groups - 1) / tile.groups * parts;
  shape.block_x = kThreads;
  shape.shared_bytes = static_cast<size_t>(tile.shared_bytes(sizeof(T)));
  return shape;
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
  const Correlation c = make_correlation(kPass, p, t);
  const Params<T> params{c, Divisor(p.c), choose_tile(c, sizeof(T))};
  const bool small = c.h.filter == 3 && c.w.filter == 3 && c.inputs == 1;
  launch("dilated_nchw", small ? nchw_kernel<T, 3> : nchw_kernel<T, 0>, nchw_shape<kPass, T>(p), stream, params);
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
