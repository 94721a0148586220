// How the strided dgrad kernels for NCHW cut dx into tiles: host code, see transposed_nchw.h.
#include <algorithm>
#include <limits>

#include "csrc/common/within.h"
#include "csrc/transposed/transposed_nchw.h"

namespace convbound::transposed {

Axis make_axis(const ConvProblem& p, int i) {
  Axis axis{};
  axis.input = static_cast<int>(p.input[i]);
  axis.output = static_cast<int>(p.output[i]);
  axis.filter = static_cast<int>(p.filter[i]);
  axis.stride = static_cast<int>(p.stride[i]);
  axis.padding = static_cast<int>(p.padding[i]);
  axis.dilation = static_cast<int>(p.dilation[i]);
  axis.first_block = axis.padding / axis.stride;
  axis.blocks = (axis.padding + axis.input - 1) / axis.stride - axis.first_block + 1;
  axis.tile = axis.blocks;
  axis.tiles = 1;
  return axis;
}

namespace {

// Positions of dx, and of dy, that a tile of an axis holds at most.
int64_t inputs(const Axis& axis) { return std::min<int64_t>(axis.input, int64_t{axis.tile} * axis.stride); }
int64_t outputs(const Axis& axis) {
  const int64_t reach = (int64_t{axis.filter} - 1) * axis.dilation;
  return std::min<int64_t>(axis.output, axis.tile + (reach + axis.stride - 1) / axis.stride);
}

int64_t fill_stages(Tile& tile, int element_bytes) {
  const int64_t dx = tile.planes * inputs(tile.h) * inputs(tile.w);
  const bool is_cut = tile.h.tile < tile.h.blocks || tile.w.tile < tile.w.blocks;
  tile.dy_stages = is_cut ? tile.multiplier : 1;
  // Planes that are not cut follow each other in the stage, with rows that meet padding alone.
  const int64_t rows = is_cut ? outputs(tile.h) : tile.h.output;
  const int64_t columns = tile.w.tile < tile.w.blocks ? outputs(tile.w) : tile.w.output;
  const int64_t dy = (is_cut ? 1 : int64_t{tile.planes} * tile.multiplier) * rows * columns;
  constexpr int64_t kMost = 1 << 20;
  tile.dx_elements = static_cast<int>(std::min(stage_elements(dx, element_bytes), kMost));
  tile.dy_elements = static_cast<int>(std::min(stage_elements(dy, element_bytes), kMost));
  const int64_t taps = int64_t{tile.multiplier} * tile.h.filter * tile.w.filter;
  tile.filter_elements = static_cast<int>(std::min(
      filter_stage_elements(tile.planes, std::numeric_limits<int64_t>::max() / taps, taps, element_bytes), kMost));
  return tile.shared_bytes(element_bytes);
}

// The fewest tiles of an axis that keep to the target, all of nearly one size.
bool cut_axis(Tile& tile, Axis& axis, int element_bytes) {
  const int64_t whole = fill_stages(tile, element_bytes);
  const int64_t most = int64_t{axis.blocks} + 1;
  for (int64_t tiles = std::clamp<int64_t>(whole / kTargetBytes, 1, axis.blocks); tiles < most; tiles++) {
    axis.tile = static_cast<int>((axis.blocks + tiles - 1) / tiles);
    if (fill_stages(tile, element_bytes) <= kTargetBytes) break;
  }
  axis.tiles = (axis.blocks + axis.tile - 1) / axis.tile;
  return tile.shared_bytes(element_bytes) <= kTargetBytes;
}

// Threads to a plane, and to a group of its columns, so that the fewest instructions pass: about 40 and one for each
// tap to begin a plane, 40 an item, and per step the FMA and 20, of which the rows above an item are half.
void share_out(Tile& tile) {
  const int group = column_group(tile.h.filter), taps = tile.h.filter * tile.w.filter, halo = (tile.h.filter - 1) / 2;
  tile.columns = static_cast<int>((inputs(tile.w) + group - 1) / group) + (tile.w.tiles > 1 ? 1 : 0);
  const int64_t of_step = taps * group / 2 + 20;
  int64_t least = INT64_MAX;
  const int most = tile.h.tile + 1;
  for (int segments = 1; segments < most; segments++) {
    const int steps = (tile.h.tile + segments - 1) / segments;
    const int64_t items = int64_t{segments} * tile.columns;
    for (const int64_t wanted : {items, int64_t{32}, int64_t{64}, int64_t{128}}) {
      const int team = static_cast<int>(std::min<int64_t>(wanted, kThreads)), teams = kThreads / team;
      const int64_t passes = (items + team - 1) / team;
      const int64_t cost =
          (tile.planes + teams - 1) / teams * (40 + taps + passes * (40 + steps * of_step + halo * of_step / 2));
      if (cost >= least) continue;
      least = cost;
      tile.segments = segments;
      tile.steps = steps;
      tile.team = team;
      tile.teams = teams;
    }
  }
}

}  // namespace

bool strided_depthwise_dgrad(const ConvProblem& p) {
  constexpr int64_t kMost = (1 << 24) - 1;
  const bool fine = axes_within(p, kMost) && is_flat(p) && p.depthwise() && p.c < (1 << 30) && p.k_per_group() <= 64;
  return fine && (p.stride[1] > 1 || p.stride[2] > 1);
}

Tile choose_tile(const ConvProblem& p, int element_bytes) {
  Tile tile{};
  tile.h = make_axis(p, 1);
  tile.w = make_axis(p, 2);
  tile.multiplier = static_cast<int>(p.k_per_group());
  tile.planes = 1;
  const int64_t planes = p.n * p.c, one = fill_stages(tile, element_bytes);
  if (one <= kTargetBytes) {
    tile.planes = static_cast<int>(std::clamp<int64_t>(planes / kFewestBlocks, 1, kTargetBytes / one));
    if (tile.planes > 16) tile.planes -= tile.planes % 16;  // a tile ends on a sector
    fill_stages(tile, element_bytes);
  } else if (!cut_axis(tile, tile.h, element_bytes) && tile.h.input == 1) {
    cut_axis(tile, tile.w, element_bytes);
  }
  share_out(tile);
  return tile;
}

LaunchShape tile_shape(const ConvProblem& p, const Tile& tile, int element_bytes) {
  LaunchShape shape;
  shape.grid_x = (p.n * p.c + tile.planes - 1) / tile.planes * tile.h.tiles * tile.w.tiles;
  shape.block_x = kThreads;
  shape.shared_bytes = static_cast<size_t>(tile.shared_bytes(element_bytes));
  return shape;
}

template <typename T>
LaunchShape nchw_shape(const ConvProblem& problem) {
  return tile_shape(problem, choose_tile(problem, sizeof(T)), sizeof(T));
}

template LaunchShape nchw_shape<float>(const ConvProblem&);
template LaunchShape nchw_shape<__half>(const ConvProblem&);
template LaunchShape nchw_shape<__nv_bfloat16>(const ConvProblem&);

}  // namespace convbound::transposed
