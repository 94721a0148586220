// depthwise_wgrad: dw[k,r,s] = sum over n,p,q of dy[n,k,p,q] * x[n,k/multiplier,h,w] and dbias[k] = sum over n,p,q of
// dy, with h = p * stride + r * dilation - padding (w alike), in fp32, rounded once.
//
// Floor: x and dy are read once; the outputs are small. 2 R S FLOPs a position stand against 4 bytes in fp16. 3x3 is
// bound by memory on every GPU, 5x5 and more by the issue of FMAs on an H100. A thread per filter element (the naive
// kernel) reads x and dy R S times.
//
// Here a block takes one channel (NCHW) or 32 (NHWC) and some of the images. A thread owns one or two columns of dy and
// walks down their rows with all R S sums in registers. At each row of x it loads the S (+ 1) values that its columns
// meet, and multiplies them with the last R rows of dy, which it keeps in registers. So each x costs one load per
// filter column, and each dy one load.
//
// x and dy come through shared memory in stages of a few rows, by 16-byte cp.async, in a ring that runs through all
// images of the block without a pause. The rows of dy outlive the stages, so there is no halo of rows. In NCHW whole
// rows are one run of memory, at any alignment, and there is no halo of columns either: x and dy are read exactly once.
// In NHWC a warp's lanes are 32 channels and its block takes up to 16 columns. x is then read (16 + S - 1) / 16 times
// (for 3x3: 1.06 of compulsory in all, for 7x7 1.19).
//
// At the end the block adds up its threads' sums in shared memory, in a fixed order. csrc/common/partial_sums.h adds up
// the blocks.
//
// Larger filters are cut into tiles of taps. In NCHW the warps of a block take a tile each, over the same stages, so
// that x and dy are still read once up to 16 tiles of 8x8. In NHWC a block has one tile, and x and dy come from L2 once
// per tile, which 49 and more FMAs a position outweigh. Other cases:
//   - strides above 2 and dilations load x for each tap (kPlain); in NHWC most dilations go to
//     csrc/dilated/dilated_wgrad_nhwc.cu;
//   - one long row (1-D, NCHW) is folded into rows of 128 columns (kFolded);
//   - 1-D in NHWC is a walk down the sequence;
//   - a channel multiplier m reads x m times.
//
// Per multiprocessor in flight: blocks x 2 stages of about 6 KB (NCHW 3x3 on sm_80: 8 x 2 x 6 = 96 KB), NHWC 3 x 2
// x 11.
#pragma once

#include "csrc/depthwise/depthwise_wgrad_sums.h"

