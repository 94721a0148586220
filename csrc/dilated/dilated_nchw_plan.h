// How the dilated NCHW kernel cuts its output into tiles: host code, dilated_nchw.cu has the algorithm.
#pragma once

#include <algorithm>
#include <bit>

#include "csrc/common/divisor.h"
#include "csrc/common/integers.h"
#include "csrc/common/launch.h"
#include "csrc/common/run_copy.h"
#include "csrc/common/view.h"

namespace convbound::dilated {

constexpr int kMostThreads = 256;
constexpr int kBatch = 4;  // outputs that a thread of the general kernel makes at a time

// The convolution without the taps that meet padding alone. The planes of one channel of x in one image are a group.
struct TrimmedConv {
  ConvView view;
  int64_t groups;                // of all images
  int taps, tap_row, first_tap;  // of a channel's filter in memory, of a row of it; and the first that is used
};

// A stage is addressed linearly: row k of a class, of plane i, begins at offset + i * plane + k * step. Whole planes
// lie there as in global memory. The rows of a class, which are copied one by one, have a pitch that is congruent to
// their distance in global memory modulo 16 bytes, so that every row keeps its alignment.
struct DilatedNchwStage {
  int plane, step, row;  // from one row of the plane to the next; 0 where the stage has one class only
  int elements;
};

struct DilatedNchwTile {
  bool whole;    // planes of `groups` groups; else rows and columns of one group
  bool one_row;  // 1-D
  int groups;
  int classes, rows, row_tiles;  // rows of a class in a tile, tiles of a class
  int columns, column_tiles;
  int segments, steps;  // threads that share the walk down a column of a class, and their part
  int class_groups;     // threads that share the classes of a column
  int item_columns;     // of a row that have an item of their own: at 3x3 two columns share one, in 1-D kBatch
  int threads, team, teams, items;  // threads of a block; of one plane's team; teams; items of a plane
  int row_threads;                  // that copy one row, where the plane is cut
  DilatedNchwStage in, out;
  int filter_elements, biases;  // and a zero after them

