// The filter gradient's implicit GEMM but for its products: stages of shared memory that hold, for `kDepth` positions,
// rows of x as columns (tap, channel) and rows of dy; the loop over them; where results go. grouped_wgrad_mma.cu has
// the idea.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <utility>

#include "csrc/common/partial_sums.h"
#include "csrc/common/ptx.h"
#include "csrc/common/shared.h"
#include "csrc/common/vector.h"
#include "csrc/grouped/grouped_wgrad_plan.h"
#include "csrc/grouped/grouped_wgrad_results.h"

namespace convbound::grouped {

template <typename T>
struct WgradGemmParams {
  WgradGemmPlan plan;
  const T *x, *dy;
  PartialSums<T> sums;
  bool x_vectors, dy_vectors;              // copied by 16 bytes
  Divisor by_depths, by_rows, by_columns;  // of dy
  IndexDivisor next_depths, next_rows, next_columns;
  IndexDivisor by_outputs;  // channels of dy in a group
};

template <typename T>
WgradGemmParams<T> wgrad_params(const WgradGemmPlan& plan, const Tensors& t, const PartialSums<T>& sums) {
  return {plan,
          static_cast<const T*>(t.x),
          static_cast<const T*>(t.y),
          sums,
          rows_at_boundaries<T>(t.x, plan.in_channels()),
          rows_at_boundaries<T>(t.y, plan.channels),
          Divisor(plan.d.output),
          Divisor(plan.h.output),
          Divisor(plan.w.output),
          IndexDivisor(plan.d.output),
          IndexDivisor(plan.h.output),
          IndexDivisor(plan.w.output),
          IndexDivisor(plan.outputs)};
}

// Positions of dy, in memory order.
struct Position {
  int64_t image;
  int d, h, w;
};

// What the copies of x need to know of a position.
struct alignas(8) PositionEntry {
  uint32_t pixel;  // of x, from the split's first image on, that the tap at no distance meets; modulo 2^32
  uint32_t taps;   // bit i: the i-th tap of the tile meets x, not its padding
};

template <typename T, int kColumns_, int kFilters_, int kDepth_, int kStages_, int kThreads_>
struct WgradStages {
  static constexpr int kColumns = kColumns_, kFilters = kFilters_, kDepth = kDepth_, kThreads = kThreads_;
  static constexpr int kStages = kStages_, kElements = kVectorElements<T>;
  static constexpr int kColumnVectors = kColumns / kElements, kFilterVectors = kFilters / kElements;
  static constexpr int kXBytes = kDepth * kColumns * static_cast<int>(sizeof(T));
  static constexpr int kStageBytes = kXBytes + kDepth * kFilters * static_cast<int>(sizeof(T));
  static constexpr int kEntriesBytes = 2 * kDepth * static_cast<int>(sizeof(PositionEntry));
  static constexpr int kSharedBytes = kStages * kStageBytes + kEntriesBytes;
  static_assert(kColumnVectors <= 32, "the taps of a tile are bits of a word");
  static_assert(kDepth <= 32, "a warp fills the entries of a stage");

  // Where a vector of a row lies, as a number of vectors. ldmatrix takes one vector of each of 8 rows: moved by the
  // row's number, they lie on different banks.
  template <int kVectors>
  __device__ __forceinline__ static int place(int row, int vector) {
    if constexpr (sizeof(T) != 2) return row * kVectors + vector;
    constexpr int kSpread = kVectors < 8 ? kVectors : 8, kRowsOfBanks = 8 / kSpread;
    return row * kVectors + (vector ^ (static_cast<unsigned>(row) / kRowsOfBanks & (kSpread - 1)));
  }
};

// What a block computes.
template <typename T, typename Stages>
struct WgradBlock {
  static constexpr int kElements = Stages::kElements;
  const WgradGemmParams<T>& params;
  int split, first_filter;
  int first_channel, vectors;  // of x: those that the filters' groups have
  int first_vector;            // of the tile, among taps * vectors
  bool first_tile;             // it has the bias too