namespace convbound::depthwise {

template <typename Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kBlocks)
    depthwise_wgrad(const __grid_constant__ WgradParams<typename Traits::Element> params) {
  const WgradBlock<Traits> block(params);
  const WgradPlan& plan = params.plan;
  const WgradPlace place = WgradPlace::of(block);
  unsigned char* const shared = dynamic_shared<unsigned char>();

  const int first_unit = block.split * plan.block_units;
  const int end_unit = min(first_unit + plan.block_units, plan.units);
  const int rounds = (end_unit - first_unit + plan.slots - 1) / plan.slots;
  const int dy_offset = plan.slots * plan.x_slot_bytes;

  // All threads copy, the same number for each slot; pairs, for a sector.
  const int copiers = max(plan.threads / plan.slots & ~1, 1);
  const int copy_slot = static_cast<int>(threadIdx.x) / copiers;
  const int copy_lane = static_cast<int>(threadIdx.x) - copy_slot * copiers;
  const int copy_end = copy_slot < plan.slots ? end_unit : 0;
  int copy_unit = first_unit, copy_chunk = 0;  // of the first slot
  const auto copy_stage = [&](int stage) {
    unsigned char* const at = shared + stage * plan.stage_bytes;
    block.copy(at + copy_slot * plan.x_slot_bytes, at + dy_offset + copy_slot * plan.dy_slot_bytes,
               unit_at(plan, copy_unit + copy_slot, copy_end), copy_chunk, copy_lane, copiers);
    ptx::cp_async_commit();
    if (++copy_chunk == plan.chunks) copy_chunk = 0, copy_unit += plan.slots;
  };
  const int ahead = plan.stages - 1;
  for (int stage = 0; stage < ahead; stage++) copy_stage(stage);

  WgradSums<Traits> sums;
  int stage = 0, chunk = 0, slot_unit = first_unit;
  for (int left = rounds * plan.chunks; left > 0; left--) {
    if (ahead == 1) {
      ptx::cp_async_wait<0>();
    } else {
      ptx::cp_async_wait<1>();
    }
    __syncthreads();  // the stage is there for all, and the one before it is read by all
    copy_stage(stage == 0 ? ahead : stage - 1);
    const WgradUnit unit = unit_at(plan, slot_unit + place.slot, place.active ? end_unit : 0);
    if (chunk == 0) sums.start(block, place, unit);
    const unsigned char* const at = shared + stage * plan.stage_bytes;
    sums.walk(block, place, unit, chunk, at + place.slot * plan.x_slot_bytes,
              at + dy_offset + place.slot * plan.dy_slot_bytes);
    stage = stage == ahead ? 0 : stage + 1;
    if (++chunk == plan.chunks) chunk = 0, slot_unit += plan.slots;
  }
  ptx::cp_async_wait_all();
  sums.reduce(block, place);
}

template <typename Traits, typename T = typename Traits::Element>
WgradParams<T> wgrad_params(const WgradPlan& plan, const Tensors& t, const PartialSums<T>& sums) {
  // In NHWC a granule is 16 bytes of channels; in NCHW of a row, at any alignment of the tensor.
  const bool x_granules = Traits::kChannelsLast ? rows_at_boundaries<T>(t.x, plan.in_channels()) && plan.outputs == 1
                                                : rows_at_boundaries<T>(nullptr, plan.w.input);
  const bool dy_granules =
      Traits::kChannelsLast ? rows_at_boundaries<T>(t.y, plan.channels) : rows_at_boundaries<T>(nullptr, plan.w.output);
  return {plan,
          {static_cast<const T*>(t.x), plan.images * plan.x.image},
          {static_cast<const T*>(t.y), plan.images * plan.dy.image},
          sums,
          x_granules,
          dy_granules};
}

// Calls f(tile) with the tile of taps that serves the problem best.
template <Layout kLayout, int kFilter, typename F>
auto with_tap_tile(const ConvProblem& p, const F& f) {
  constexpr bool kChannelsLast = kLayout == Layout::kChannelsLast;
  constexpr int kWarps = kChannelsLast ? 8 : 4;
  if constexpr (kFilter > 0) {
    return p.stride[1] == 1 ? f(Sliding<kFilter, kFilter, 1, kWarps>{}) : f(Sliding<kFilter, kFilter, 2, kWarps>{});
  } else {
    const bool sliding = p.stride[1] == 1 && p.stride[2] == 1 && p.dilation[1] == 1 && p.dilation[2] == 1;
    const int64_t r = p.filter[1], s = p.filter[2];
    const auto taps = [&](int64_t tile) { return divide_up(r, tile) * divide_up(s, tile) * tile * tile; };
    if constexpr (kChannelsLast) {
      // In one dimension the walk is along it.
      if (sliding && (s == 1 || (p.input[1] == 1 && r == 1))) {
        return r * s < 5 ? f(Sliding<4, 1, 1, kWarps>{}) : f(Sliding<8, 1, 1, kWarps>{});
      }
      if (!sliding || r < 4 || s < 4) return f(Plain<3, 3, kWarps>{});
      return taps(5) < taps(7) ? f(Sliding<5, 5, 1, kWarps>{}) : f(Sliding<7, 7, 1, kWarps>{});
    } else {
      if (p.input[1] == 1 && r == 1 && p.output[1] == 1 && p.padding[1] == 0) {
        return s < 5 ? f(Folded<4, kWarps>{}) : f(Folded<8, kWarps>{});
      }
      if (!sliding) return f(Plain<3, 3, kWarps>{});
      if (s < 3) return f(Sliding<8, 1, 1, 16>{});
      if (r < 3) return f(Sliding<1, 8, 1, 16>{});
      return taps(5) < taps(8) ? f(Sliding<5, 5, 1, 16>{}) : f(Sliding<8, 8, 1, 16>{});
    }
  }
}

