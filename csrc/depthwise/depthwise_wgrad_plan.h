// How a depthwise wgrad is cut up: which taps, columns, rows, images and channels a block takes, and what its stages of
// shared memory hold. Host code; csrc/depthwise/depthwise_wgrad.h has the idea.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "csrc/common/integers.h"
#include "csrc/common/kernel.h"
#include "csrc/common/partial_sums.h"
#include "csrc/common/wgrad_view.h"

namespace convbound::depthwise {

// The walks of a thread through the rows of dy, with a tile of filter taps each.
//
// kSliding  stride kStride, dilation 1: the last rows of dy stay in registers, so that every x is loaded once per
//           filter column, not once per tap.
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

// Everything in elements, unless it says bytes. The parts of the plan, in the order in which they are decided:

// The filter is cut into tiles of taps. A block takes all of them where its warps suffice, since x and dy are read once
// then.
struct WgradTapTiles {
  int tile_columns, tiles;       // tiles in a row of the filter, and in all
  int block_tiles, tile_groups;  // of a block; blocks to have them all
};

// A *slot* is a group of threads that walks down one unit of work.
struct WgradThreads {
  int across;                 // threads across a slot
  int columns, column_tiles;  // of dy: those of a slot, and slots to have them all
  int warp_slots, slots;      // of a warp, of a block
  int tile_warps;             // with the same tile of taps
  int threads;
  int block_channels, channel_blocks;
  bool whole_rows;    // of the input, so that consecutive rows are one run of memory (channels first)
  bool whole_planes;  // the slots of a warp take planes that follow each other
};

// A *unit* is the columns [column, column + columns) of a strip of rows of one image.
struct WgradUnits {
  int rows, strip_rows, strips;  // of dy: of an image, of a strip; strips of an image
  int units, block_units, splits;
};

// The rows of a unit come through shared memory in chunks, each of which fills a stage.
struct WgradStages {
  int chunk_steps, chunks, stages;   // steps: rows of dy
  int x_columns, x_pitch, dy_pitch;  // pitches in bytes
  int x_slot_bytes, dy_slot_bytes, stage_bytes;
  unsigned x_reciprocal, dy_reciprocal;  // 2^32 / columns of a tile
  size_t shared_bytes;
};

struct WgradPlan : WgradView, WgradTapTiles, WgradThreads, WgradUnits, WgradStages {
  int channels;  // of dy
};

template <typename T, Layout kLayout, typename TapTile>
struct WgradTraits {
  using Element = T;
  using Taps = TapTile;
  static constexpr int kSize = sizeof(T), kWarps = TapTile::kWarps, kRows = TapTile::kRows, kCols = TapTile::kCols;
  static constexpr int kStride = TapTile::kStride;
  static constexpr bool kChannelsLast = kLayout == Layout::kChannelsLast;
  static constexpr bool kSliding = TapTile::kWalk == Walk::kSliding;
  static constexpr bool kFolded = TapTile::kWalk == Walk::kFolded;
  static constexpr int kThreads = 32 * TapTile::kWarps;
  static constexpr int kTaps = TapTile::kRows * TapTile::kCols;
  static constexpr int kValues = kTaps + 1;  // and the bias gradient

  // Adjacent columns of dy per thread: two share most of their x. In NCHW the lanes of a warp are columns, and two
  // columns of 4 bytes, or two of every other column of x, would take two wavefronts a load; where the tile is so large
  // that arithmetic hides them, two are taken nevertheless. A filter of one column has nothing to share.
  static constexpr bool kTwoColumns =
      kSliding && (kChannelsLast ? TapTile::kCols > 1 : (sizeof(T) == 2 && TapTile::kStride == 1) || kTaps > 49);
  static constexpr int kColumns = kTwoColumns ? 2 : 1;
  static constexpr int kSpan = (kColumns - 1) * TapTile::kStride + TapTile::kCols;  // columns of x that they meet
  // Rows of dy in registers.
  static constexpr int kDepth = kSliding ? divide_up(TapTile::kRows, TapTile::kStride) : 1;

  // Registers: the sums, the window, a row of x, and about 56 for addresses and counters.
  static constexpr int kRegisters = round_up(kValues + kDepth * kColumns + kSpan + 56, 8);
  static constexpr int kBlocks = std::clamp(65536 / (kThreads * kRegisters), 1, 2048 / kThreads / 2);