  __device__ __forceinline__ explicit WgradBlock(const WgradGemmParams<T>& p) : params(p) {
    const WgradGemmPlan& plan = p.plan;
    int index = static_cast<int>(blockIdx.x);
    const int column_tile = index % plan.column_tiles;
    index /= plan.column_tiles;
    first_filter = index % plan.filter_tiles * Stages::kFilters;
    split = index / plan.filter_tiles;
    const int last_filter = min(first_filter + Stages::kFilters, plan.channels) - 1;
    first_channel = first_filter / plan.outputs * plan.inputs / kElements * kElements;
    vectors = ((last_filter / plan.outputs + 1) * plan.inputs - first_channel + kElements - 1) / kElements;
    first_vector = column_tile * Stages::kColumnVectors;
    first_tile = column_tile == 0;
  }

  // Tiles of filters may meet fewer channels than others.
  __device__ __forceinline__ bool empty() const { return first_vector >= params.plan.taps() * vectors; }

  __device__ __forceinline__ ColumnVector column(int vector) const {
    const int index = first_vector + vector, tap = index / vectors;
    return {tap, first_channel + (index - tap * vectors) * kElements};
  }
};

template <typename T>
__device__ __forceinline__ Position position_at(int64_t index, const WgradGemmParams<T>& params) {
  Position at;
  at.w = take(index, params.by_columns);
  at.h = take(index, params.by_rows);
  at.d = take(index, params.by_depths);
  at.image = index;
  return at;
}

// Fills stages, from the first position of a block's split on.
template <typename T, typename Stages>
class StageCopies {
  using Block = WgradBlock<T, Stages>;
  static constexpr int kElements = Stages::kElements, kThreads = Stages::kThreads, kDepth = Stages::kDepth;

  const WgradGemmParams<T>& params_;
  Position first_;
  int positions_;                 // of the split
  int first_tap_, tile_taps_;     // of the tile
  int t_, r_, s_;                 // its first tap
  const T *x_, *dy_;              // from the thread's column and filter on; dy_: of the next stage
  int left_;                      // positions of dy from there on
  uint32_t tap_pixel_, tap_bit_;  // of the thread's column
  int x_channels_, dy_channels_;  // from the thread's vector on, within the tensor

 public:
  __device__ __forceinline__ explicit StageCopies(const Block& block) : params_(block.params) {
    const WgradGemmPlan& plan = params_.plan;
    const int64_t start = static_cast<int64_t>(block.split) * plan.split_positions;
    first_ = position_at(start, params_);
    positions_ = static_cast<int>(min(plan.positions - start, static_cast<int64_t>(plan.split_positions)));
    const int thread = static_cast<int>(threadIdx.x);
    first_tap_ = block.column(0).tap;
    tile_taps_ = min(block.column(Stages::kColumnVectors - 1).tap + 1, plan.taps()) - first_tap_;
    const ColumnVector column = block.column(thread % Stages::kColumnVectors);
    find_tap(column.tap);
    tap_pixel_ = pixel(t_ * plan.d.dilation, r_ * plan.h.dilation, s_ * plan.w.dilation);
    tap_bit_ = column.tap < plan.taps() ? 1u << (column.tap - first_tap_) : 0;
    find_tap(first_tap_);
    x_ = ptx::kept(params_.x + first_.image * plan.x_image + column.channel);
    x_channels_ = plan.in_channels() - column.channel;
    const int filter = block.first_filter + thread % Stages::kFilterVectors * kElements;
    dy_channels_ = plan.channels - filter;
    dy_ = params_.dy + start * plan.channels + (dy_channels_ > 0 ? filter : 0);
    left_ = dy_channels_ > 0 ? positions_ : 0;
  }

  __device__ __forceinline__ int depths() const { return (positions_ + kDepth - 1) / kDepth; }

  // One warp finds what the copies of stage number `index` need; they follow after a barrier.
  __device__ __forceinline__ void find(int index) const {
    if (static_cast<int>(threadIdx.x) / 32 != index % (kThreads / 32)) return;
    const int row = static_cast<int>(threadIdx.x) % 32;
    if (row >= kDepth) return;
    const WgradGemmPlan& plan = params_.plan;
    const auto [line, q] = divide(first_.w + index * kDepth + row, params_.next_columns);
    const auto [layer, p] = divide(first_.h + line, params_.next_rows);
    const auto [images, o] = divide(first_.d + layer, params_.next_depths);
    const int d = o * plan.d.stride - plan.d.padding, h = p * plan.h.stride - plan.h.padding,
              w = q * plan.w.stride - plan.w.padding;
    const uint32_t taps = taps_inside(d, h, w);
    const uint32_t there = index * kDepth + row < positions_ ? ~0u : 0;
    entries(index)[row] = {images * plan.image_pixels + pixel(d, h, w), taps & there};
  }

