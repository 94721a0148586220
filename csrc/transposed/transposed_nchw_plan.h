// How the NCHW kernels of strided dgrad cut dx into tiles: host code, transposed_nchw_tile.h has the idea.
#pragma once

#include <algorithm>
#include <limits>

#include "csrc/common/divisor.h"
#include "csrc/common/run_copy.h"
#include "csrc/transposed/transposed_blocks.h"

namespace convbound::transposed {

// 128 threads and about 20 KB of shared memory: 7 blocks share an SM of sm_80 and 10 one of sm_90, if registers (64 at
// 3x3 and 4x4, 80 at 5x5, at most 128 at 7x7) do not stop at 8, 6 and 4.
constexpr int kThreads = 128;
constexpr int64_t kTargetBytes = 20 * 1024;
constexpr int64_t kFewestBlocks = 1024;  // several waves on any GPU, where the tensor is large enough

struct TransposedNchwTile {
  DxBlocks h, w;
  int planes;                                     // whole planes in a tile; 1 where a plane is cut
  int dx_elements, dy_elements, filter_elements;  // of the stages
  int dy_stages;  // one for each plane of dy where a plane is cut, for then they are runs apart
  // stride2: threads of one plane's team, and teams; threads that walk down one group of columns of the tile, and how
  // far; groups of columns.
  int team, teams, segments, steps, columns;

