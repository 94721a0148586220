// What the depthwise NHWC kernels share: the tile of the input that a block copies into shared memory, where the
// elements lie in it, and the way of the outputs back to global memory.
//
// A block owns a slice of neighbouring channels of a rectangle of the output, or of a few whole images that are smaller
// than one. The rectangle consists of patches. A patch belongs to as many lanes as the slice has pairs of channels. The
// block copies the input under the rectangle once, halo included, by 16-byte cp.async; what lies outside the image
// becomes zero. Each lane computes its pair of channels in its patch from shared memory. The lanes of a patch then
// exchange their outputs through shared memory, so that stores have 16 bytes too.
//
// A position of the tile is the slice at one (h, w): kVectors x 16 bytes, 32 or 64, whole sectors. The lanes of a warp
// work on 128 / (16 kVectors) patches at once (a half-warp where a pair has 8 bytes). They read the 32 banks without
// conflict if neighbouring patches lie an odd number of positions apart. So one position is left free after each patch
// width that is even, and some after each row of patches and each image (NhwcTilePlan).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "csrc/common/divisor.h"
#include "csrc/common/numeric.h"
#include "csrc/common/pair.h"
#include "csrc/common/run_copy.h"
#include "csrc/common/shared.h"
#include "csrc/depthwise/depthwise_nhwc_plan.h"