  // Starts the copies of the next stage, which is number `index`.
  __device__ __forceinline__ void copy(unsigned char* stage, int index) {
    T* const xs = reinterpret_cast<T*>(stage);
    T* const ys = reinterpret_cast<T*>(stage + Stages::kXBytes);
    const PositionEntry* const entry = entries(index);
    const auto x_at = [&](int row) {
      const PositionEntry at = entry[row];
      const bool there = (at.taps & tap_bit_) != 0;
      return Source{there ? static_cast<int>(at.pixel + tap_pixel_) : 0, there};
    };
    const auto dy_at = [&](int row) { return Source{row < left_ ? row : 0, row < left_}; };
    copy_rows<Stages::kColumnVectors>(xs, x_, params_.plan.in_channels(), x_channels_, params_.x_vectors, x_at);
    copy_rows<Stages::kFilterVectors>(ys, dy_, params_.plan.channels, dy_channels_, params_.dy_vectors, dy_at);
    ptx::cp_async_commit();
    if (left_ > kDepth) dy_ += static_cast<int64_t>(kDepth) * params_.plan.channels;
    left_ = max(left_ - kDepth, 0);
  }

 private:
  __device__ __forceinline__ static PositionEntry* entries(int index) {
    unsigned char* const bytes = dynamic_shared<unsigned char>() + Stages::kStages * Stages::kStageBytes;
    return reinterpret_cast<PositionEntry*>(bytes) + index % 2 * kDepth;
  }

  __device__ __forceinline__ void find_tap(int tap) {
    const WgradGemmPlan& plan = params_.plan;
    const int line = tap / plan.w.filter;
    s_ = tap - line * plan.w.filter, t_ = line / plan.h.filter, r_ = line - t_ * plan.h.filter;
  }

  // Modulo 2^32: positions in the padding may be far away.
  __device__ __forceinline__ uint32_t pixel(uint32_t d, uint32_t h, uint32_t w) const {
    return (d * params_.plan.h.input + h) * params_.plan.w.input + w;
  }

  // The taps of the tile that meet x from (d, h, w) on.
  __device__ __forceinline__ uint32_t taps_inside(int d, int h, int w) const {
    const WgradGemmPlan& plan = params_.plan;
    int s = s_, t = t_, r = r_;
    uint32_t inside = 0;
#pragma unroll 1
    for (int i = 0; i < tile_taps_; i++) {
      const bool meets = within(d + t * plan.d.dilation, plan.d.input) & within(h + r * plan.h.dilation, plan.h.input) &
                         within(w + s * plan.w.dilation, plan.w.input);
      inside |= static_cast<uint32_t>(meets) << i;
      if (++s == plan.w.filter) s = 0, r++;
      if (r == plan.h.filter) r = 0, t++;
    }
    return inside;
  }

  // The row of a tensor where a vector lies, and whether it does; if not, it is zeros.
  struct Source {
    int row;
    bool there;
  };

