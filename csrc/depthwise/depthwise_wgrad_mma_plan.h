// How the depthwise wgrad on tensor cores (depthwise_wgrad_mma_nchw.cu) is shared out to blocks, rounds, warps and
// lanes. Host code.
#pragma once

#include <algorithm>
#include <bit>
#include <optional>

#include "csrc/common/integers.h"
#include "csrc/common/kernel.h"
#include "csrc/common/partial_sums.h"
#include "csrc/common/wgrad_view.h"

namespace convbound::depthwise {

constexpr int kMmaWarps = 4, kMmaThreads = 32 * kMmaWarps;
constexpr int kMmaColumns = 8;  // of dy in one product, and half as many as of x
// A *track* is 8 threads of a warp (lane % 4), for the 8 columns of a position, that walk down rows together.
constexpr int kMmaTracks = 4;  // of a warp
// Shared memory of a block: four blocks fit into the 228 KB of a multiprocessor, three into 164 KB.
constexpr int64_t kMmaMemory = 107 * 512;
// Zeros before the first slot, read in place of rows that do not exist; columns beside a row may be read there too.
constexpr int kMmaZeros = 256;

// A *position* is 8 columns of a row of dy. A track has 4 of them in each product: neighbours in a row (wide), or the
// same columns of 4 images (narrow).
template <typename T, int kRows_, int kAdjacent_, int kStride_>
struct WgradMmaTraits {
  using Element = T;
  static constexpr int kRows = kRows_, kAdjacent = kAdjacent_, kStride = kStride_;
  static constexpr int kImages = 4 / kAdjacent;
  static constexpr int kDepth = divide_up(kRows, kStride);  // rows of dy that a row of x meets
  static constexpr int kMatrices = kRows * kStride + 1;     // of sums: for each row and parity of taps, and the bias
  static constexpr int kLoads = kImages == 1 ? 5 : 8;       // of x for one A
  static constexpr int kSpan = kMmaColumns * 5 * kStride;   // columns of x that those loads reach
  static constexpr int kBlocks = kMatrices < 9 ? 4 : 3;     // on a multiprocessor; 44 sums leave no registers for 4
  static constexpr int kMatrix = 2 * kMmaColumns * kMmaColumns;
  // The slots of the 4 images of a track lie in regions of known sizes, so that their distance is an immediate.
  static constexpr int kRegions = static_cast<int>((kMmaMemory - kMmaZeros) / 4) / 128 * 128;
  static constexpr int kXRegion = kRegions / 128 * kStride * kStride / (kStride * kStride + 1) * 128;
  static constexpr int kDyRegion = kRegions - kXRegion;
  static_assert(kSpan * 2 <= kMmaZeros, "columns beside the first row are there to be read");
};

struct WgradMmaPlan : WgradView {
  int channels;                        // of dy
  int block_channels, channel_blocks;  // planes that follow each other; block_channels is 1, 2 or 4
  int channel_warps_log2;              // of a block, for each of its channels
  int strips, strip_rows;              // of a plane of dy
  // A bundle is the images that a track takes at once. A round is the bundles in shared memory, of one strip.
  int bundles, round_bundles, strip_rounds, rounds, block_rounds, splits;
  // Where a round has too few columns for all tracks, its rows are cut into parts. A track keeps its part and its
  // columns, and takes every `track_bundles`-th bundle.
  int part_rows, part_warps_log2, column_groups, track_bundles, turns;
  int pieces_log2;  // warps that copy a slot together
  int x_slot_bytes, dy_slot_bytes, dy_offset, slots_end;
  size_t shared_bytes;
};

// Rows of x that a strip of so many rows of dy meets.
inline int64_t rows_met(const WgradMmaPlan& plan, int64_t rows) {
  return std::min<int64_t>(plan.h.input, (rows - 1) * plan.h.stride + plan.h.filter);
}

// The bytes of a slot for so many rows, from the first row of the first plane to the last row of the last. Slots that
// follow each other lie on banks that follow each other.
inline int64_t slot_bytes(const WgradMmaPlan& plan, const AxisView& h, const AxisView& w, bool of_x, int64_t rows) {
  const int64_t height = of_x ? h.input : h.output, width = of_x ? w.input : w.output;
  const int64_t bytes = round_up(((rows + (plan.block_channels - 1) * height) * width + 7) * 2, 16);
  return bytes + modulo(32 - bytes, 64);
}

// Bundles that fit into shared memory at once, with slots for strips of so many rows.
template <typename Traits>
int64_t size_slots(WgradMmaPlan& plan, int64_t rows) {
  const int64_t x = slot_bytes(plan, plan.h, plan.w, true, rows_met(plan, rows));
  const int64_t dy = slot_bytes(plan, plan.h, plan.w, false, rows);
  if (x + dy > kMmaMemory) return 0;
  plan.x_slot_bytes = static_cast<int>(x), plan.dy_slot_bytes = static_cast<int>(dy);
  if (Traits::kImages == 1) return (kMmaMemory - 3 * kMmaZeros) / (x + dy);
  return std::min((Traits::kXRegion - kMmaZeros) / x, (Traits::kDyRegion - kMmaZeros) / dy);
}

// Strips: whole planes where they fit into shared memory and give blocks enough. Returns the bundles that fit.
template <typename Traits>
int64_t cut_strips(WgradMmaPlan& plan) {
  constexpr int64_t kBlocksWanted = 264;
  const int64_t rows = plan.h.output, least = std::max(16, 4 * plan.h.filter);
  const int64_t blocks = int64_t{plan.channel_blocks} * plan.bundles;
  const int64_t wanted = plan.block_channels == 1 ? std::min(divide_up(kBlocksWanted, blocks), rows / least) : 1;
  const int64_t end = rows + 1;
  for (int64_t strips = std::max<int64_t>(wanted, 1); strips < end; strips++) {
    plan.strip_rows = static_cast<int>(divide_up(rows, strips));
    const int64_t fit = size_slots<Traits>(plan, plan.strip_rows);
    if (fit == 0) continue;
    plan.strips = static_cast<int>(divide_up(rows, plan.strip_rows));
    return plan.strips > 1 && plan.strip_rows < 2 * plan.h.filter ? 0 : fit;
  }
  return 0;
}

// Neighbouring channels of small planes share a block, so that what it copies at once is long.
inline int channels_together(const WgradMmaPlan& plan) {
  const int64_t bytes = 2 * std::min(plan.x.row * plan.h.input, plan.dy.row * plan.h.output);
  const int most = std::bit_floor(static_cast<unsigned>(kMmaWarps * kMmaTracks / plan.column_groups));
  return plan.outputs > 1 || bytes > 512 ? 1 : std::min(bytes > 256 ? 2 : kMmaWarps, most);
}

// Tracks of as many warps of a channel have so many bundles at once.
inline int bundles_of(const WgradMmaPlan& plan, int warps_log2) {
  return (kMmaTracks << warps_log2) / plan.column_groups;
}

// The tracks of a channel: columns first, then bundles, then parts.
inline void place_tracks(WgradMmaPlan& plan) {
  int log2 = 0;  // the fewest warps that have all bundles at once, as long as parts have rows enough
  const int end = plan.channel_warps_log2;
  for (int i = 0; i < end; i++) {
    const int parts = 1 << (end - log2);
    if (bundles_of(plan, log2) >= plan.round_bundles && parts * plan.h.filter <= plan.strip_rows) break;
    log2++;
  }
  plan.part_warps_log2 = log2;
  plan.part_rows = divide_up(plan.strip_rows, 1 << (plan.channel_warps_log2 - log2));
  plan.track_bundles = bundles_of(plan, log2);
  plan.turns = divide_up(plan.round_bundles, plan.track_bundles);
}

template <typename Traits>
void place_slots(WgradMmaPlan& plan) {
  const int x_bytes = kMmaZeros + plan.round_bundles * plan.x_slot_bytes;
  const int dy_bytes = kMmaZeros + plan.round_bundles * plan.dy_slot_bytes;
  plan.pieces_log2 = log2_up(divide_up(kMmaWarps, plan.round_bundles * Traits::kImages));
  plan.dy_offset = Traits::kImages == 1 ? x_bytes : Traits::kImages * Traits::kXRegion;
  plan.slots_end = plan.dy_offset + (Traits::kImages - 1) * Traits::kDyRegion + dy_bytes + kMmaZeros;
  plan.shared_bytes =
      static_cast<size_t>(std::max(plan.slots_end, kMmaWarps * Traits::kMatrices * Traits::kMatrix * 4));
}

// The plan, or nothing where rows are too long for shared memory or for the tracks of a block.
template <typename Traits>
std::optional<WgradMmaPlan> plan_wgrad_mma(const WgradView& view, const Device& device) {
  WgradMmaPlan plan{};
  static_cast<WgradView&>(plan) = view;
  plan.channels = view.out_channels();
  plan.column_groups = divide_up(plan.w.output, kMmaColumns * Traits::kAdjacent);
  if (plan.column_groups > kMmaWarps * kMmaTracks) return std::nullopt;
  plan.block_channels = channels_together(plan);
  plan.channel_blocks = divide_up(plan.channels, plan.block_channels);
  plan.channel_warps_log2 = log2_up(kMmaWarps / plan.block_channels);
  plan.bundles = static_cast<int>(divide_up(plan.images, Traits::kImages));
  const int64_t fit = cut_strips<Traits>(plan);
  if (fit == 0 || int64_t{plan.bundles} * plan.strips > (1 << 28)) return std::nullopt;

  const int64_t input_bytes = 2 * plan.images * plan.x.image;
  const int64_t read_bytes = input_bytes + 2 * plan.images * plan.dy.image;
  const int64_t most = plan.strips * divide_up(plan.bundles, fit);
  const int64_t splits = split_count(device, plan.channel_blocks, most, 4, plan.results, read_bytes, input_bytes);
  plan.block_rounds = static_cast<int>(divide_up(most, splits));
  // Rounds of about the same number of bundles, of whole turns of the tracks where that makes no more of them.
  const int64_t wanted = divide_up(splits * plan.block_rounds, plan.strips);
  const int64_t share = divide_up(plan.bundles, wanted), turn = bundles_of(plan, plan.channel_warps_log2);
  plan.round_bundles =
      static_cast<int>(std::min({fit, int64_t{plan.bundles}, share < turn ? share : round_up(share, turn)}));
  plan.strip_rounds = divide_up(plan.bundles, plan.round_bundles);
  plan.rounds = plan.strips * plan.strip_rounds;
  plan.splits = divide_up(plan.rounds, plan.block_rounds);
  place_tracks(plan);
  place_slots<Traits>(plan);
  return plan;
}

inline LaunchShape wgrad_mma_shape(const WgradMmaPlan& plan) {
  return {
      .grid_x = int64_t{plan.channel_blocks} * plan.splits, .block_x = kMmaThreads, .shared_bytes = plan.shared_bytes};
}

}  // namespace convbound::depthwise
