// How the implicit GEMM of a filter gradient is cut into tiles and splits. Host code; grouped_wgrad_mma.cu has the
// idea.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "csrc/common/divisor.h"
#include "csrc/common/integers.h"
#include "csrc/common/partial_sums.h"
#include "csrc/common/vector.h"
#include "csrc/common/view.h"

namespace convbound::grouped {

// What a block has: `columns` (tap, channel of x) times `filters` (channels of dy), over `depth` positions at a time.
struct WgradTile {
  int columns, filters, depth;
  int blocks;   // of a multiprocessor
  double cost;  // of a product, against those of the other tiles
};

struct WgradGemmPlan : ConvView {
  int64_t x_image;    // elements of an image of x
  int image_pixels;   // of x
  int64_t positions;  // of dy: images, depths, rows and columns
  int split_positions;
  int column_tiles, filter_tiles;
  int64_t results;  // filter and bias
  int channels;     // of dy
  int splits;

  int64_t blocks() const { return int64_t{column_tiles} * filter_tiles * splits; }
};

inline std::string blocks_beyond(int64_t blocks) {
  constexpr int64_t kMost = (int64_t{1} << 31) - 1;
  return blocks <= kMost ? "" : std::to_string(blocks) + " blocks, at most " + std::to_string(kMost);
}

// Channels of x, in vectors of so many elements, that the groups of `filters` neighbouring channels of dy may have.
inline int64_t most_vectors(const ConvView& view, int filters, int elements) {
  const int of_group = view.outputs;
  const bool whole = of_group % filters == 0 || filters % of_group == 0;
  const int64_t met = whole ? divide_up(filters, of_group) : (filters - 2) / of_group + 2;
  const int64_t channels = std::min(met, int64_t{view.groups}) * view.inputs;
  const int64_t first = filters % of_group == 0 ? int64_t{filters} / of_group * view.inputs : view.inputs;
  const int64_t shifted = first % elements == 0 ? channels : channels + elements - 1;
  return std::min(divide_up(shifted, elements), divide_up(int64_t{view.in_channels()}, elements));
}

// Elements of the matrix of results that the blocks of a tile compute, useful or not, weighted by their cost.
inline double wgrad_cost(const ConvView& view, const WgradTile& tile, int elements) {
  const double columns = static_cast<double>(most_vectors(view, tile.filters, elements)) * view.taps() * elements;
  const double column_tiles = static_cast<double>(divide_up(static_cast<int64_t>(columns), tile.columns));
  return column_tiles * tile.columns * divide_up(view.out_channels(), tile.filters) * tile.filters * tile.cost;
}

// What blocks share out: `tiles` of results, each the sum over `units` of so many positions of dy.
struct WgradWork {
  int64_t tiles, units, most_units;    // most_units: of a block
  int64_t unit_positions, unit_bytes;  // of a tile
  int64_t slots;                       // blocks that the device holds at once
  int64_t results, x_bytes;            // of the problem
};

// Units that one block adds up. Splits fill waves of the device: with 276 blocks where 264 run at once, the last 12
// would take as long as all others. A block costs some units to start and to end. Its sums are written, read again and
// added, and the workspace stays within half of x or 32 MB.
inline int64_t wgrad_split_units(const WgradWork& work) {
  constexpr int64_t kWaves = 9, kStartPositions = 256, kParts = 64;
  const int64_t start = divide_up(kStartPositions, work.unit_positions);
  const int64_t room = std::max<int64_t>(std::max<int64_t>(work.x_bytes / 2, 32 << 20) / (4 * work.results), 1);
  // Of one split, in parts of the time of a unit.
  const int64_t adding = divide_up(kParts * 8 * work.results, work.slots * work.unit_bytes);
  int64_t best = 0, least = 0;
  for (int64_t waves = 0; waves < kWaves; waves++) {
    const int64_t most = std::clamp<int64_t>(waves * work.slots / work.tiles, 1, room);
    const int64_t share = std::min(divide_up(work.units, most), work.most_units);
    const int64_t splits = divide_up(work.units, share);
    const int64_t rounds = divide_up(work.tiles * splits, work.slots);
    const int64_t time = rounds * (share + start) * kParts + (splits > 1 ? splits * adding : 0);
    if (best == 0 || time < least) best = share, least = time;
  }
  return best;
}

// Pixels of x that a split may meet, so that 32 bits count them.
constexpr int64_t kMostPixels = 1 << 30;

// Why columns and pixels of a problem cannot be counted, or nothing.
inline std::string wgrad_size_beyond(const ConvProblem& p) {
  constexpr int64_t kMost = (1 << 30) - 1, kMostColumns = 1 << 26;
  if (std::string beyond = size_beyond(p, kMost); !beyond.empty()) return beyond;
  if (p.filter_size() > kMostColumns / p.c) {
    return std::to_string(p.filter_size()) + " taps of " + std::to_string(p.c) + " channels, at most 2^26";
  }
  // A stage has 32 positions of dy.
  if (p.input_size() > kMostPixels / std::min(p.n, 32 / p.output_size() + 2)) {
    return "images of " + std::to_string(p.input_size()) + " positions: too many for 32 bits";
  }
  return {};
}

// `elements`: of a vector.
inline WgradGemmPlan plan_wgrad_gemm(const ConvProblem& p, const Device& device, const WgradTile& tile, int elements) {
  WgradGemmPlan plan{};
  static_cast<ConvView&>(plan) = view_of(p);
  plan.image_pixels = static_cast<int>(p.input_size());
  plan.x_image = p.input_size() * p.c;
  plan.positions = p.n * p.output_size();
  plan.channels = static_cast<int>(p.k);
  plan.results = p.k * (p.c_per_group() * p.filter_size() + 1);

  const int64_t vectors = most_vectors(plan, tile.filters, elements);
  plan.column_tiles = static_cast<int>(divide_up(p.filter_size() * vectors * elements, tile.columns));
  plan.filter_tiles = divide_up(plan.channels, tile.filters);
  const int64_t depths = divide_up(plan.positions, tile.depth), bytes = kVectorBytes / elements;
  const int64_t most_depths = (kMostPixels / p.input_size() - 2) * p.output_size() / tile.depth;
  const int64_t share = wgrad_split_units({.tiles = int64_t{plan.column_tiles} * plan.filter_tiles,
                                           .units = depths,
                                           .most_units = std::clamp<int64_t>(most_depths, 1, 1 << 20),
                                           .unit_positions = tile.depth,
                                           .unit_bytes = tile.depth * (tile.columns + tile.filters) * bytes,
                                           .slots = int64_t{device.sms} * tile.blocks,
                                           .results = plan.results,
                                           .x_bytes = p.n * plan.x_image * bytes});
  plan.split_positions = static_cast<int>(share * tile.depth);
  plan.splits = static_cast<int>(divide_up(depths, share));
  return plan;
}

}  // namespace convbound::grouped
