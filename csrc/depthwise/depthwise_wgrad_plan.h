// How a depthwise wgrad is cut up: which taps, columns, rows, images and channels a block takes, and what its stages of
// shared memory hold. Host code, from the problem alone; csrc/depthwise/depthwise_wgrad.h has the idea.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "csrc/common/partial_sums.h"
#include "csrc/common/wgrad_sizes.h"
#include "csrc/common/within.h"

namespace convbound::depthwise {

// The walks of a thread through the rows of dy, with a tile of filter taps each.
//
// kSliding  stride kStride, dilation 1: the last rows of dy stay in registers, so that every x is loaded once per
// filter
//           column, not once per tap.
// kPlain    any stride and dilation: every tap loads its x.
// kFolded   one row per plane (1-D, channels first), cut into rows of as many columns as there are threads.
enum class Walk { kSliding, kPlain, kFolded };

template <int kRows_, int kCols_, int kStride_, int kWarps_>
struct Sliding {
  static constexpr Walk kWalk = Walk::kSliding;
  static constexpr int kRows = kRows_, kCols = kCols_, kStride = kStride_, kWarps = kWarps_;
};
template <int kRows_, int kCols_, int kWarps_>
struct Plain {
  static constexpr Walk kWalk = Walk::kPlain;
  static constexpr int kRows = kRows_, kCols = kCols_, kStride = 1, kWarps = kWarps_;
};
template <int kCols_, int kWarps_>
struct Folded {
  static constexpr Walk kWalk = Walk::kFolded;
  static constexpr int kRows = 1, kCols = kCols_, kStride = 1, kWarps = kWarps_;
};

constexpr int round_up(int64_t value, int64_t to) { return divide_up(value, to) * static_cast<int>(to); }

template <typename T, Layout kLayout, typename Tile>
struct WgradTraits {
  static constexpr bool kChannelsLast = kLayout == Layout::kChannelsLast;
  static constexpr bool kSliding = Tile::kWalk == Walk::kSliding;
  static constexpr bool kFolded = Tile::kWalk == Walk::kFolded;
  static constexpr int kThreads = 32 * Tile::kWarps;
  static constexpr int kTaps = Tile::kRows * Tile::kCols;
  static constexpr int kValues = kTaps + 1;  // and the bias gradient

  // Adjacent columns of dy per thread: two share most of their x. In NCHW the lanes of a warp are columns, and two
  // columns of 4 bytes, or two of every other column of x, would take two wavefronts a load; where the tile is so large
  // that arithmetic hides them, two are taken nevertheless. A filter of one column has nothing to share.
  static constexpr bool kTwoColumns =
      kSliding && (kChannelsLast ? Tile::kCols > 1 : (sizeof(T) == 2 && Tile::kStride == 1) || kTaps > 49);
  static constexpr int kColumns = kTwoColumns ? 2 : 1;
  static constexpr int kSpan = (kColumns - 1) * Tile::kStride + Tile::kCols;  // columns of x that they meet
  // Rows of dy in registers.
  static constexpr int kDepth = kSliding ? divide_up(Tile::kRows, Tile::kStride) : 1;

  // Registers: the sums, the window, a row of x, and about 56 for addresses and counters.
  static constexpr int kRegisters = round_up(kValues + kDepth * kColumns + kSpan + 56, 8);
  static constexpr int kBlocks = std::clamp(65536 / (kThreads * kRegisters), 1, 2048 / kThreads / 2);

  // What a stage should have, in bytes.
  static constexpr int kStageBytes = kSliding && kTaps < 50 ? (kChannelsLast ? 12 : 7) * 1024 : 16 * 1024;
  static constexpr int kBatch = kValues < 16 ? kValues : 16;  // values that the block adds up at a time
  static constexpr int kResults = kValues | 1;                // odd, for 32 channels to be on 32 banks
  static_assert(kColumns + kSpan < 32, "bit masks hold the valid columns");
};

// Everything in elements, unless it says bytes. The filter is cut into tiles of taps; a *slot* is a group of threads
// that walks down one unit of work: the columns [column, column + columns) of a strip of rows of one image.
struct WgradPlan : WgradSizes {
  int images;
  int tile_columns, tiles, block_tiles, tile_groups;
  int groups, warp_slots, tile_warps, slots, block_channels;  // groups: threads across a slot; slots: per block
  int columns, column_tiles, strip_rows, strips, units, block_units, splits;
  int steps, chunk_steps, chunks, stages;
  int x_columns, x_pitch, dy_pitch, x_slot_bytes, dy_slot_bytes, stage_bytes;  // pitches in bytes
  unsigned x_reciprocal, dy_reciprocal;                                        // 2^32 / columns of a tile
  bool whole_rows;  // of the input, so that consecutive rows are one run of memory (channels first)