  // What a stage should have, in bytes.
  static constexpr int kStageBytes = kSliding && kTaps < 50 ? (kChannelsLast ? 12 : 7) * 1024 : 16 * 1024;
  static constexpr int kBatch = kValues < 16 ? kValues : 16;  // values that the block adds up at a time
  static constexpr int kResults = kValues | 1;                // odd, for 32 channels to be on 32 banks
  static_assert(kColumns + kSpan < 32, "bit masks hold the valid columns");

  // Warps across a slot.
  static constexpr int slot_warps(const WgradThreads& threads) {
    return kChannelsLast ? threads.across : divide_up(threads.across, 32);
  }
};

// The units' threads for blocks of at most that many warps: tiles of taps, columns, slots and channels.
template <typename Traits>
void place_threads(WgradPlan& plan, int warps) {
  constexpr bool kChannelsLast = Traits::kChannelsLast, kFolded = Traits::kFolded;
  constexpr int kColumns = Traits::kColumns, kSize = Traits::kSize;
  plan.tile_columns = divide_up(plan.w.filter, Traits::kCols);
  plan.tiles = divide_up(plan.h.filter, Traits::kRows) * plan.tile_columns;
  const int most_tiles = kChannelsLast ? 1 : std::min(plan.tiles, warps);

  // Columns: as many as the threads of a tile reach.
  const int most_groups = (warps / most_tiles) * (kChannelsLast ? 1 : 32);
  if (kFolded) {
    plan.columns = std::min(most_groups, plan.w.output);
    plan.column_tiles = 1;
  } else {
    plan.column_tiles = divide_up(plan.w.output, most_groups * kColumns);
    const int multiple = plan.column_tiles == 1 || kChannelsLast ? kColumns : 16;
    plan.columns = round_up(divide_up(plan.w.output, plan.column_tiles), multiple);
    plan.column_tiles = divide_up(plan.w.output, plan.columns);
  }
  plan.across = divide_up(plan.columns, kColumns);
  const int slot_warps = Traits::slot_warps(plan);
  plan.block_tiles = std::min(most_tiles, warps / slot_warps);
  plan.tile_groups = divide_up(plan.tiles, plan.block_tiles);
  plan.block_tiles = divide_up(plan.tiles, plan.tile_groups);
  plan.tile_warps = warps / plan.block_tiles / slot_warps * slot_warps;
  plan.threads = 32 * plan.tile_warps * plan.block_tiles;
  plan.warp_slots = kChannelsLast || plan.across > 32 ? 1 : 32 / plan.across;
  plan.slots = plan.tile_warps / slot_warps * plan.warp_slots;
  plan.whole_rows = !kChannelsLast && !kFolded && plan.column_tiles == 1;

  // Channels: planes of less than 8 sectors would waste too much of the first and the last of them, so that the slots
  // of a warp take planes that follow each other.
  const int64_t x_plane = int64_t{plan.h.input} * plan.w.input * kSize;
  const int64_t dy_plane = int64_t{plan.h.output} * plan.w.output * kSize;
  const bool small = std::min(x_plane, dy_plane) < 256 && std::max(x_plane, dy_plane) < 1024;
  plan.whole_planes = plan.whole_rows && small && plan.outputs == 1 && plan.warp_slots > 1;
  plan.block_channels = kChannelsLast ? 32 : plan.whole_planes ? plan.warp_slots : 1;
  if (plan.whole_planes) plan.slots /= plan.warp_slots;
  plan.channel_blocks = divide_up(plan.channels, plan.block_channels);
}

// Units, and strips of rows where images and channels give too few blocks for a GPU.
template <typename Traits>
void cut_units(WgradPlan& plan, int sms) {
  constexpr int kDepth = Traits::kDepth;
  plan.rows = Traits::kFolded ? divide_up(plan.w.output, plan.columns) : plan.h.output;
  const int64_t columns_of_work = plan.images * plan.column_tiles;
  const int64_t parallel = int64_t{plan.channel_blocks} * plan.tile_groups;
  const int64_t blocks = parallel * divide_up(columns_of_work, plan.slots);
  const auto strips_for = [&](int64_t least_blocks, int least_rows) -> int64_t {
    const int64_t wanted = divide_up(least_blocks * plan.slots, parallel * columns_of_work);
    return blocks < least_blocks ? std::min<int64_t>(wanted, std::max(1, plan.rows / least_rows)) : 1;
  };
  const int long_rows = Traits::kFolded || plan.w.input == 1 ? 32 : 0;
  int64_t strips = strips_for(2 * int64_t{sms}, std::max({4 * kDepth, 8, long_rows}));
  // Half of the GPU idle is worse than reading half of x twice.
  if (blocks * strips < sms) strips = strips_for(sms, std::max({kDepth + 2, 4, long_rows}));
  // One row of threads of a long sequence is a unit of at most this many rows, so that there are units for all slots.
  constexpr int kMostRows = 512;
  strips = plan.whole_planes ? 1 : std::max<int64_t>(strips, divide_up(plan.rows, kMostRows));
  plan.strip_rows = static_cast<int>(divide_up(plan.rows, strips));
  plan.strips = divide_up(plan.rows, plan.strip_rows);
}

// Shared memory of a slot for chunks of so many steps, of x and of dy.
template <typename Traits>
struct WgradSlotBytes {
  const WgradPlan& plan;
  int tap_columns;  // that a block's tiles span
  int beyond;       // rows of x that a step meets beyond the first one, over all tiles of a block

