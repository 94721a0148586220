// The choice of a tile for the depthwise NHWC kernels: how a block shares the output out. Host code.
//
// Every block reads its halo and its filter again, and computes patches that hang over the edge of the output. The plan
// weighs these for each tile that fits in shared memory, in positions of one slice (32 or 64 bytes), and takes the
// least:
//
//   cost = input loaded + outputs computed * max(1, taps / 24) + filter loaded + a constant per block
//
// A block takes several small images, which share the filter. Where there are fewer than two blocks for each of 132
// multiprocessors, the cost grows in proportion.
#pragma once

#include <algorithm>
#include <vector>

#include "csrc/common/integers.h"
#include "csrc/common/kernel.h"
#include "csrc/common/view.h"

namespace convbound::depthwise {

// What the kernels can compute of a problem at all: depthwise, at most 2-D, coordinates and row sizes in 32 bits.
inline std::string nhwc_refuse(Pass pass, const ConvProblem& p) {
  constexpr int64_t kMost = (int64_t{1} << 30) - 1;
  const std::string reason = first_of({size_beyond(p, kMost), not_depthwise_2d(p)});
  if (!reason.empty()) return reason;
  if (pass == Pass::kDgrad && (p.stride[1] != 1 || p.stride[2] != 1)) return "dgrad of a stride";
  return p.c * p.input[2] <= kMost && p.k * p.output[2] <= kMost ? "" : "a row of all channels beyond 2^30 elements";
}

// An instance's side of the choice of a tile.
struct PatchShape {
  int vectors, channels, rows, columns, slots;  // as in PatchTraits
  int64_t tile_bytes;                           // at most, unless one patch needs more
  int rounds;                                   // patches that a lane computes one after the other, at most
};

// The tile of a block, in patches, positions and blocks; see depthwise_nhwc_tile.h.
struct NhwcTilePlan {
  int64_t patches_h, patches_w, images;  // of a block
  int64_t rows, columns;                 // of the input under them
  int64_t column_group, row_group;       // a position is skipped after so many columns, row_skew after so many rows
  int64_t pitch, row_skew, image_positions;
  int64_t patch_distance;  // of neighbours, in positions
  int64_t tiles_h, tiles_w, slices, blocks;
  int64_t tile_bytes;
};

constexpr int64_t kPositionsPerBlock = 32;  // what starting a block costs
constexpr int64_t kEnoughBlocks = 2 * 132;

// Tiles of so many patches along one axis.
struct AxisTiles {
  int64_t patches, tiles, extent, loaded;  // extent of a tile's input; input coordinates that all tiles load
};

inline AxisTiles axis_tiles(const AxisView& axis, int64_t patch, int64_t patches) {
  AxisTiles a;
  const int64_t step = patches * patch * axis.stride;
  a.patches = patches;
  a.tiles = divide_up(axis.output, patches * patch);
  a.extent = (patches * patch - 1) * axis.stride + axis.extent();
  a.loaded = 0;
  const int64_t counted = std::min<int64_t>(a.tiles, 64);  // beyond that the edges do not matter
  for (int64_t tile = 0; tile < counted; tile++) {
    const int64_t begin = tile * step - axis.padding;
    a.loaded += std::max<int64_t>(0, std::min<int64_t>(begin + a.extent, axis.input) - std::max<int64_t>(begin, 0));
  }
  a.loaded = a.loaded * a.tiles / counted;
  return a;
}

inline std::vector<AxisTiles> all_axis_tiles(const AxisView& axis, int64_t patch, int64_t most) {
  const int64_t count = std::min(most, divide_up(axis.output, patch));
  std::vector<AxisTiles> found;
  for (int64_t i = 0; i < count; i++) found.push_back(axis_tiles(axis, patch, i + 1));
  return found;
}

// Where things lie in the tile: patches that a warp works on together begin on different banks.
inline void lay_out(NhwcTilePlan& plan, const ConvView& g, const PatchShape& shape, const AxisTiles& h,
                    const AxisTiles& w) {
  const int64_t residues = 8 / shape.vectors;  // positions in 128 bytes
  const int64_t group = shape.columns * g.w.stride;
  const bool skewed = group % 2 == 0;
  plan.rows = h.extent;
  plan.columns = w.extent;
  plan.column_group = skewed ? group : int64_t{1} << 30;
  plan.row_group = shape.rows * g.h.stride;
  plan.patch_distance = group + skewed;
  plan.pitch = plan.columns + (plan.columns - 1) / plan.column_group;
  plan.row_skew = modulo(plan.patches_w * plan.patch_distance - plan.row_group * plan.pitch, residues);
  plan.image_positions = plan.rows * plan.pitch + (plan.rows - 1) / plan.row_group * plan.row_skew;
  plan.image_positions +=
      modulo(plan.patches_h * plan.patches_w * plan.patch_distance - plan.image_positions, residues);
  plan.tile_bytes = plan.image_positions * plan.images * 16 * shape.vectors;
}

inline NhwcTilePlan plan_tile(const ConvView& g, const PatchShape& shape) {
  const int64_t most = int64_t{shape.slots} * shape.rounds;
  const int64_t taps = g.taps();
  const std::vector<AxisTiles> all_h = all_axis_tiles(g.h, shape.rows, most);
  const std::vector<AxisTiles> all_w = all_axis_tiles(g.w, shape.columns, most);
  NhwcTilePlan best{};
  double least = 0;
  for (const AxisTiles& h : all_h) {
    for (const AxisTiles& w : all_w) {
      const int64_t room = most / (h.patches * w.patches) + 1;
      for (int64_t images = 1; images < room; images *= 2) {
        if (images > 1 && (h.tiles * w.tiles > 1 || images >= 2 * g.images)) break;
        NhwcTilePlan plan{};
        plan.patches_h = h.patches;
        plan.patches_w = w.patches;
        plan.images = images;
        plan.tiles_h = h.tiles;
        plan.tiles_w = w.tiles;
        plan.slices = divide_up(int64_t{g.out_channels()}, shape.channels);
        plan.blocks = plan.slices * h.tiles * w.tiles * divide_up(g.images, images);
        lay_out(plan, g, shape, h, w);
        if (plan.tile_bytes > shape.tile_bytes && h.patches * w.patches * images > 1) break;
        const int64_t computed =
            divide_up(h.patches * w.patches * images, shape.slots) * shape.slots * shape.rows * shape.columns;
        const double per_block = static_cast<double>(taps + kPositionsPerBlock) +
                                 static_cast<double>(computed) * std::max(1.0, static_cast<double>(taps) / 24);
        const double cost = (static_cast<double>(h.loaded * w.loaded * g.images * plan.slices) +
                             per_block * static_cast<double>(plan.blocks)) *
                            static_cast<double>(std::max(plan.blocks, kEnoughBlocks)) /
                            static_cast<double>(plan.blocks);
        if (best.blocks == 0 || cost < least) {
          best = plan;
          least = cost;
        }
      }
    }
  }
  return best;
}

}  // namespace convbound::depthwise