  int64_t shared_bytes(int64_t element_bytes) const {
    return (int64_t{in.elements} + out.elements + filter_elements) * element_bytes + (int64_t{biases} + 1) * 4;
  }
};

template <typename T>
struct DilatedNchwParams : ConvTensors<T> {
  TrimmedConv conv;
  DilatedNchwTile tile;
  Divisor channels;
  IndexDivisor team, columns, class_groups, column_tiles, row_tiles, cut_classes;
};

inline bool is_3x3(const ConvView& v) { return v.h.filter == 3 && v.w.filter == 3 && v.inputs == 1; }

constexpr int64_t kTargetBytes = 20 * 1024;  // of both stages
constexpr int64_t kWholeBytes = 72 * 1024;   // the largest plane that is not cut: two blocks an SM on sm_80
constexpr int64_t kFewestBlocks = 1024;      // several waves on any GPU, where the tensor is large enough
constexpr int64_t kMostElements = 1 << 24;   // of a stage that is too large anyway

inline DilatedNchwStage whole_stage(const AxisView& h, int64_t height, int64_t width, int64_t planes,
                                    int element_bytes) {
  const int64_t plane = height * width;
  return {static_cast<int>(plane), static_cast<int>(h.dilation * width), static_cast<int>(width),
          static_cast<int>(std::min(stage_elements(planes * plane, element_bytes), kMostElements))};
}

// The smallest number from `least` on that is congruent to `distance` modulo 16 bytes.
inline int64_t congruent(int64_t least, int64_t distance, int element_bytes) {
  const int64_t vector = 16 / element_bytes;
  return least + modulo(distance - least, vector);
}

inline DilatedNchwStage cut_stage(const AxisView& h, int64_t height, int64_t width, int64_t planes, int64_t rows,
                                  int64_t columns, int element_bytes) {
  const int64_t step = congruent(columns, h.dilation * width, element_bytes);
  const int64_t plane = congruent(rows * step, height * width, element_bytes);
  return {static_cast<int>(std::min(plane, kMostElements)), static_cast<int>(std::min(step, kMostElements)), 0,
          static_cast<int>(std::min(stage_elements(planes * plane, element_bytes), kMostElements))};
}

inline void fill_cut(DilatedNchwTile& tile, const ConvView& v, int element_bytes) {
  const int64_t in_columns = std::min<int64_t>(v.w.input, tile.columns + int64_t{v.w.filter - 1} * v.w.dilation);
  const int64_t in_rows = tile.rows + int64_t{v.h.filter} - 1;
  tile.in = cut_stage(v.h, v.h.input, v.w.input, v.inputs, in_rows, in_columns, element_bytes);
  tile.out = cut_stage(v.h, v.h.output, v.w.output, v.outputs, tile.rows, tile.columns, element_bytes);
}

// Threads of a block, of a plane, of a column and of a class of it, so that the fewest instructions pass: about 60 to
// begin a plane, 70 an item, 40 the walk through a class of it, 30 for each step, and 200 in every thread.
inline void share_out(DilatedNchwTile& tile, const ConvView& v, int64_t stage_bytes) {
  const int shared_by = tile.one_row ? kBatch : is_3x3(v) ? 2 : 1;
  tile.item_columns = divide_up(tile.columns, shared_by);
  const bool large = stage_bytes > kTargetBytes + kTargetBytes / 2;
  const int64_t planes = int64_t{tile.groups} * v.outputs;
  const int classes = tile.whole ? tile.classes : 1;
  int64_t least = INT64_MAX;
  const auto consider = [&](int threads, int segments, int groups, int64_t wanted) {
    const int64_t items = int64_t{segments} * groups * tile.item_columns;
    const int team = static_cast<int>(std::min<int64_t>(wanted == 0 ? items : wanted, threads)), teams = threads / team;
    const int64_t passes = divide_up(items, team), walks = divide_up(classes, groups);
    const int steps = divide_up(tile.rows, segments);
    const int64_t of_plane = 60 + passes * (70 + walks * (40 + 30 * int64_t{steps}));
    const int64_t cost = threads * (200 + divide_up(planes, teams) * of_plane);
    if (cost >= least) return;
    least = cost;
    tile.threads = threads;
    tile.segments = segments;
    tile.steps = steps;
    tile.class_groups = groups;
    tile.team = team;
    tile.teams = teams;
    tile.items = static_cast<int>(items);
  };
  const int most_segments = 2 * tile.rows, most_groups = 2 * classes, most_threads = large ? 257 : 225;
  for (int threads = large ? 256 : 128; threads < most_threads; threads += 32) {
    for (int segments = 1; segments < most_segments; segments *= 2) {
      for (int groups = 1; groups < most_groups; groups *= 2) {
        const int few = std::min(groups, classes), even = divide_up(classes, classes / few);
        for (const int64_t wanted : {0, 32, 64, 96, 128}) consider(threads, segments, even, wanted);
      }
    }
  }
}

// Tap r meets an element of the input for some output if -padding + r * dilation lies above -output and below input.
inline int drop_idle_taps(AxisView& axis) {
  const auto multiples = [&](int length) { return length > 0 ? divide_up(length, axis.dilation) : 0; };
  const int first = std::min(multiples(axis.padding - (axis.output - 1)), axis.filter - 1);
  const int end = std::min(multiples(axis.input + axis.padding), axis.filter);
  axis.filter = std::max(end - first, 1);
  axis.padding -= first * axis.dilation;
  if (axis.filter == 1) axis.dilation = 1;
  return first;
}

inline TrimmedConv trimmed_conv(Pass pass, const ConvProblem& p) {
  const ConvView all = as_fprop(pass, p);
  TrimmedConv conv{all, all.images * all.groups, all.h.filter * all.w.filter, all.w.filter, 0};
  conv.first_tap = drop_idle_taps(conv.view.h) * conv.tap_row;
  conv.first_tap += drop_idle_taps(conv.view.w);
  return conv;
}

inline DilatedNchwTile choose_tile(const TrimmedConv& conv, int element_bytes) {
  const ConvView& v = conv.view;
  DilatedNchwTile tile{};
  const int64_t in = int64_t{v.inputs} * v.h.input * v.w.input, out = int64_t{v.outputs} * v.h.output * v.w.output;
  const int64_t filter = int64_t{v.inputs} * v.outputs * conv.taps;
  const int64_t group_bytes = (in + out + filter) * element_bytes + 4 * int64_t{v.outputs};
  tile.one_row = v.h.input == 1 && v.h.output == 1 && v.h.filter == 1;
  tile.whole = group_bytes + 64 <= (tile.one_row ? kTargetBytes : kWholeBytes);
  tile.groups = 1;
  tile.classes = std::min(v.h.dilation, v.h.output);
  tile.rows = divide_up(v.h.output, v.h.dilation);
  tile.columns = v.w.output;
  const int class_rows = tile.rows;
  const auto bytes = [&] { return (int64_t{tile.in.elements} + tile.out.elements) * element_bytes; };
  if (tile.whole) {
    tile.groups = static_cast<int>(
        std::clamp<int64_t>(std::min(kTargetBytes / group_bytes, conv.groups / kFewestBlocks), 1, 4096));
    if (tile.groups > 16) tile.groups -= tile.groups % 16;  // a tile ends on a sector
    tile.in = whole_stage(v.h, v.h.input, v.w.input, int64_t{tile.groups} * v.inputs, element_bytes);
    tile.out = whole_stage(v.h, v.h.output, v.w.output, int64_t{tile.groups} * v.outputs, element_bytes);
  } else if (tile.one_row) {
    // Columns: halos of at most a sixteenth, in 64 KB at most.
    const int64_t halo = int64_t{v.w.filter - 1} * v.w.dilation;
    const int64_t column_bytes = int64_t{v.inputs + v.outputs} * element_bytes;
    const int64_t wanted = std::max(kTargetBytes / column_bytes, 16 * halo);
    const int64_t most = 64 * 1024 / column_bytes - halo;
    const int64_t columns = std::clamp<int64_t>(std::min(wanted, most), 256, v.w.output);
    const int64_t tiles = divide_up(v.w.output, columns);
    tile.columns = static_cast<int>(round_up(divide_up(v.w.output, tiles), 32));
    fill_cut(tile, v, element_bytes);
  } else {
    const int most = class_rows + 1;
    for (int tiles = 1; tiles < most; tiles++) {
      tile.rows = divide_up(class_rows, tiles);
      fill_cut(tile, v, element_bytes);
      if (bytes() <= 2 * kTargetBytes) break;
    }
  }
  tile.row_tiles = divide_up(class_rows, tile.rows);
  tile.column_tiles = divide_up(v.w.output, tile.columns);
  tile.biases = tile.groups * v.outputs;
  tile.filter_elements = static_cast<int>(std::min(stage_elements(tile.groups * filter, element_bytes), kMostElements));
  share_out(tile, v, bytes());
  const auto vectors = static_cast<unsigned>(tile.columns * element_bytes / 16);
  tile.row_threads = static_cast<int>(std::clamp(std::bit_ceil(vectors), 16U, 32U));
  return tile;
}

inline LaunchShape tile_shape(const TrimmedConv& conv, const DilatedNchwTile& tile, int element_bytes) {
  const int64_t parts = tile.whole ? 1 : int64_t{tile.classes} * tile.row_tiles * tile.column_tiles;
  return {.grid_x = divide_up(conv.groups, tile.groups) * parts,
          .block_x = tile.threads,
          .shared_bytes = static_cast<size_t>(tile.shared_bytes(element_bytes))};
}

}  // namespace convbound::dilated
