// The choice of a tile for grouped_small (grouped_small_nhwc.cu): which channels and which outputs a block owns, and
// where their inputs lie in shared memory. Host code.
//
// Every tile reads its halo again and computes octets that hang over the edge of the output. The plan weighs both for
// each tile that fits, in vectors of 8 channels at one position, and takes the least:
//
//   cost = sectors per vector * (inputs read + outputs written) + outputs computed * steps of mma / 8 + a constant
//
// Where there are fewer than two blocks for each of 132 multiprocessors, the cost grows in proportion.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "csrc/common/integers.h"
#include "csrc/common/kernel.h"
#include "csrc/common/phases.h"

namespace convbound::grouped {

constexpr int kSlab = 8;   // channels of one slab: 16 bytes of each position
constexpr int kOctet = 8;  // neighbouring columns of the output: half of the rows that mma multiplies
constexpr int kBand = 8;   // rows of the output that a warp marches through
constexpr int kSmallThreads = 128, kSmallWarps = kSmallThreads / 32;
constexpr int kMostPerGroup = 16;
constexpr int kMostPhases = 8;     // along one axis
constexpr int kFragmentBytes = 8;  // of B, for a lane and a step

// Two taps that one step multiplies: where they lie, in bytes from the first tap of the tile, and their numbers in a
// filter. The second of an odd tap has the number -1 and the place of the first.
struct SmallStep {
  int offset[2], tap[2];
};

// A phase (phases.h) within a tile: the place of its first tap.
struct SmallPhase {
  int first, taps, tap_first;
};

// An axis: output number j of a phase, of those that a tile has, reads the tile's inputs at j * in_step + phase.first +
// i * in_tap.
struct SmallAxis {
  int inputs, outputs, filter;
  int in_step, out_step;
  int in_tap, tap_step;
  int lowest;               // where the inputs of the first tile begin
  int span;                 // inputs from the first tap to the last one
  int tile, extent, tiles;  // outputs of a phase, inputs under them, tiles
  int phases;
  SmallPhase phase[kMostPhases];
};

struct SmallPlan {
  SmallAxis d, h, w;
  int images;  // of a tile
  // Slabs that a block reads and writes; how many of those it reads meet one slab that it writes.
  int in_slabs, out_slabs, depth_slabs;
  int warps_of_slab;
  int march;  // the side of the filter that the kernel is specialised for, or 0
  int steps;  // of mma for one slab and one slab
  int slab_groups;
  int tiles, tile_groups, tiles_of_block;
  // Of a tile in shared memory, in positions of 16 bytes; slabs in bytes. Columns are split by their remainder modulo
  // the step of the input: the columns that 8 neighbouring outputs read are neighbours, and ldmatrix has no conflicts.
  int column_class, row_pitch, depth_pitch, image_pitch;
  int in_pitch, out_pitch;
  int tile_bytes, stage_bytes, filter_bytes;

