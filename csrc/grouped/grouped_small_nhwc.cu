// grouped_fprop_nhwc_small and grouped_dgrad_nhwc_small: groups of 1 to 16 channels on both sides, 16 bits, any filter,
// stride, dilation and depth; depthwise is the case of one channel. The rows ..._small_march serve 3x3, 3x3x3, 5x5 and
// 7x7 at stride 1. The equation is the tap list of phases.h: an output reads inputs some steps apart, which is fprop,
// and dgrad phase by phase.
//
// So few channels for each output are bound by memory: 4.5 FLOP a byte for depthwise 3x3, 18 with 4 channels a group.
// So x is read once, by 16-byte cp.async, with its halo, into
//
//   tile[slab of 8 channels][image][depth][row][column]     16 bytes a position
//
// 8 neighbouring columns are one 8x8 matrix of ldmatrix, an octet. One mma_m16n8k16 multiplies two octets (M) at two
// taps of a filter row x 8 channels (K) with the weights of 8 outputs (N). Weights of channels that are not in one
// group are zeros: B is block-diagonal with 4 channels a group and diagonal for depthwise. Groups need not begin at
// slabs: a slab of outputs meets as many slabs of inputs as its groups touch, two with 16 channels a group. An infinity
// times such a zero is a NaN, so that it reaches neighbouring groups (docs/nonfinite.md).
//
// The kernel for any filter has a list of steps of two taps, where their inputs lie, and B in shared memory. A stride's
// columns are split by their remainder, so that an octet's inputs are neighbours. The kernel that marches has B in
// registers. Its warp loads a row of the input once, and multiplies it into all rows of the output that it meets.
// Outputs go back through shared memory, as 16-byte stores of all slabs of the block.
//
// A block has 1, 2 or 4 slabs, for neighbouring slabs share sectors, and walks some tiles with the same weights: the
// next one is copied while this one is stored.
//
// Counted (sm_80, fp16, batch 64; SM-L2 bytes by the emulator, executed instructions by nvdisasm and the emulator):
//
//                                 instructions per output     the FMA kernel's     SM-L2 over compulsory
//   depthwise 3x3, 144 x 56 x 56            9.0                    34.9                    1.08
//   depthwise 3x3, 192 x 28 x 28           11.7                    31.6                    1.04
//   depthwise 5x5, 240 x 28 x 28           16.3                    53.0                    1.09
//   depthwise 7x7,  96 x 56 x 56           19.9                    84.8                    1.32
//
// The marching loop has 150, 239 and 363 instructions for 8 rows of two octets; 40, 104 and 200 of them multiply.
// Planes of 28 compute 32 rows and columns. What binds at 3x3 is DRAM, at 7x7 tensor cores.
//
// Occupancy: 128 threads; 96 registers at 3x3 and for any filter, 128 else, so 4 or 5 blocks on a multiprocessor, which
// 33 to 48 KB of shared memory allow. In flight is the tile of each block, more than half of that.
#include "csrc/common/via_nhwc.h"
#include "csrc/grouped/grouped_small_march.h"
#include "csrc/grouped/grouped_small_steps.h"

namespace convbound::grouped {

namespace {

// Where things lie in shared memory: the tile, the outputs on their way, and the filter where it is not in registers.
struct SmallMemory {
  unsigned char *tile, *stage, *filter;