  explicit WgradSlotBytes(const WgradPlan& plan) : plan(plan) {
    const int tile_rows = divide_up(plan.h.filter, Traits::kRows);
    const int block_tile_rows = std::min(tile_rows, divide_up(plan.block_tiles - 1, plan.tile_columns) + 1);
    beyond = Traits::kSliding ? plan.h.stride - 1 + (block_tile_rows - 1) * Traits::kRows
                              : (block_tile_rows * Traits::kRows - 1) * plan.h.dilation;
    const bool all_columns = plan.block_tiles > 1 || plan.tile_groups == 1;
    tap_columns = all_columns ? plan.tile_columns * Traits::kCols : Traits::kCols;
  }

  int64_t x_columns(int64_t columns) const {
    return (columns - 1) * plan.w.stride + (int64_t{tap_columns} - 1) * plan.w.dilation + 1;
  }

  int64_t of(int steps, bool of_x) const {
    if (Traits::kFolded) {
      const int64_t elements = int64_t{steps} * plan.columns;
      const int64_t wanted = of_x ? std::min<int64_t>(x_columns(elements), plan.w.input) : elements;
      return round_up(wanted * Traits::kSize + 32, 16);
    }
    // Planes that follow each other lie there with the rows that no tap reaches.
    const int64_t rows = plan.whole_planes ? (of_x ? plan.h.input : plan.rows)
                         : of_x ? std::min<int64_t>(plan.h.input, (steps - 1) * int64_t{plan.h.stride} + beyond + 1)
                                : std::min(steps, plan.rows);
    int64_t bytes = (plan.whole_planes ? plan.block_channels : 1) * rows * (of_x ? plan.x_pitch : plan.dy_pitch);
    if (Traits::kChannelsLast) return bytes;
    bytes = round_up(bytes + 32, 16);
    // The slots of a warp on banks that follow each other, forward or backward.
    const int across = round_up(plan.across * Traits::kColumns * (of_x ? plan.w.stride : 1) * Traits::kSize, 16) % 128;
    const auto to = [&](int64_t bank) { return modulo(bank - bytes, 128); };
    return plan.warp_slots == 1 || plan.whole_planes ? bytes : bytes + std::min(to(across), to(128 - across));
  }

