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

// Threads for each plane, and threads for each column of it, so that the fewest instructions pass: about 45 to begin a
// walk, 25 for each of its steps, 60 to begin a plane.
void share_out(Tile& tile, const Correlation& c, int64_t stage_bytes) {
  tile.threads = stage_bytes > kTargetBytes + kTargetBytes / 2 ? kMostThreads : kMostThreads / 2;
  tile.item_columns = tile.one_row ? (tile.columns + kBatch - 1) / kBatch : tile.columns;
  const int64_t planes = int64_t{tile.groups} * c.outputs;
  int64_t least = INT64_MAX;
  const int most = 2 * tile.rows;
  for (int segments = 1; segments < most; segments *= 2) {
    const int steps = (tile.rows + segments - 1) / segments;
    const int64_t items = int64_t{segments} * (tile.whole ? tile.classes : 1) * tile.item_columns;
    for (const int64_t wanted : {items, int64_t{32}, int64_t{64}, int64_t{128}, int64_t{256}}) {
      const int team = static_cast<int>(std::min<int64_t>(wanted, tile.threads)), teams = tile.threads / team;
      const int64_t passes = (items + team - 1) / team;
      const int64_t cost = (planes + teams - 1) / teams * (60 + passes * (45 + 25 * int64_t{steps}));
      if (cost >= least) continue;
      least = cost;
      tile.segments = segments;
      tile.steps = steps;
      tile.team = team;
      tile.teams = teams;
      tile.items = static_cast<int>(items);
    }
  }
}

}  // namespace

Tile choose_tile(const Correlation& c, int element_bytes) {
  Tile tile{};
  const int64_t in = int64_t{c.inputs} * c.h.input * c.w.input, out = int64_t{c.outputs} * c.h.output * c.w.output;
  const int64_t filter = int64_t{c.inputs} * c.outputs * c.h.filter * c.w.filter;
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
  tile.row_threads = static_cast<int>(std::clamp(std::bit_ceil(vectors), 8U, 32U));
  return tile;
}

}  // namespace convbound::dilated
