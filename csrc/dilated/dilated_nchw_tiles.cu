// How the dilated NCHW kernel cuts its output into tiles: host code, see dilated_nchw.h.
#include <algorithm>
#include <bit>

#include "csrc/common/filter_stage.h"
#include "csrc/dilated/dilated_nchw.h"

namespace convbound::dilated {

namespace {

constexpr int64_t kTargetBytes = 20 * 1024;  // of both stages
constexpr int64_t kWholeBytes = 72 * 1024;   // the largest plane that is not cut: two blocks an SM on sm_80
constexpr int64_t kFewestBlocks = 1024;      // several waves on any GPU, where the tensor is large enough
constexpr int64_t kMost = 1 << 24;

Stage whole_stage(const Axis& h, int64_t height, int64_t width, int64_t planes, int element_bytes) {
  const int64_t plane = height * width;
  return {static_cast<int>(plane), static_cast<int>(h.dilation * width), static_cast<int>(width),
          static_cast<int>(std::min(stage_elements(planes * plane, element_bytes), kMost))};
}

// The smallest number from `least` on that is congruent to `distance` modulo 16 bytes.
int64_t congruent(int64_t least, int64_t distance, int element_bytes) {
  const int64_t vector = 16 / element_bytes;
  return least + ((distance - least) % vector + vector) % vector;
}

Stage cut_stage(const Axis& h, int64_t height, int64_t width, int64_t planes, int64_t rows, int64_t columns,
                int element_bytes) {
  const int64_t step = congruent(columns, h.dilation * width, element_bytes);
  const int64_t plane = congruent(rows * step, height * width, element_bytes);
  return {static_cast<int>(std::min(plane, kMost)), static_cast<int>(std::min(step, kMost)), 0,
          static_cast<int>(std::min(stage_elements(planes * plane, element_bytes), kMost))};
}

void fill_cut(Tile& tile, const Correlation& c, int element_bytes) {
  const int64_t in_columns = std::min<int64_t>(c.w.input, tile.columns + int64_t{c.w.filter - 1} * c.w.dilation);
  const int64_t in_rows = tile.rows + int64_t{c.h.filter} - 1;
  tile.in = cut_stage(c.h, c.h.input, c.w.input, c.inputs, in_rows, in_columns, element_bytes);
  tile.out = cut_stage(c.h, c.h.output, c.w.output, c.outputs, tile.rows, tile.columns, element_bytes);
}

// Threads of a block, of a plane, of a column and of a class of it, so that the fewest instructions pass: about 60 to
// begin a plane, 70 an item, 40 the walk through a class of it, 30 for each step, and 200 in every thread.
void share_out(Tile& tile, const Correlation& c, int64_t stage_bytes) {
  const int shared_by = tile.one_row ? kBatch : is_3x3(c) ? 2 : 1;
  tile.item_columns = (tile.columns + shared_by - 1) / shared_by;
  const bool large = stage_bytes > kTargetBytes + kTargetBytes / 2;
  const int64_t planes = int64_t{tile.groups} * c.outputs;
  const int classes = tile.whole ? tile.classes : 1;
  int64_t least = INT64_MAX;
  const auto consider = [&](int threads, int segments, int groups, int64_t wanted) {
    const int64_t items = int64_t{segments} * groups * tile.item_columns;
    const int team = static_cast<int>(std::min<int64_t>(wanted == 0 ? items : wanted, threads)), teams = threads / team;
    const int64_t passes = (items + team - 1) / team, walks = (classes + groups - 1) / groups;
    const int steps = (tile.rows + segments - 1) / segments;
    const int64_t of_plane = 60 + passes * (70 + walks * (40 + 30 * int64_t{steps}));
    const int64_t cost = threads * (200 + (planes + teams - 1) / teams * of_plane);
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
        const int few = std::min(groups, classes), even = (classes + (classes / few) - 1) / (classes / few);
        for (const int64_t wanted : {0, 32, 64, 96, 128}) consider(threads, segments, even, wanted);
      }
    }
  }
}

int ceiling(int a, int b) { return a <= 0 ? 0 : (a + b - 1) / b; }

// Tap r meets an element of the input for some output if -padding + r * dilation lies above -output and below input.
int drop_idle_taps(Axis& axis) {
  const int first = std::min(ceiling(axis.padding - (axis.output - 1), axis.dilation), axis.filter - 1);
  const int end = std::min(ceiling(axis.input + axis.padding, axis.dilation), axis.filter);
  axis.filter = std::max(end - first, 1);
  axis.padding -= first * axis.dilation;
  if (axis.filter == 1) axis.dilation = 1;
  return first;
}

}  // namespace

Correlation without_idle_taps(Correlation c) {
  c.first_tap = drop_idle_taps(c.h) * c.tap_row;
  c.first_tap += drop_idle_taps(c.w);
  return c;
}

Tile choose_tile(const Correlation& c, int element_bytes) {
  Tile tile{};
  const int64_t in = int64_t{c.inputs} * c.h.input * c.w.input, out = int64_t{c.outputs} * c.h.output * c.w.output;
  const int64_t filter = int64_t{c.inputs} * c.outputs * c.taps;
  const int64_t group_bytes = (in + out + filter) * element_bytes + 4 * int64_t{c.outputs};
  tile.one_row = c.h.input == 1 && c.h.output == 1 && c.h.filter == 1;
  tile.whole = group_bytes + 64 <= (tile.one_row ? kTargetBytes : kWholeBytes);
  tile.groups = 1;
  tile.classes = std::min(c.h.dilation, c.h.output);
  tile.rows = (c.h.output + c.h.dilation - 1) / c.h.dilation;
  tile.columns = c.w.output;
  const int class_rows = tile.rows;
  const auto bytes = [&] { return (int64_t{tile.in.elements} + tile.out.elements) * element_bytes; };
  if (tile.whole) {
    tile.groups =
        static_cast<int>(std::clamp<int64_t>(std::min(kTargetBytes / group_bytes, c.groups / kFewestBlocks), 1, 4096));
    if (tile.groups > 16) tile.groups -= tile.groups % 16;  // a tile ends on a sector
    tile.in = whole_stage(c.h, c.h.input, c.w.input, int64_t{tile.groups} * c.inputs, element_bytes);
    tile.out = whole_stage(c.h, c.h.output, c.w.output, int64_t{tile.groups} * c.outputs, element_bytes);
  } else if (tile.one_row) {
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
      if (bytes() <= 2 * kTargetBytes) break;
    }
  }
  tile.row_tiles = (class_rows + tile.rows - 1) / tile.rows;
  tile.column_tiles = (c.w.output + tile.columns - 1) / tile.columns;
  tile.biases = tile.groups * c.outputs;
  tile.filter_elements =
      static_cast<int>(std::min(filter_stage_elements(tile.groups, c.channels, filter, element_bytes), kMost));
  share_out(tile, c, bytes());
  const auto vectors = static_cast<unsigned>(tile.columns * element_bytes / 16);
  tile.row_threads = static_cast<int>(std::clamp(std::bit_ceil(vectors), 16U, 32U));
  return tile;
}

}  // namespace convbound::dilated