  constexpr int phases() const { return d.phases * h.phases * w.phases; }
  constexpr int octets() const { return images * d.tile * (march > 0 ? h.tile / kBand : h.tile) * (w.tile / kOctet); }
  int64_t shared_bytes() const { return int64_t{tile_bytes} + stage_bytes + filter_bytes; }
};

namespace small {

inline std::string refuse(const ConvProblem& p, Pass pass) {
  constexpr int64_t kMost = int64_t{1} << 28;
  if (std::string reason = size_beyond(p, kMost); !reason.empty()) return reason;
  if (p.c_per_group() > kMostPerGroup || p.k_per_group() > kMostPerGroup) return "more than 16 channels in a group";
  for (int i = 0; i < 3; i++) {
    const std::string axis = std::string(" along ") + "dhw"[i];
    if (std::max(p.input[i], std::abs(p.padding[i])) > kMost) return "a size beyond 2^28" + axis;
    if (pass == Pass::kDgrad && std::min(p.stride[i], p.input[i]) > kMostPhases) return "a stride beyond 8" + axis;
  }
  return {};
}

inline SmallAxis axis_of(Pass pass, const AxisView& axis) {
  const int phases = phases_of(pass, axis);
  SmallAxis found{};
  int64_t lowest = 0, highest = 0;
  bool any = false;
  for (int i = 0; i < phases; i++) {
    const AxisPhase phase = phase_of(pass, axis, i);
    found.inputs = phase.inputs;
    found.in_step = phase.in_step;
    found.out_step = phase.out_step;
    found.in_tap = phase.in_tap;
    found.tap_step = phase.tap_step;
    found.phase[i] = {phase.in_first, phase.taps, phase.tap_first};
    if (phase.taps == 0) continue;
    const int64_t last = phase.in_first + (int64_t{phase.taps} - 1) * phase.in_tap;
    lowest = any ? std::min({lowest, int64_t{phase.in_first}, last}) : std::min(int64_t{phase.in_first}, last);
    highest = any ? std::max({highest, int64_t{phase.in_first}, last}) : std::max(int64_t{phase.in_first}, last);
    any = true;
  }
  for (int i = 0; i < phases; i++) found.phase[i].first = any ? found.phase[i].first - static_cast<int>(lowest) : 0;
  found.outputs = pass == Pass::kDgrad ? axis.input : axis.output;
  found.filter = axis.filter;
  found.lowest = static_cast<int>(lowest);
  found.span = static_cast<int>(highest - lowest + 1);
  found.phases = phases;
  return found;
}

inline int64_t phase_outputs(const SmallAxis& axis) { return divide_up(int64_t{axis.outputs}, axis.out_step); }

// A tile along an axis, and the inputs that all tiles read together.
struct AxisTile {
  int64_t tile, tiles, extent, loaded;
};

inline AxisTile tile_of(const SmallAxis& axis, int64_t tile) {
  AxisTile found{tile, divide_up(phase_outputs(axis), tile), (tile - 1) * axis.in_step + axis.span, 0};
  const int64_t counted = std::min<int64_t>(found.tiles, 32);  // beyond that the edges do not matter
  for (int64_t i = 0; i < counted; i++) {
    const int64_t begin = i * tile * axis.in_step + axis.lowest;
    found.loaded +=
        std::max<int64_t>(0, std::min<int64_t>(begin + found.extent, axis.inputs) - std::max<int64_t>(begin, 0));
  }
  found.loaded = found.loaded * found.tiles / counted;
  return found;
}

// Tiles of up to so many units, those that share the axis out most evenly.
inline std::vector<AxisTile> tiles_along(const SmallAxis& axis, int unit, int most_units) {
  const int64_t units = divide_up(phase_outputs(axis), unit);
  std::vector<AxisTile> found;
  for (int64_t most = std::min<int64_t>(most_units, units); most > 0; most--) {
    const int64_t even = divide_up(units, divide_up(units, most)) * unit;
    if (found.empty() || found.back().tile != even) found.push_back(tile_of(axis, even));
  }
  return found;
}

// The first and the last slab of inputs that a slab of outputs meets.
inline int first_slab(const ConvView& v, int64_t out_slab) {
  return static_cast<int>(out_slab * kSlab / v.outputs * v.inputs / kSlab);
}

inline int last_slab(const ConvView& v, int64_t out_slab) {
  const int64_t channel = std::min<int64_t>(out_slab * kSlab + kSlab, v.out_channels()) - 1;
  return static_cast<int>((channel / v.outputs * v.inputs + v.inputs - 1) / kSlab);
}

// How many slabs of inputs so many neighbouring slabs of outputs meet at most. Where groups lie in slabs repeats.
inline int slabs_met(const ConvView& v, int out_slabs) {
  const int64_t all = divide_up(int64_t{v.out_channels()}, kSlab);
  const int64_t period = std::lcm(int64_t{v.outputs}, int64_t{out_slabs} * kSlab) * kSlab;
  int most = 0;
  const int64_t end = std::min(all, period / kSlab);
  for (int64_t slab = 0; slab < end; slab += out_slabs) {
    most = std::max(most, last_slab(v, std::min(slab + out_slabs, all) - 1) - first_slab(v, slab) + 1);
  }
  return most;
}

// Bytes of so many vectors, so that as many slabs lie on different banks at one position as make 128 bytes.
inline int64_t pitch_of(int64_t vectors, int slabs) {
  const int64_t apart = slabs == 1 ? 1 : slabs == 2 ? 4 : slabs <= 4 ? 2 : 1;
  return (vectors + modulo(apart - vectors, 8)) * 16;
}

// Vectors are half sectors. Slabs side by side share them where all positions begin at a sector.
inline double sectors_per_vector(int64_t channels, int slabs) {
  if (slabs == 1) return channels > kSlab ? 1.0 : 0.75;
  return channels % 16 == 0 ? 0.5 : 0.5 + 0.5 / slabs;
}

// Fills in the rest of a plan for a tile; false where the tile is too large for 32 bits.
inline bool lay_out(SmallPlan& plan, const AxisTile& d, const AxisTile& h, const AxisTile& w) {
  constexpr int64_t kMost = int64_t{1} << 20;
  for (const AxisTile* axis : {&d, &h, &w}) {
    if (axis->extent > kMost || axis->tile > kMost) return false;
  }
  const auto set = [](SmallAxis& axis, const AxisTile& tile) {
    axis.tile = static_cast<int>(tile.tile);
    axis.extent = static_cast<int>(tile.extent);
    axis.tiles = static_cast<int>(tile.tiles);
  };
  set(plan.d, d), set(plan.h, h), set(plan.w, w);
  plan.column_class = divide_up(plan.w.extent, plan.w.in_step);
  plan.row_pitch = std::min(plan.w.in_step, plan.w.extent) * plan.column_class;
  const int64_t depth_pitch = int64_t{plan.row_pitch} * plan.h.extent;
  const int64_t positions = depth_pitch * plan.d.extent * plan.images;
  const int64_t outputs = d.tile * h.tile * w.tile * plan.images;
  if (depth_pitch > kMost || positions > kMost || outputs > kMost) return false;
  plan.depth_pitch = static_cast<int>(depth_pitch);
  plan.image_pitch = plan.depth_pitch * plan.d.extent;
  plan.in_pitch = static_cast<int>(pitch_of(positions, plan.in_slabs));
  plan.out_pitch = static_cast<int>(pitch_of(outputs, plan.out_slabs));
  const int64_t tile = int64_t{plan.in_pitch} * plan.in_slabs, stage = int64_t{plan.out_pitch} * plan.out_slabs;
  if (tile + stage + plan.filter_bytes > kMostSharedBytes) return false;
  plan.tile_bytes = static_cast<int>(tile);
  plan.stage_bytes = static_cast<int>(stage);
  return true;
}

inline double cost_of(const SmallPlan& plan, const ConvView& view, const AxisTile& d, const AxisTile& h,
                      const AxisTile& w) {
  constexpr double kTileCost = 256, kEnoughBlocks = 2 * 132, kHalf = 48 * 1024;
  const auto image_groups = static_cast<double>(divide_up(view.images, int64_t{plan.images}));
  const double tiles = image_groups * static_cast<double>(d.tiles) * static_cast<double>(h.tiles * w.tiles);
  const double blocks = tiles * plan.slab_groups;
  const double read =
      static_cast<double>(d.loaded) * static_cast<double>(h.loaded * w.loaded) * static_cast<double>(view.images);
  const double computed = tiles * static_cast<double>(d.tile * h.tile * w.tile) * plan.images;
  const double moved = read * plan.in_slabs * sectors_per_vector(view.in_channels(), plan.in_slabs) +
                       computed * plan.out_slabs * sectors_per_vector(view.out_channels(), plan.out_slabs);
  const double multiplied = computed * plan.out_slabs * plan.depth_slabs * plan.steps / 16;
  const double crowded = plan.shared_bytes() > kHalf ? 1.5 : 1.0;  // too few blocks share a multiprocessor
  return (plan.slab_groups * (2 * moved + multiplied) + blocks * kTileCost) * crowded *
         std::max(blocks, kEnoughBlocks) / blocks;
}

inline int64_t all_tiles(const SmallPlan& plan, int64_t images) {
  int64_t tiles = divide_up(images, int64_t{plan.images});
  for (const SmallAxis* axis : {&plan.d, &plan.h, &plan.w}) tiles = std::min(tiles, int64_t{1} << 31) * axis->tiles;
  return tiles;
}

// How the tiles of a plan are shared out: a block walks several where there are more than enough blocks.
inline void share_out(SmallPlan& plan, int64_t images) {
  constexpr int64_t kBlocks = 4 * 132, kMostTiles = 8;
  const int64_t tiles = all_tiles(plan, images);
  const int64_t of_block = std::clamp<int64_t>(tiles * plan.slab_groups / kBlocks, 1, kMostTiles);
  plan.tiles = static_cast<int>(tiles);
  plan.tiles_of_block = static_cast<int>(of_block);
  plan.tile_groups = static_cast<int>(divide_up(tiles, of_block));
}

// Steps of mma for a slab of outputs and a slab of inputs: two taps each, along W.
inline int64_t steps_of(const SmallAxis (&axes)[3]) {
  int64_t steps = 1;
  for (int axis = 0; axis < 3; axis++) {
    const int at_once = axis == 2 ? 2 : 1;
    int64_t along = 0;
    const int phases = axes[axis].phases;
    for (int i = 0; i < phases; i++) along += divide_up(axes[axis].phase[i].taps, at_once);
    steps = std::min(steps * along, kMostSharedBytes);
  }
  return steps;
}

// Tries all tiles for one number of slabs.
inline void improve(SmallPlan& best, double& least, SmallPlan plan, const ConvView& view) {
  const int row_unit = plan.march > 0 ? kBand : 1;
  for (const AxisTile& d : tiles_along(plan.d, 1, 8)) {
    for (const AxisTile& h : tiles_along(plan.h, row_unit, 64 / row_unit)) {
      for (const AxisTile& w : tiles_along(plan.w, kOctet, 32)) {
        const int64_t end = d.tiles * h.tiles * w.tiles > 1 ? 2 : std::min<int64_t>(view.images, 64) + 1;
        for (int images = 1; images < end; images *= 2) {
          plan.images = images;
          if (!lay_out(plan, d, h, w)) break;
          const double cost = cost_of(plan, view, d, h, w);
          if (best.images == 0 || cost < least) best = plan, least = cost;
        }
      }
    }
  }
}

}  // namespace small

// The plan for a problem as its pass sees it: the view has the channels that are summed over as inputs. `march` is the
// side of the filter where a kernel is specialised for it, else 0. A plan without images where no tile fits.
inline SmallPlan plan_small(const ConvView& view, const SmallAxis (&axes)[3], int march) {
  SmallPlan best{};
  double least = 0;
  const int all_slabs = divide_up(view.out_channels(), kSlab);
  const int64_t steps = small::steps_of(axes);
  for (const int out_slabs : {1, 2, 4}) {
    if (out_slabs > 1 && out_slabs >= 2 * all_slabs) break;
    SmallPlan plan{};
    plan.d = axes[0], plan.h = axes[1], plan.w = axes[2];
    plan.in_slabs = small::slabs_met(view, out_slabs);
    plan.out_slabs = out_slabs;
    plan.warps_of_slab = kSmallWarps / out_slabs;
    plan.depth_slabs = small::slabs_met(view, 1);
    plan.march = march;
    plan.slab_groups = divide_up(all_slabs, out_slabs);
    const int64_t step_bytes = int64_t{out_slabs} * plan.depth_slabs * 32 * kFragmentBytes + int64_t{sizeof(SmallStep)};
    if (march == 0 && steps * step_bytes > kMostSharedBytes) break;
    plan.steps = static_cast<int>(steps);
    plan.filter_bytes = march > 0 ? 0 : static_cast<int>(steps * step_bytes);
    small::improve(best, least, plan, view);
  }
  if (best.images > 0) small::share_out(best, view.images);
  return best;
}

}  // namespace convbound::grouped