namespace convbound::depthwise {

inline constexpr int kTileThreads = 128;

// Of an instance: element type, 16-byte vectors of a position, outputs of a patch.
template <typename Element, int kVectorCount, int kRowCount, int kColumnCount>
struct PatchTraits {
  using T = Element;
  static constexpr int kVectors = kVectorCount;
  static constexpr int kRows = kRowCount;
  static constexpr int kColumns = kColumnCount;
  static constexpr int kPerVector = kVectorElements<T>;
  static constexpr int kChannels = kVectors * kPerVector;
  static constexpr int kLanes = kChannels / 2;
  static constexpr int kSlots = kTileThreads / kLanes;  // patches that a block computes at a time
  static constexpr int kPosition = 16 * kVectors;       // bytes
  // Outputs of one patch on their way out: an odd number of positions, for the banks' sake.
  static constexpr int kStagedPositions = kRows * kColumns | 1;
  static constexpr int kStagedBytes = kSlots * kStagedPositions * kPosition;
  static_assert(32 % kLanes == 0, "the lanes of a patch belong to one warp, which is what __syncwarp orders");
  static_assert(kLanes % kVectors == 0, "a row of lanes stores whole positions");
};

template <typename T>
struct NhwcTileParams {
  const T* source;
  const T* filter;
  const T* bias;
  T* result;
  int64_t images;
  int channels, source_channels;
  int height, width, result_height, result_width;
  int filter_h, filter_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
  // A result channel k gathers the source channels k / per_source, or k * gathered and the gathered - 1 after it.
  IndexDivisor per_source;
  int gathered;
  bool flip;  // the gradient of the input is a convolution with the filter turned around
  bool vector_source, vector_filter, vector_bias, vector_result;  // 16-byte accesses are aligned
  int pitch, row_skew, image_positions, patch_distance;           // in positions, see NhwcTilePlan
  int slots, positions;                                           // patches, and positions of input, of the block
  int patches_h, patches_w, images_per_block;
  int staging_offset, bias_offset, filter_offset;  // bytes of shared memory
  IndexDivisor by_columns, by_rows, by_patches_w, by_patches_h, by_column_group, by_row_group;
  IndexDivisor slices, tiles_w, tiles_h;
};

// Which part of the result a block owns.
struct NhwcTilePlace {
  int channel;  // the first
  int p, q;     // the first output
  int64_t image;
  int images;  // that are there
};

template <typename Traits, typename T>
__device__ __forceinline__ NhwcTilePlace tile_place(const NhwcTileParams<T>& p) {
  const QuotientRemainder slice = divide(static_cast<int>(blockIdx.x), p.slices);
  const QuotientRemainder tile_w = divide(slice.quotient, p.tiles_w);
  const QuotientRemainder tile_h = divide(tile_w.quotient, p.tiles_h);
  const int64_t image = static_cast<int64_t>(tile_h.quotient) * p.images_per_block;
  return {slice.remainder * Traits::kChannels, tile_h.remainder * p.patches_h * Traits::kRows,
          tile_w.remainder * p.patches_w * Traits::kColumns, image,
          static_cast<int>(min(p.images - image, static_cast<int64_t>(p.images_per_block)))};
}

// One position of the tile: where it lies in shared memory, and where it comes from, if it is inside the input.
struct TilePosition {
  int position;
  bool inside;
  int64_t source;  // elements from the first image of the block
};

// Traits::skipped_columns and row_groups say after how many columns and rows NhwcTilePlan leaves positions free.
template <typename Traits, typename T>
__device__ __forceinline__ TilePosition tile_position(const NhwcTileParams<T>& p, const NhwcTilePlace& place, int at) {
  const QuotientRemainder column = divide(at, p.by_columns);
  QuotientRemainder row = {0, column.quotient};
  const int row_stride = p.source_channels * p.width;
  int64_t source = 0;
  if (p.images_per_block > 1) {
    row = divide(column.quotient, p.by_rows);
    source = static_cast<int64_t>(row.quotient) * row_stride * p.height;
  }
  const int h = place.p * p.stride_h - p.padding_h + row.remainder;
  const int w = place.q * p.stride_w - p.padding_w + column.remainder;
  // Without short circuits: the branches would cost more than the comparisons.
  const bool inside = within(h, p.height) & within(w, p.width) & (row.quotient < place.images);
  const int position = row.quotient * p.image_positions + row.remainder * p.pitch + column.remainder +
                       Traits::skipped_columns(p, column.remainder) + Traits::row_groups(p, row.remainder) * p.row_skew;
  source += static_cast<int64_t>(h) * row_stride + static_cast<int64_t>(w) * p.source_channels;
  return {position, inside, source};
}

// Starts the copy of the tile; it has arrived after cp_async_wait_all and a barrier. `nth` of the gathered channels.
template <typename Traits, typename T>
__device__ __forceinline__ void copy_tile(const NhwcTileParams<T>& p, const NhwcTilePlace& place, unsigned char* tile,
                                          int nth) {
  constexpr int kVectors = Traits::kVectors, kPerVector = Traits::kPerVector, kAtOnce = kTileThreads / kVectors;
  const int vector = static_cast<int>(threadIdx.x) % kVectors, first = static_cast<int>(threadIdx.x) / kVectors;
  const int channel = place.channel + vector * kPerVector;
  const T* images = p.source + place.image * p.height * p.width * p.source_channels;
  tile += vector * 16;
  if (p.vector_source) {
    const bool there = channel < p.channels;
    const T* slice = there ? images + channel : p.source;
    for (int at = first; at < p.positions; at += kAtOnce) {
      const TilePosition from = tile_position<Traits>(p, place, at);
      const bool read = from.inside & there;
      ptx::cp_async<16>(tile + from.position * Traits::kPosition, slice + (read ? from.source : 0), read ? 16 : 0);
    }
    return;
  }
  for (int at = first; at < p.positions; at += kAtOnce) {
    const TilePosition from = tile_position<Traits>(p, place, at);
    T* to = reinterpret_cast<T*>(tile + from.position * Traits::kPosition);
#pragma unroll
    for (int e = 0; e < kPerVector; e++) {
      const int c = divide(channel + e, p.per_source).quotient * p.gathered + nth;
      to[e] = from.inside && channel + e < p.channels ? images[from.source + c] : narrow<T>(0.0f);
    }
  }
}

// Starts the copy of the slice's bias.
template <typename Traits, typename T>
__device__ __forceinline__ void copy_bias(const NhwcTileParams<T>& p, int channel, unsigned char* to) {
  if (p.bias == nullptr) return;
  load_padded_run(reinterpret_cast<T*>(to), p.bias + channel, p.channels - channel, Traits::kVectors, p.vector_bias,
                  kTileThreads);
}

// The bias of a lane's two channels.
template <typename Traits, typename T>
__device__ __forceinline__ float2 bias_pair(const NhwcTileParams<T>& p, const unsigned char* bias, int lane) {
  if (p.bias == nullptr) return {0.0f, 0.0f};
  return widen_pair(reinterpret_cast<const PairOf<T>*>(bias)[lane]);
}

// The patch of a slot: where its input begins in the tile, and its first output.
struct PatchPlace {
  int position;
  int image, p, q;  // relative to the block's
};

template <typename Traits, typename T>
__device__ __forceinline__ PatchPlace patch_place(const NhwcTileParams<T>& p, int slot, int patch_distance) {
  const QuotientRemainder row = divide(slot, p.by_patches_w);
  const QuotientRemainder z = divide(row.quotient, p.by_patches_h);
  const int row_distance = Traits::kRows * p.stride_h * p.pitch + p.row_skew;
  return {z.quotient * p.image_positions + z.remainder * row_distance + row.remainder * patch_distance, z.quotient,
          z.remainder * Traits::kRows, row.remainder * Traits::kColumns};
}

// Rounds the outputs of a patch and stores them. All lanes of the warp must come; `active` where they have a patch.
template <typename Traits, typename T>
__device__ __forceinline__ void store_patch(const NhwcTileParams<T>& p, const NhwcTilePlace& place,
                                            const PatchPlace& patch, bool active, unsigned char* staging,
                                            const float2 (&sum)[Traits::kRows][Traits::kColumns]) {
  constexpr int kVectors = Traits::kVectors, kPerVector = Traits::kPerVector, kColumns = Traits::kColumns;
  constexpr int kAtOnce = Traits::kLanes / kVectors;  // positions that the lanes of a patch store together
  constexpr int kRounded = (kColumns + kAtOnce - 1) / kAtOnce * kAtOnce;
  const int lane = static_cast<int>(threadIdx.x) % Traits::kLanes;
  const int slot = static_cast<int>(threadIdx.x) / Traits::kLanes;
  unsigned char* mine = staging + slot * Traits::kStagedPositions * Traits::kPosition;
#pragma unroll
  for (int o = 0; o < Traits::kRows; o++) {
#pragma unroll
    for (int c = 0; c < kColumns; c++) {
      *reinterpret_cast<PairOf<T>*>(mine + (o * kColumns + c) * Traits::kPosition + lane * 2 * sizeof(T)) =
          narrow_pair<T>(sum[o][c]);
    }
  }
  __syncwarp();
  const int vector = lane % kVectors, channel = place.channel + vector * kPerVector;
  const int64_t image = place.image + patch.image;
  const int first_p = place.p + patch.p, first_q = place.q + patch.q;
  // A quarter of a warp reads 128 bytes at once. Where it has two patches, the second begins one column later.
  const int shift = lane / kVectors + (Traits::kLanes < 8 ? slot % 2 : 0);
  T* to = p.result + ((image * p.result_height + first_p) * p.result_width + first_q) * p.channels + channel;
  const int64_t row_stride = static_cast<int64_t>(p.result_width) * p.channels;
  const unsigned char* from = mine + vector * 16;
  if (active && patch.image < place.images && channel < p.channels) {
#pragma unroll
    for (int o = 0; o < Traits::kRows; o++) {
#pragma unroll
      for (int c = 0; c < kRounded; c += kAtOnce) {
        const int column = (c + shift) % kRounded;
        if (column >= kColumns || first_p + o >= p.result_height || first_q + column >= p.result_width) continue;
        const unsigned char* value = from + (o * kColumns + column) * Traits::kPosition;
        T* at = to + o * row_stride + static_cast<int64_t>(column) * p.channels;
        if (p.vector_result) {
          *reinterpret_cast<uint4*>(at) = *reinterpret_cast<const uint4*>(value);
        } else {
#pragma unroll
          for (int e = 0; e < kPerVector; e++) {
            if (channel + e < p.channels) at[e] = reinterpret_cast<const T*>(value)[e];
          }
        }
      }
    }
  }
  __syncwarp();
}

// Host side: an instance's text and launch.

template <typename Traits>
std::string patch_text() {
  return std::to_string(kTileThreads) + " threads, patches of " + std::to_string(Traits::kRows) + "x" +
         std::to_string(Traits::kColumns) + " outputs x 2 channels";
}

template <typename Traits>
PatchShape patch_shape() {
  return {Traits::kVectors, Traits::kChannels,  Traits::kRows,  Traits::kColumns,
          Traits::kSlots,   Traits::kTileBytes, Traits::kRounds};
}

// Shared memory: the tile, the staging of outputs, the bias, the filter.
template <typename Traits>
LaunchShape tile_launch(const NhwcTilePlan& plan, int64_t filter_bytes) {
  const int64_t shared_bytes = plan.tile_bytes + Traits::kStagedBytes + Traits::kPosition + filter_bytes;
  return {.grid_x = plan.blocks, .block_x = kTileThreads, .shared_bytes = static_cast<size_t>(shared_bytes)};
}

template <typename Traits, typename T = typename Traits::T>
NhwcTileParams<T> tile_params(const ConvView& g, const NhwcTilePlan& plan, const ConvTensors<T>& tensors) {
  const auto size = [](int64_t value) { return static_cast<int>(value); };
  const int64_t images = plan.images;
  return {.source = tensors.in,
          .filter = tensors.filter,
          .bias = tensors.bias,
          .result = tensors.out,
          .images = g.images,
          .channels = g.out_channels(),
          .source_channels = g.in_channels(),
          .height = g.h.input,
          .width = g.w.input,
          .result_height = g.h.output,
          .result_width = g.w.output,
          .filter_h = g.h.filter,
          .filter_w = g.w.filter,
          .stride_h = g.h.stride,
          .stride_w = g.w.stride,
          .padding_h = g.h.padding,
          .padding_w = g.w.padding,
          .dilation_h = g.h.dilation,
          .dilation_w = g.w.dilation,
          .per_source = IndexDivisor(g.outputs),
          .gathered = g.inputs,
          .flip = g.flip,
          .vector_source = rows_at_boundaries<T>(tensors.in, g.in_channels()) && g.in_channels() == g.out_channels(),
          .vector_filter = at_boundary(tensors.filter),
          .vector_bias = at_boundary(tensors.bias),
          .vector_result = rows_at_boundaries<T>(tensors.out, g.out_channels()),
          .pitch = size(plan.pitch),
          .row_skew = size(plan.row_skew),
          .image_positions = size(plan.image_positions),
          .patch_distance = size(plan.patch_distance),
          .slots = size(plan.patches_h * plan.patches_w * images),
          .positions = size(plan.rows * plan.columns * images),
          .patches_h = size(plan.patches_h),
          .patches_w = size(plan.patches_w),
          .images_per_block = size(images),
          .staging_offset = size(plan.tile_bytes),
          .bias_offset = size(plan.tile_bytes) + Traits::kStagedBytes,
          .filter_offset = size(plan.tile_bytes) + Traits::kStagedBytes + Traits::kPosition,
          .by_columns = IndexDivisor(plan.columns),
          .by_rows = IndexDivisor(plan.rows),
          .by_patches_w = IndexDivisor(plan.patches_w),
          .by_patches_h = IndexDivisor(plan.patches_h),
          .by_column_group = IndexDivisor(plan.column_group),
          .by_row_group = IndexDivisor(plan.row_group),
          .slices = IndexDivisor(plan.slices),
          .tiles_w = IndexDivisor(plan.tiles_w),
          .tiles_h = IndexDivisor(plan.tiles_h)};
}

}  // namespace convbound::depthwise