  int channel_blocks, threads;
  size_t shared_bytes;
};

// The plan for blocks of at most that many warps, or one with no threads where it does not fit into shared memory or
// has threads for twice the work that there is.
template <typename T, Layout kLayout, typename Tile>
WgradPlan plan_wgrad(const ConvProblem& problem, int warps) {
  using Traits = WgradTraits<T, kLayout, Tile>;
  constexpr int kSize = sizeof(T), kDepth = Traits::kDepth, kColumns = Traits::kColumns;
  constexpr bool kChannelsLast = Traits::kChannelsLast, kFolded = Traits::kFolded;
  constexpr int kLargestShared = 96 * 1024, kThreeStages = 36 * 1024;

  WgradPlan plan{};
  static_cast<WgradSizes&>(plan) = wgrad_sizes(problem, kLayout);
  plan.images = static_cast<int>(problem.n);

  // Filter: all tiles of taps in one block where its warps suffice, since then x and dy are read once.
  plan.tile_columns = divide_up(plan.s, Tile::kCols);
  plan.tiles = divide_up(plan.r, Tile::kRows) * plan.tile_columns;
  const int most_tiles = kChannelsLast ? 1 : std::min(plan.tiles, warps);

  // Columns: as many as the threads of a tile reach.
  const int most_groups = (warps / most_tiles) * (kChannelsLast ? 1 : 32);
  if (kFolded) {
    plan.columns = std::min(most_groups, plan.q);
    plan.p = divide_up(plan.q, plan.columns);
    plan.column_tiles = 1;
  } else {
    plan.column_tiles = divide_up(plan.q, most_groups * kColumns);
    const int multiple = plan.column_tiles == 1 || kChannelsLast ? kColumns : 16;
    plan.columns = round_up(divide_up(plan.q, plan.column_tiles), multiple);
    plan.column_tiles = divide_up(plan.q, plan.columns);
  }
  plan.groups = divide_up(plan.columns, kColumns);
  const int slot_warps = kChannelsLast ? plan.groups : divide_up(plan.groups, 32);
  plan.block_tiles = std::min(most_tiles, warps / slot_warps);
  plan.tile_groups = divide_up(plan.tiles, plan.block_tiles);
  plan.block_tiles = divide_up(plan.tiles, plan.tile_groups);
  plan.tile_warps = warps / plan.block_tiles / slot_warps * slot_warps;
  plan.threads = 32 * plan.tile_warps * plan.block_tiles;
  plan.warp_slots = kChannelsLast || plan.groups > 32 ? 1 : 32 / plan.groups;
  plan.slots = plan.tile_warps / slot_warps * plan.warp_slots;
  plan.whole_rows = !kChannelsLast && !kFolded && plan.column_tiles == 1;

  // Channels: planes of less than 8 sectors would waste too much of the first and the last of them, so that the slots
  // of a warp take planes that follow each other.
  const int64_t x_plane = static_cast<int64_t>(plan.h) * plan.w * kSize;
  const int64_t dy_plane = static_cast<int64_t>(plan.p) * plan.q * kSize;
  const bool small = std::min(x_plane, dy_plane) < 256 && std::max(x_plane, dy_plane) < 1024;
  plan.block_channels = 1;
  if (kChannelsLast) {
    plan.block_channels = 32;
  } else if (plan.whole_rows && small && plan.multiplier == 1 && plan.warp_slots > 1) {
    plan.block_channels = plan.warp_slots;
    plan.slots /= plan.warp_slots;
  }
  plan.channel_blocks = divide_up(plan.channels, plan.block_channels);
  const bool whole_planes = !kChannelsLast && plan.block_channels > 1;

  // Strips of rows, where images and channels give too few blocks for a GPU.
  const int64_t columns_of_work = static_cast<int64_t>(plan.images) * plan.column_tiles;
  const int64_t parallel = static_cast<int64_t>(plan.channel_blocks) * plan.tile_groups;
  constexpr int kMultiprocessors = 132, kLeastBlocks = 2 * kMultiprocessors;
  const int64_t blocks = parallel * divide_up(columns_of_work, plan.slots);
  const auto strips_for = [&](int least_blocks, int least_rows) -> int64_t {
    const int64_t wanted = divide_up(least_blocks * plan.slots, parallel * columns_of_work);
    return blocks < least_blocks ? std::min<int64_t>(wanted, std::max(1, plan.p / least_rows)) : 1;
  };
  const int long_rows = kFolded || plan.w == 1 ? 32 : 0;
  int64_t strips = strips_for(kLeastBlocks, std::max({4 * kDepth, 8, long_rows}));
  // Half of the GPU idle is worse than reading half of x twice.
  if (blocks * strips < kMultiprocessors) strips = strips_for(kMultiprocessors, std::max({kDepth + 2, 4, long_rows}));
  // One row of threads of a long sequence is a unit of at most this many rows, so that there are units for all slots.
  constexpr int kMostRows = 512;
  strips = whole_planes ? 1 : std::max<int64_t>(strips, divide_up(plan.p, kMostRows));
  plan.strip_rows = divide_up(plan.p, strips);
  plan.strips = divide_up(plan.p, plan.strip_rows);
  const int64_t units = columns_of_work * plan.strips;
  plan.units = static_cast<int>(units);

  // Stages: all rows of a unit, or as many as fit, a multiple of the rows that the walk keeps.
  const int tile_rows = divide_up(plan.r, Tile::kRows);
  // Rows of x that a step meets beyond the first one, over all tiles of a block.
  const int block_tile_rows = std::min(tile_rows, divide_up(plan.block_tiles - 1, plan.tile_columns) + 1);
  const int beyond = Traits::kSliding ? plan.stride_h - 1 + (block_tile_rows - 1) * Tile::kRows
                                      : (block_tile_rows * Tile::kRows - 1) * plan.dilation_h;
  const int tap_columns = plan.block_tiles > 1 || plan.tile_groups == 1 ? plan.tile_columns * Tile::kCols : Tile::kCols;
  plan.x_columns = (plan.columns - 1) * plan.stride_w + (tap_columns - 1) * plan.dilation_w + 1;
  // Pitches in bytes are counted in 32 bits.
  if (plan.x_columns > kLargestShared && !plan.whole_rows && !kFolded) return {};
  if (kChannelsLast) {
    plan.x_pitch = plan.x_columns * 32 * kSize, plan.dy_pitch = plan.columns * 32 * kSize;
  } else if (plan.whole_rows || kFolded) {
    plan.x_pitch = plan.w * kSize, plan.dy_pitch = plan.q * kSize;
  } else {
    plan.x_pitch = round_up(plan.x_columns * kSize + 48, 16), plan.dy_pitch = round_up(plan.columns * kSize + 48, 16);
  }
  const auto slot_bytes = [&](int steps, bool of_x) -> int64_t {
    if (kFolded) {
      const int64_t elements = static_cast<int64_t>(steps) * plan.columns;
      const int64_t x = (elements - 1) * plan.stride_w + (tap_columns - 1) * plan.dilation_w + 1;
      return round_up((of_x ? std::min<int64_t>(x, plan.w) : elements) * kSize + 32, 16);
    }
    // Planes that follow each other lie there with the rows that no tap reaches.
    const int64_t rows = whole_planes ? (of_x ? plan.h : plan.p)
                         : of_x       ? std::min<int64_t>(plan.h, (steps - 1) * int64_t{plan.stride_h} + beyond + 1)
                                      : std::min(steps, plan.p);
    int64_t bytes = (whole_planes ? plan.block_channels : 1) * rows * (of_x ? plan.x_pitch : plan.dy_pitch);
    if (kChannelsLast) return bytes;
    bytes = (bytes + 32 + 15) / 16 * 16;
    // The slots of a warp on banks that follow each other, forward or backward.
    const int across = round_up(plan.groups * kColumns * (of_x ? plan.stride_w : 1) * kSize, 16) % 128;
    const auto to = [&](int64_t bank) { return (bank - bytes % 128 + 128) % 128; };
    return plan.warp_slots == 1 || whole_planes ? bytes : bytes + std::min(to(across), to(128 - across));
  };
  const auto stage_bytes = [&](int steps) { return plan.slots * (slot_bytes(steps, true) + slot_bytes(steps, false)); };
  plan.steps = plan.strip_rows + kDepth - 1;
  const int all = round_up(plan.steps, kDepth);
  // A run of memory ends within a sector, which the next chunk reads again: no run shall have less than 12 sectors.
  const int least =
      plan.whole_rows
          ? round_up(divide_up(384, std::min(plan.x_pitch * int64_t{plan.stride_h}, int64_t{plan.dy_pitch})), kDepth)
          : kDepth;
  // A chunk reads `beyond` rows of x that the next one reads again: where these are many, larger stages are better.
  plan.chunk_steps = all;
  for (const int64_t most_bytes : {int64_t{Traits::kStageBytes}, int64_t{kLargestShared / 2}}) {
    if (whole_planes) break;
    plan.chunk_steps = std::min(all, least);
    for (int windows = all / kDepth; windows > 0; windows--) {
      if (windows * kDepth < least || stage_bytes(windows * kDepth) > most_bytes) continue;
      const int chunks = divide_up(all, windows * kDepth);
      plan.chunk_steps = round_up(divide_up(all, chunks), kDepth);
      break;
    }
    const bool single = plan.chunk_steps == all;
    if (single || kFolded || 8 * (beyond + 1 - plan.stride_h) < plan.chunk_steps * plan.stride_h) break;
  }
  plan.chunks = divide_up(plan.steps, plan.chunk_steps);
  plan.x_slot_bytes = static_cast<int>(slot_bytes(plan.chunk_steps, true));
  plan.dy_slot_bytes = static_cast<int>(slot_bytes(plan.chunk_steps, false));
  const int64_t stage = stage_bytes(plan.chunk_steps);
  plan.stage_bytes = static_cast<int>(stage);
  const auto reciprocal = [](int size) { return size == 1 ? 0u : static_cast<unsigned>((1ull << 32) / size + 1); };
  plan.x_reciprocal = reciprocal(plan.x_columns), plan.dy_reciprocal = reciprocal(plan.columns);
  const int64_t reduced =
      int64_t{Traits::kBatch} * plan.threads + plan.block_tiles * plan.block_channels * Traits::kResults;
  // Large stages come in twos, for the sake of more blocks.
  plan.stages = 3 * stage < kThreeStages ? 3 : 2;
  plan.shared_bytes = static_cast<size_t>(std::max<int64_t>(plan.stages * stage, reduced * 4));
  const bool idle = plan.tile_warps > slot_warps && plan.slots >= 2 * units;
  if (idle || plan.shared_bytes > kLargestShared || units > (1 << 30)) return {};

  const int64_t input_bytes = plan.images * plan.x_image * kSize;
  const int64_t splits = split_count(parallel, divide_up(units, plan.slots), 1056 * 4 / Tile::kWarps, plan.outputs,
                                     input_bytes + plan.images * plan.dy_image * kSize, input_bytes);
  plan.block_units = divide_up(divide_up(units, splits), plan.slots) * plan.slots;
  plan.splits = divide_up(units, plan.block_units);
  return plan;
}

// The plan with the largest blocks, or one with no threads where the tile cannot serve the problem.
template <typename T, Layout kLayout, typename Tile>
WgradPlan make_wgrad_plan(const ConvProblem& problem) {
  WgradPlan plan{};
  for (int warps = Tile::kWarps; warps > 0; warps /= 2) {
    if (plan.threads == 0) plan = plan_wgrad<T, kLayout, Tile>(problem, warps);
  }
  return plan;
}

inline LaunchShape wgrad_launch_shape(const WgradPlan& plan) {
  LaunchShape shape;
  shape.grid_x = static_cast<int64_t>(plan.channel_blocks) * plan.tile_groups * plan.splits;
  shape.block_x = plan.threads;
  shape.shared_bytes = plan.shared_bytes;
  return shape;
}

// What the sizes of a problem must keep to, whatever the tile.
inline bool fits_wgrad(const ConvProblem& p) {
  constexpr int64_t kMost = (1 << 28) - 1;  // leaves room for sums and for bytes
  return axes_within(p, kMost) && is_flat(p) && p.depthwise() && p.n <= kMost && p.c <= kMost && p.k <= kMost &&
         p.input_size() <= kMost && p.output_size() <= kMost;
}

}  // namespace convbound::depthwise