  int64_t shared_bytes(int64_t element_bytes) const {
    return (dx_elements + int64_t{dy_stages} * dy_elements + filter_elements) * element_bytes + int64_t{planes} * 4;
  }
};

template <typename T>
struct TransposedNchwParams : ConvTensors<T> {
  ConvView view;
  TransposedNchwTile tile;
  int64_t planes;
  Divisor channels;
  IndexDivisor tiles, team, columns;
};

// Columns of dx that a thread of the stride-2 kernel makes: two pairs at 5x5, where one has too few FMA for its loads.
constexpr int column_group(int filter) { return filter == 5 ? 4 : 2; }

// Positions of dx, and of dy, that a tile of an axis holds at most.
inline int64_t dx_positions(const AxisView& axis, const DxBlocks& blocks) {
  return std::min<int64_t>(axis.input, int64_t{blocks.tile} * axis.stride);
}
inline int64_t dy_positions(const AxisView& axis, const DxBlocks& blocks) {
  const int64_t reach = (int64_t{axis.filter} - 1) * axis.dilation;
  return std::min<int64_t>(axis.output, blocks.tile + divide_up(reach, axis.stride));
}

inline int64_t fill_stages(TransposedNchwTile& tile, const ConvView& v, int element_bytes) {
  const int64_t dx = tile.planes * dx_positions(v.h, tile.h) * dx_positions(v.w, tile.w);
  const bool is_cut = tile.h.tile < tile.h.count || tile.w.tile < tile.w.count;
  tile.dy_stages = is_cut ? v.outputs : 1;
  // Planes that are not cut follow each other in the stage, with rows that meet padding alone.
  const int64_t rows = is_cut ? dy_positions(v.h, tile.h) : v.h.output;
  const int64_t columns = tile.w.tile < tile.w.count ? dy_positions(v.w, tile.w) : v.w.output;
  const int64_t dy = (is_cut ? 1 : int64_t{tile.planes} * v.outputs) * rows * columns;
  constexpr int64_t kMost = 1 << 20;
  tile.dx_elements = static_cast<int>(std::min(stage_elements(dx, element_bytes), kMost));
  tile.dy_elements = static_cast<int>(std::min(stage_elements(dy, element_bytes), kMost));
  const int64_t taps = int64_t{v.outputs} * v.h.filter * v.w.filter;
  tile.filter_elements = static_cast<int>(std::min(stage_elements(tile.planes * taps, element_bytes), kMost));
  return tile.shared_bytes(element_bytes);
}

// The fewest tiles of an axis that keep to the target, all of nearly one size.
inline bool cut_axis(TransposedNchwTile& tile, DxBlocks& blocks, const ConvView& v, int element_bytes) {
  const int64_t whole = fill_stages(tile, v, element_bytes);
  const int64_t most = int64_t{blocks.count} + 1;
  for (int64_t tiles = std::clamp<int64_t>(whole / kTargetBytes, 1, blocks.count); tiles < most; tiles++) {
    blocks.tile = static_cast<int>(divide_up(blocks.count, tiles));
    if (fill_stages(tile, v, element_bytes) <= kTargetBytes) break;
  }
  blocks.tiles = divide_up(blocks.count, blocks.tile);
  return tile.shared_bytes(element_bytes) <= kTargetBytes;
}

// Threads to a plane, and to a group of its columns, so that the fewest instructions pass: about 40 and one for each
// tap to begin a plane, 40 an item, and per step the FMA and 20, of which the rows above an item are half.
inline void share_out(TransposedNchwTile& tile, const ConvView& v) {
  const int group = column_group(v.h.filter), taps = v.h.filter * v.w.filter, halo = (v.h.filter - 1) / 2;
  tile.columns = static_cast<int>(divide_up(dx_positions(v.w, tile.w), group)) + (tile.w.tiles > 1 ? 1 : 0);
  const int64_t of_step = taps * group / 2 + 20;
  int64_t least = INT64_MAX;
  const int most = tile.h.tile + 1;
  for (int segments = 1; segments < most; segments++) {
    const int steps = divide_up(tile.h.tile, segments);
    const int64_t items = int64_t{segments} * tile.columns;
    for (const int64_t wanted : {items, int64_t{32}, int64_t{64}, int64_t{128}}) {
      const int team = static_cast<int>(std::min<int64_t>(wanted, kThreads)), teams = kThreads / team;
      const int64_t passes = divide_up(items, team);
      const int64_t cost =
          divide_up(tile.planes, teams) * (40 + taps + passes * (40 + steps * of_step + halo * of_step / 2));
      if (cost >= least) continue;
      least = cost;
      tile.segments = segments;
      tile.steps = steps;
      tile.team = team;
      tile.teams = teams;
    }
  }
}

inline TransposedNchwTile choose_tile(const ConvView& v, int element_bytes) {
  TransposedNchwTile tile{};
  tile.h = make_blocks(v.h, std::numeric_limits<int>::max());
  tile.w = make_blocks(v.w, std::numeric_limits<int>::max());
  tile.planes = 1;
  const int64_t planes = v.images * v.groups, one = fill_stages(tile, v, element_bytes);
  if (one <= kTargetBytes) {
    tile.planes = static_cast<int>(std::clamp<int64_t>(planes / kFewestBlocks, 1, kTargetBytes / one));
    if (tile.planes > 16) tile.planes -= tile.planes % 16;  // a tile ends on a sector
    fill_stages(tile, v, element_bytes);
  } else if (!cut_axis(tile, tile.h, v, element_bytes) && v.h.input == 1) {
    cut_axis(tile, tile.w, v, element_bytes);
  }
  share_out(tile, v);
  return tile;
}

template <typename T>
TransposedNchwParams<T> make_params(const ConvView& v) {
  const TransposedNchwTile tile = choose_tile(v, sizeof(T));
  return {{},
          v,
          tile,
          v.images * v.groups,
          Divisor(v.groups),
          IndexDivisor(int64_t{tile.h.tiles} * tile.w.tiles),
          IndexDivisor(tile.team),
          IndexDivisor(tile.columns)};
}

inline std::string tile_text() {
  return std::to_string(kThreads) + " threads, about " + std::to_string(kTargetBytes / 1024) + " KB";
}

template <typename T>
LaunchShape tile_shape(const TransposedNchwParams<T>& params) {
  const TransposedNchwTile& tile = params.tile;
  return {.grid_x = divide_up(params.planes, tile.planes) * tile.h.tiles * tile.w.tiles,
          .block_x = kThreads,
          .shared_bytes = static_cast<size_t>(tile.shared_bytes(sizeof(T)))};
}

}  // namespace convbound::transposed