  int64_t of_stage(int steps) const { return plan.slots * (of(steps, true) + of(steps, false)); }
};

// Stages: all rows of a unit, or as many as fit, a multiple of the rows that the walk keeps. False where that is too
// much for shared memory.
template <typename Traits>
bool size_stages(WgradPlan& plan) {
  constexpr int kSize = Traits::kSize, kDepth = Traits::kDepth, kThreeStages = 36 * 1024;
  const WgradSlotBytes<Traits> bytes(plan);
  const int64_t x_columns = bytes.x_columns(plan.columns);
  // Pitches in bytes are counted in 32 bits.
  if (x_columns > kMostSharedBytes && !plan.whole_rows && !Traits::kFolded) return false;
  plan.x_columns = static_cast<int>(x_columns);
  if (Traits::kChannelsLast) {
    plan.x_pitch = plan.x_columns * 32 * kSize, plan.dy_pitch = plan.columns * 32 * kSize;
  } else if (plan.whole_rows || Traits::kFolded) {
    plan.x_pitch = plan.w.input * kSize, plan.dy_pitch = plan.w.output * kSize;
  } else {
    plan.x_pitch = round_up(plan.x_columns * kSize + 48, 16), plan.dy_pitch = round_up(plan.columns * kSize + 48, 16);
  }
  const int steps = plan.strip_rows + kDepth - 1, all = round_up(steps, kDepth);
  // A run of memory ends within a sector, which the next chunk reads again: no run shall have less than 12 sectors.
  const int64_t run = std::min(plan.x_pitch * int64_t{plan.h.stride}, int64_t{plan.dy_pitch});
  const int least = plan.whole_rows ? static_cast<int>(round_up(divide_up(384, run), kDepth)) : kDepth;
  // A chunk reads `beyond` rows of x that the next one reads again: where these are many, larger stages are better.
  plan.chunk_steps = all;
  for (const int64_t most_bytes : {int64_t{Traits::kStageBytes}, int64_t{kMostSharedBytes / 2}}) {
    if (plan.whole_planes) break;
    plan.chunk_steps = std::min(all, least);
    for (int windows = all / kDepth; windows > 0; windows--) {
      if (windows * kDepth < least || bytes.of_stage(windows * kDepth) > most_bytes) continue;
      const int chunks = divide_up(all, windows * kDepth);
      plan.chunk_steps = round_up(divide_up(all, chunks), kDepth);
      break;
    }
    const bool single = plan.chunk_steps == all;
    if (single || Traits::kFolded || 8 * (bytes.beyond + 1 - plan.h.stride) < plan.chunk_steps * plan.h.stride) break;
  }
  plan.chunks = divide_up(steps, plan.chunk_steps);
  plan.x_slot_bytes = static_cast<int>(bytes.of(plan.chunk_steps, true));
  plan.dy_slot_bytes = static_cast<int>(bytes.of(plan.chunk_steps, false));
  const int64_t stage = bytes.of_stage(plan.chunk_steps);
  plan.stage_bytes = static_cast<int>(stage);
  const auto reciprocal = [](int size) { return size == 1 ? 0u : static_cast<unsigned>((1ull << 32) / size + 1); };
  plan.x_reciprocal = reciprocal(plan.x_columns), plan.dy_reciprocal = reciprocal(plan.columns);
  const int64_t reduced =
      int64_t{Traits::kBatch} * plan.threads + plan.block_tiles * plan.block_channels * Traits::kResults;
  // Large stages come in twos, for the sake of more blocks.
  plan.stages = 3 * stage < kThreeStages ? 3 : 2;
  plan.shared_bytes = static_cast<size_t>(std::max<int64_t>(plan.stages * stage, reduced * 4));
  return plan.shared_bytes <= kMostSharedBytes;
}

// The plan for blocks of at most that many warps; nothing where it does not fit into shared memory or has threads for
// twice the work that there is.
template <typename Traits>
std::optional<WgradPlan> plan_wgrad(const WgradView& view, const Device& device, int warps) {
  WgradPlan plan{};
  static_cast<WgradView&>(plan) = view;
  plan.channels = view.out_channels();
  place_threads<Traits>(plan, warps);
  cut_units<Traits>(plan, device.sms);
  if (!size_stages<Traits>(plan)) return std::nullopt;
  const int64_t units = plan.images * plan.column_tiles * plan.strips;
  const bool idle = plan.tile_warps > Traits::slot_warps(plan) && plan.slots >= 2 * units;
  if (idle || units > (1 << 30)) return std::nullopt;
  plan.units = static_cast<int>(units);

  const int64_t parallel = int64_t{plan.channel_blocks} * plan.tile_groups;
  const int64_t input_bytes = plan.images * plan.x.image * Traits::kSize;
  const int64_t splits = split_count(device, parallel, divide_up(units, plan.slots), 32 / Traits::kWarps, plan.results,
                                     input_bytes + plan.images * plan.dy.image * Traits::kSize, input_bytes);
  plan.block_units = static_cast<int>(round_up(divide_up(units, splits), plan.slots));
  plan.splits = static_cast<int>(divide_up(units, plan.block_units));
  return plan;
}

// The plan with the largest blocks.
template <typename Traits>
std::optional<WgradPlan> plan_wgrad(const WgradView& view, const Device& device) {
  std::optional<WgradPlan> plan;
  for (int warps = Traits::kWarps; warps > 0; warps /= 2) {
    if (!plan) plan = plan_wgrad<Traits>(view, device, warps);
  }
  return plan;
}

inline LaunchShape wgrad_shape(const WgradPlan& plan) {
  return {.grid_x = int64_t{plan.channel_blocks} * plan.tile_groups * plan.splits,
          .block_x = plan.threads,
          .shared_bytes = plan.shared_bytes};
}

}  // namespace convbound::depthwise