// What the sizes of a problem must keep to, whatever the tile: with room for sums and for bytes in 32 bits.
inline std::string wgrad_refuse(const ConvProblem& p) {
  constexpr int64_t kMost = (1 << 28) - 1;
  const std::string reason = first_of({size_beyond(p, kMost), not_depthwise_2d(p)});
  if (!reason.empty()) return reason;
  return p.n <= kMost && p.input_size() <= kMost && p.output_size() <= kMost ? "" : "images or a plane beyond 2^28";
}

template <typename T, Layout kLayout, int kFilter>
LaunchPlan plan_wgrad_row(const KernelRow& row, const ConvProblem& p, const Device& device) {
  if (std::string reason = wgrad_refuse(p); !reason.empty()) return refuse(std::move(reason));
  if (kFilter > 0 && (p.dilation[1] > 1 || p.dilation[2] > 1)) return refuse("a dilation");
  if (kFilter > 0 && (p.stride[1] != p.stride[2] || p.stride[1] > 2)) return refuse("made for strides 1x1 and 2x2");
  return with_tap_tile<kLayout, kFilter>(p, [&](auto tile) {
    using Traits = WgradTraits<T, kLayout, decltype(tile)>;
    const std::optional<WgradPlan> found = plan_wgrad<Traits>(wgrad_view(p, kLayout), device);
    if (!found) return refuse("no stage of rows fits into shared memory with work for its threads");
    return plan_with_sums<T>(row, depthwise_wgrad<Traits>, wgrad_shape(*found), *found,
                             [plan = *found](const Tensors& tensors, const PartialSums<T>& sums) {
                               return wgrad_params<Traits>(plan, tensors, sums);
                             });
  });
}

template <typename T, Layout kLayout, int kFilter>
KernelRow wgrad_row(const char* name) {
  return {.name = name,
          .family = Family::kDepthwise,
          .pass = Pass::kWgrad,
          .dtype = kDTypeOf<T>,
          .layout = kLayout,
          .filter = kFilter,
          .tile = kFilter == 0 ? "tiles of 8x8, 5x5, 8x1, 1x8 or 3x3 taps a warp, columns a thread"
                               : "all taps in registers, 1 or 2 columns a thread",
          .plan = plan_wgrad_row<T, kLayout, kFilter>};
}

// The rows of one element type: a file each, because each compiles for minutes.
template <typename T>
KernelRows wgrad_rows() {
  constexpr Layout kFirst = Layout::kChannelsFirst, kLast = Layout::kChannelsLast;
  KernelRows rows{wgrad_row<T, kLast, 3>("depthwise_wgrad_3x3"), wgrad_row<T, kLast, 5>("depthwise_wgrad_5x5"),
                  wgrad_row<T, kLast, 7>("depthwise_wgrad_7x7"), wgrad_row<T, kLast, 0>("depthwise_wgrad")};
  if constexpr (sizeof(T) == 4) {  // in 16 bits depthwise_wgrad_nchw_mma serves these
    rows.insert(rows.end(),
                {wgrad_row<T, kFirst, 3>("depthwise_wgrad_3x3"), wgrad_row<T, kFirst, 5>("depthwise_wgrad_5x5"),
                 wgrad_row<T, kFirst, 7>("depthwise_wgrad_7x7")});
  }
  rows.push_back(wgrad_row<T, kFirst, 0>("depthwise_wgrad"));
  return rows;
}

}  // namespace convbound::depthwise
