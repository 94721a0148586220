// The choice of a tile for the depthwise NHWC kernels. Host code only.
//
// Every block re-reads its halo and its filter, and computes patches that hang over the edge of the output. The plan
// weighs them for each tile that fits in shared memory, in positions of one slice (32 or 64 bytes), and takes the
// least:
//
//   cost = input loaded + outputs computed * max(1, taps / 24) + filter loaded + a constant per block
//
// Small images are taken several to a block, which shares the filter. Fewer blocks than two for each of 132
// multiprocessors cost in proportion.
#include <algorithm>
#include <vector>

#include "csrc/depthwise/depthwise_nhwc_plan.h"

#include "csrc/common/within.h"

namespace convbound::depthwise {

namespace {

constexpr int64_t kPositionsPerBlock = 32;  // what starting a block costs
constexpr int64_t kEnoughBlocks = 2 * 132;

int64_t divide_up(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

int64_t modulo(int64_t value, int64_t modulus) { return (value % modulus + modulus) % modulus; }

// Tiles of so many patches along one axis.
struct AxisTiles {
  int64_t patches, tiles, extent, loaded;  // extent of a tile's input; input coordinates that all tiles load
};

AxisTiles axis_tiles(const Gather& g, int axis, int64_t patch, int64_t patches) {
  AxisTiles a;
  const int64_t step = patches * patch * g.stride[axis];
  a.patches = patches;
  a.tiles = divide_up(g.result[axis], patches * patch);
  a.extent = (patches * patch - 1) * g.stride[axis] + g.extent(axis);
  a.loaded = 0;
  const int64_t counted = std::min<int64_t>(a.tiles, 64);  // beyond that the edges do not matter
  for (int64_t tile = 0; tile < counted; tile++) {
    const int64_t begin = tile * step - g.padding[axis];
    a.loaded += std::max<int64_t>(0, std::min(begin + a.extent, g.source[axis]) - std::max<int64_t>(begin, 0));
  }
  a.loaded = a.loaded * a.tiles / counted;
  return a;
}

std::vector<AxisTiles> all_axis_tiles(const Gather& g, int axis, int64_t patch, int64_t most) {
  const int64_t count = std::min(most, divide_up(g.result[axis], patch));
  std::vector<AxisTiles> found;
  for (int64_t i = 0; i < count; i++) found.push_back(axis_tiles(g, axis, patch, i + 1));
  return found;
}

// Where things lie in the tile: patches that a warp works on together begin on different banks.
void lay_out(TilePlan& plan, const Gather& g, const PatchShape& shape, const AxisTiles& h, const AxisTiles& w) {
  const int64_t residues = 8 / shape.vectors;  // positions in 128 bytes
  const int64_t group = shape.columns * g.stride[1];
  const bool skewed = group % 2 == 0;
  plan.rows = h.extent;
  plan.columns = w.extent;
  plan.column_group = skewed ? group : int64_t{1} << 30;
  plan.row_group = shape.rows * g.stride[0];
  plan.patch_distance = group + skewed;
  plan.pitch = plan.columns + (plan.columns - 1) / plan.column_group;
  plan.row_skew = modulo(plan.patches_w * plan.patch_distance - plan.row_group * plan.pitch, residues);
  plan.image_positions = plan.rows * plan.pitch + (plan.rows - 1) / plan.row_group * plan.row_skew;
  plan.image_positions +=
      modulo(plan.patches_h * plan.patches_w * plan.patch_distance - plan.image_positions, residues);
  plan.tile_bytes = plan.image_positions * plan.images * 16 * shape.vectors;
}

}  // namespace

Gather::Gather(Pass pass, const ConvProblem& p) {
  const bool forward = pass == Pass::kFprop;
  images = p.n;
  channels = forward ? p.k : p.c;
  source_channels = forward ? p.c : p.k;
  per_source = forward ? p.k_per_group() : 1;
  gathered = forward ? 1 : p.k_per_group();
  flip = !forward;
  for (int axis = 0; axis < 2; axis++) {
    filter[axis] = p.filter[axis + 1];
    stride[axis] = p.stride[axis + 1];
    dilation[axis] = p.dilation[axis + 1];
    source[axis] = forward ? p.input[axis + 1] : p.output[axis + 1];
    result[axis] = forward ? p.output[axis + 1] : p.input[axis + 1];
    padding[axis] = forward ? p.padding[axis + 1] : extent(axis) - 1 - p.padding[axis + 1];
  }
}

bool is_gather(Pass pass, const ConvProblem& p) {
  constexpr int64_t kMost = (int64_t{1} << 30) - 1;
  if (!axes_within(p, kMost) || !is_flat(p) || !p.depthwise()) return false;
  if (pass == Pass::kDgrad && (p.stride[1] != 1 || p.stride[2] != 1)) return false;
  return p.c * p.input[2] <= kMost && p.k * p.output[2] <= kMost;
}

TilePlan plan_tile(const Gather& g, const PatchShape& shape) {
  const int64_t most = int64_t{shape.slots} * shape.rounds;
  const int64_t taps = g.filter[0] * g.filter[1];
  const std::vector<AxisTiles> all_h = all_axis_tiles(g, 0, shape.rows, most);
  const std::vector<AxisTiles> all_w = all_axis_tiles(g, 1, shape.columns, most);
  TilePlan best{};
  double least = 0;
  for (const AxisTiles& h : all_h) {
    for (const AxisTiles& w : all_w) {
      const int64_t room = most / (h.patches * w.patches) + 1;
      for (int64_t images = 1; images < room; images *= 2) {
        if (images > 1 && (h.tiles * w.tiles > 1 || images >= 2 * g.images)) break;
        TilePlan plan{};
        plan.patches_h = h.patches;
        plan.patches_w = w.patches;
        plan.images = images;
        plan.tiles_h = h.tiles;
        plan.tiles_w = w.tiles;
        plan.slices = divide_up(g.channels, shape.channels);
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