  __device__ __forceinline__ explicit SmallMemory(const SmallPlan& plan) {
    tile = dynamic_shared<unsigned char>();
    stage = tile + plan.tile_bytes;
    filter = stage + plan.stage_bytes;
  }
};

// Walks the tiles of a block, phase by phase; compute(phase) puts the outputs of one into the stage. While these are
// stored, the inputs of the next tile are on their way.
template <typename T, typename Compute>
__device__ __forceinline__ void walk_tiles(const SmallParams<T>& p, const SmallBlock& block, const SmallMemory& memory,
                                           const Compute& compute) {
  const int phases = p.plan.phases(), turns = block.tiles * phases + 1;
  SmallPlace place{}, computed{};
  int tile = block.tile, phase = 0;
  for (int turn = 0; turn < turns; turn++) {
    const bool more = turn + 1 < turns;
    if (phase == 0 && more) {
      place = small_place(p, tile);
      copy_tile(p, block, place, memory.tile);
    }
    if (turn > 0) store_tile(p, block, computed, phases_at(p, phase == 0 ? phases - 1 : phase - 1), memory.stage);
    if (more) {
      ptx::cp_async_wait_all();
      __syncthreads();
      compute(phase);
      __syncthreads();
    }
    computed = place;
    phase = phase + 1 < phases ? phase + 1 : 0;
    tile += phase == 0 ? 1 : 0;
  }
}

template <typename T>
__global__ void __launch_bounds__(kSmallThreads, 5) grouped_nhwc_small(const __grid_constant__ SmallParams<T> params) {
  const SmallPlan& plan = params.plan;
  const SmallBlock block = small_block(params);
  const SmallMemory memory(plan);
  const SmallWarp warp = small_warp(params, block);
  SmallStep* const list = reinterpret_cast<SmallStep*>(memory.filter);
  uint2* const fragments = reinterpret_cast<uint2*>(list + plan.steps);
  list_steps(params, list);
  __syncthreads();
  spread_weights(params, block, {list, fragments});
  float bias[4];
  lane_bias(params, block.out_slab + warp.out_slab, bias);
  const uint2* const mine = fragments + warp.out_slab * plan.steps * plan.depth_slabs * 32 + threadIdx.x % 32;
  int first = 0;
  walk_tiles(params, block, memory, [&](int phase) {
    if (phase == 0) first = 0;
    const int steps = steps_of_phase(plan, phases_at(params, phase));
    if (!warp.idle) {
      compute_steps(params, warp, memory.tile + warp.in_slab * plan.in_pitch,
                    memory.stage + warp.out_slab * plan.out_pitch, list + first, mine + first * plan.depth_slabs * 32,
                    steps, bias);
    }
    first += steps;
  });
}

template <typename T, typename Traits>
__global__ void __launch_bounds__(kSmallThreads, Traits::kBlocks)
    grouped_nhwc_small_march(const __grid_constant__ SmallParams<T> params) {
  const SmallPlan& plan = params.plan;
  const SmallBlock block = small_block(params);
  const SmallMemory memory(plan);
  const SmallWarp warp = small_warp(params, block);
  const MarchWeights<Traits> weights(params, block.in_slab + warp.in_slab, block.out_slab + warp.out_slab);
  float bias[4];
  lane_bias(params, block.out_slab + warp.out_slab, bias);
  walk_tiles(params, block, memory, [&](int) {
    if (warp.idle) return;
    compute_bands(params, warp, weights, memory.tile + warp.in_slab * plan.in_pitch,
                  memory.stage + warp.out_slab * plan.out_pitch, bias);
  });
}

template <typename T>
using SmallKernel = void (*)(SmallParams<T>);

// The kernel that is specialised for a filter, or none.
template <typename T>
SmallKernel<T> march_kernel(const SmallAxis (&axes)[3], int depth_slabs) {
  const auto& [d, h, w] = axes;
  for (const SmallAxis& axis : axes) {
    const bool all_taps = axis.phases == 1 && axis.phase[0].taps == axis.filter;
    const bool plain = all_taps && axis.in_step == 1 && axis.out_step == 1 && std::abs(axis.in_tap) == 1;
    if (!plain) return nullptr;
  }
  if (h.filter != w.filter) return nullptr;
  const auto is = [&](int depth, int side, int slabs) {
    return d.filter == depth && h.filter == side && depth_slabs == slabs;
  };
  if (is(1, 3, 1)) return grouped_nhwc_small_march<T, MarchTraits<3, 1, 1>>;
  if (is(1, 3, 2)) return grouped_nhwc_small_march<T, MarchTraits<3, 1, 2>>;
  if (is(3, 3, 1)) return grouped_nhwc_small_march<T, MarchTraits<3, 3, 1>>;
  if (is(1, 5, 1)) return grouped_nhwc_small_march<T, MarchTraits<5, 1, 1>>;
  if (is(1, 7, 1)) return grouped_nhwc_small_march<T, MarchTraits<7, 1, 1>>;
  return nullptr;
}

template <typename T>
SmallParams<T> small_params(const ConvView& v, const SmallPlan& plan, Pass pass, const ConvTensors<T>& tensors) {
  const int rows = plan.march > 0 ? plan.h.tile / kBand : plan.h.tile;
  return {tensors,
          plan,
          v.images,
          v.in_channels(),
          v.out_channels(),
          v.inputs,
          v.outputs,
          v.taps(),
          pass == Pass::kDgrad,
          rows_at_boundaries<T>(tensors.in, v.in_channels()),
          rows_at_boundaries<T>(tensors.out, v.out_channels()),
          SmallSpread(plan.in_slabs, plan.w.extent),
          SmallSpread(plan.out_slabs, plan.w.tile),
          IndexDivisor(v.outputs),
          IndexDivisor(plan.w.tile / kOctet),
          IndexDivisor(rows),
          IndexDivisor(plan.d.tile),
          IndexDivisor(plan.w.in_step),
          IndexDivisor(plan.w.phases),
          IndexDivisor(plan.h.phases),
          IndexDivisor(plan.slab_groups),
          IndexDivisor(plan.w.tiles),
          IndexDivisor(plan.h.tiles),
          IndexDivisor(plan.d.tiles)};
}

// A launch of the kernel that is specialised for the problem's filter, or of the one for any filter.
template <typename T, bool kMarch>
LaunchPlan plan_small_row(const KernelRow& row, const ConvProblem& problem, const Device&) {
  if (std::string reason = small::refuse(problem, row.pass); !reason.empty()) return refuse(std::move(reason));
  ConvView view = view_of(problem);
  const SmallAxis axes[3] = {small::axis_of(row.pass, view.d), small::axis_of(row.pass, view.h),
                             small::axis_of(row.pass, view.w)};
  if (row.pass == Pass::kDgrad) std::swap(view.inputs, view.outputs);
  SmallKernel<T> kernel = grouped_nhwc_small<T>;
  if constexpr (kMarch) kernel = march_kernel<T>(axes, small::slabs_met(view, 1));
  if (kernel == nullptr) return refuse("no 3x3, 3x3x3, 5x5 or 7x7 at stride 1 within one or two slabs of channels");
  const SmallPlan plan = plan_small(view, axes, kMarch ? view.h.filter : 0);
  if (plan.images == 0) return refuse("the inputs of 8 neighbouring outputs, or the filter, exceed shared memory");
  if (small::all_tiles(plan, view.images) > (1 << 30)) return refuse("more than 2^30 tiles");
  const LaunchShape shape{.grid_x = int64_t{plan.tile_groups} * plan.slab_groups,
                          .block_x = kSmallThreads,
                          .shared_bytes = static_cast<size_t>(plan.shared_bytes())};
  return plan_launch_of(row, kernel, shape, [=, pass = row.pass](const Tensors& t) {
    return small_params(view, plan, pass, with_tensors(ConvTensors<T>{}, pass, t));
  });
}

// Rows under a name for each pass and layout.
template <bool kMarch>
KernelRows rows_of(const char* const (&names)[4], const char* tile) {
  return rows_of_types<__half, __nv_bfloat16>([&]<typename T> {
    KernelRows rows = with_dgrad({.name = names[0],
                                  .family = Family::kGrouped,
                                  .pass = Pass::kFprop,
                                  .dtype = kDTypeOf<T>,
                                  .layout = Layout::kChannelsLast,
                                  .min_arch = 80,
                                  .tensor_cores = true,
                                  .tile = tile,
                                  .plan = plan_small_row<T, kMarch>},
                                 names[1]);
    for (int pass = 0; pass < 2; pass++)
      rows.push_back(via_nhwc<T, plan_small_row<T, kMarch>>(rows[pass], names[2 + pass]));
    return rows;
  });
}

}  // namespace

KernelRows small_march_rows() {
  return rows_of<true>({"grouped_fprop_nhwc_small_march", "grouped_dgrad_nhwc_small_march",
                        "grouped_fprop_nchw_small_march", "grouped_dgrad_nchw_small_march"},
                       "4 warps, 8 rows x 16 columns x 8 channels each");
}

KernelRows small_rows() {
  return rows_of<false>(
      {"grouped_fprop_nhwc_small", "grouped_dgrad_nhwc_small", "grouped_fprop_nchw_small", "grouped_dgrad_nchw_small"},
      "4 warps, 64 positions x 8 channels each");
}

}  // namespace convbound::grouped