  // The thread's vectors of a stage: `tensor` from its vector on, of which `left` of `channels` lie in a row; from(row)
  // is their Source.
  template <int kVectors, typename From>
  __device__ __forceinline__ static void copy_rows(T* to, const T* tensor, int channels, int left, bool vectors,
                                                   const From& from) {
    constexpr int kRows = kThreads / kVectors, kSteps = (kDepth + kRows - 1) / kRows;
    const int thread = static_cast<int>(threadIdx.x), vector = thread % kVectors, first = thread / kVectors;
    if (vectors) {
      const int row_bytes = channels * static_cast<int>(sizeof(T));
      Source source[kSteps];
#pragma unroll
      for (int step = 0; step < kSteps; step++) source[step] = from(first + step * kRows);
#pragma unroll
      for (int step = 0; step < kSteps; step++) {
        const int row = first + step * kRows;
        if (kDepth % kRows != 0 && row >= kDepth) continue;
        const char* const at =
            reinterpret_cast<const char*>(tensor) + static_cast<int64_t>(source[step].row) * row_bytes;
        ptx::cp_async<kVectorBytes>(to + Stages::template place<kVectors>(row, vector) * kElements, at,
                                    source[step].there ? kVectorBytes : 0);
      }
      return;
    }
#pragma unroll 1
    for (int row = first; row < kDepth; row += kRows) {
      const Source source = from(row);
      const T* const at = tensor + static_cast<int64_t>(source.row) * channels;
      Vector<T> values;
#pragma unroll
      for (int e = 0; e < kElements; e++) {
        values.element[e] = source.there && e < left ? at[e] : narrow<T>(0.0f);
      }
      store_vector(to + Stages::template place<kVectors>(row, vector) * kElements, values);
    }
  }
};

// The loop over a split's positions: compute(stage) after the copies of each stage, with kStages - 1 of them under way.
template <typename T, typename Stages, typename Compute>
__device__ __forceinline__ void for_each_stage(StageCopies<T, Stages> copies, const Compute& compute) {
  unsigned char* const shared = dynamic_shared<unsigned char>();
  constexpr int kAhead = Stages::kStages - 1;
  const int depths = copies.depths();
  copies.find(0);
#pragma unroll
  for (int i = 0; i < kAhead; i++) {
    __syncthreads();
    copies.copy(shared + i * Stages::kStageBytes, i);
    copies.find(i + 1);
  }
  int slot = 0;
  for (int i = 0; i < depths; i++) {
    ptx::cp_async_wait<kAhead - 1>();
    __syncthreads();  // this stage is there for all, and the one before is read by all
    const int next = i + kAhead, next_slot = slot == 0 ? kAhead : slot - 1;
    copies.copy(shared + next_slot * Stages::kStageBytes, next);
    copies.find(next + 1);
    compute(shared + slot * Stages::kStageBytes);
    slot = slot + 1 == Stages::kStages ? 0 : slot + 1;
  }
}

// Tile::Sums are a thread's sums: add(stage), and write(block, write, write_bias), which calls write(index in the
// filter, sum) and write_bias(filter, sum).
template <typename T, typename Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    grouped_wgrad_gemm(const __grid_constant__ WgradGemmParams<T> params) {
  using Stages = typename Tile::Stages;
  const WgradBlock<T, Stages> block(params);
  if (block.empty()) return;  // the whole block does
  const PartialSums<T>& to = params.sums;
  typename Tile::Sums sums(block.first_tile && (to.dbias != nullptr || to.partial != nullptr));
  for_each_stage(StageCopies<T, Stages>(block), [&](const unsigned char* stage) { sums.add(stage); });
  write_sums(sums, block, block.split, to);
}

template <typename T, typename Tile>
LaunchPlan plan_tile(const KernelRow& row, const ConvProblem& p, const Device& device, const WgradTile& tile) {
  using Stages = typename Tile::Stages;
  const WgradGemmPlan plan = plan_wgrad_gemm(p, device, tile, Stages::kElements);
  if (std::string reason = blocks_beyond(plan.blocks()); !reason.empty()) return refuse(std::move(reason));
  const LaunchShape shape{
      .grid_x = plan.blocks(), .block_x = Tile::kThreads, .shared_bytes = static_cast<size_t>(Stages::kSharedBytes)};
  return plan_with_sums<T>(
      row, grouped_wgrad_gemm<T, Tile>, shape, plan,
      [plan](const Tensors& t, const PartialSums<T>& sums) { return wgrad_params(plan, t, sums); });
}

// Plans the tile that computes the results at the least cost.
template <typename T, typename... Tiles>
LaunchPlan plan_cheapest(const KernelRow& row, const ConvProblem& p, const Device& device) {
  if (std::string beyond = wgrad_size_beyond(p); !beyond.empty()) return refuse(std::move(beyond));
  const ConvView view = view_of(p);
  LaunchPlan (*plan)(const KernelRow&, const ConvProblem&, const Device&, const WgradTile&) = nullptr;
  WgradTile best{};
  const auto consider = [&](const WgradTile& tile, auto* plan_of) {
    constexpr int kElements = kVectorElements<T>;
    if (plan != nullptr && wgrad_cost(view, tile, kElements) >= wgrad_cost(view, best, kElements)) return;
    best = tile, plan = plan_of;
  };
  (consider({Tiles::Stages::kColumns, Tiles::Stages::kFilters, Tiles::Stages::kDepth, Tiles::kBlocks, Tiles::kCost},
            plan_tile<T, Tiles>),
   ...);
  return plan(row, p, device, best);
}

}  // namespace convbound::grouped
