// The two kernels of depthwise wgrad, for all layouts, element types and tiles of taps: the pipeline of stages, and the
// sum over blocks. depthwise_wgrad.h has the algorithm.
#pragma once

#include "csrc/depthwise/depthwise_wgrad.h"
#include "csrc/depthwise/depthwise_wgrad_sums.h"

namespace convbound::depthwise {

template <typename T, Layout kLayout, typename Tile>
__global__ void __launch_bounds__(WgradTraits<T, kLayout, Tile>::kThreads, WgradTraits<T, kLayout, Tile>::kBlocks)
    depthwise_wgrad_kernel(const __grid_constant__ WgradParams<T> params) {
  const WgradBlock<T, kLayout, Tile> block(params);
  const WgradPlan& plan = params.plan;
  const Place place = Place::of(block);
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

  WgradSums<T, kLayout, Tile> sums;
  int stage = 0, chunk = 0, slot_unit = first_unit;
  for (int left = rounds * plan.chunks; left > 0; left--) {
    if (ahead == 1) {
      ptx::cp_async_wait<0>();
    } else {
      ptx::cp_async_wait<1>();
    }
    __syncthreads();  // the stage is there for all, and the one before it is read by all
    copy_stage(stage == 0 ? ahead : stage - 1);
    const Unit unit = unit_at(plan, slot_unit + place.slot, place.active ? end_unit : 0);
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

template <typename T, Layout kLayout, typename Tile>
void launch_wgrad(const ConvProblem& problem, const Tensors& tensors, cudaStream_t stream) {
  const WgradPlan plan = make_wgrad_plan<T, kLayout, Tile>(problem);
  const auto multiple_of_16 = [](const void* at, int64_t step) {
    return (reinterpret_cast<uintptr_t>(at) | static_cast<uintptr_t>(step * static_cast<int64_t>(sizeof(T)))) % 16 == 0;
  };
  constexpr bool kChannelsLast = kLayout == Layout::kChannelsLast;
  const bool x_granules =
      kChannelsLast ? multiple_of_16(tensors.x, problem.c) && plan.multiplier == 1 : multiple_of_16(nullptr, plan.w);
  const bool dy_granules = kChannelsLast ? multiple_of_16(tensors.y, problem.k) : multiple_of_16(nullptr, plan.q);
  const WgradParams<T> params{
      plan,
      {static_cast<const T*>(tensors.x), plan.images * plan.x_image},
      {static_cast<const T*>(tensors.y), plan.images * plan.dy_image},
      {static_cast<T*>(tensors.w), static_cast<T*>(tensors.bias),
       plan.splits > 1 ? static_cast<float*>(tensors.workspace) : nullptr, plan.outputs, plan.channels, plan.splits},
      x_granules,
      dy_granules};
  launch("depthwise_wgrad", depthwise_wgrad_kernel<T, kLayout, Tile>, wgrad_launch_shape(plan), stream, params);
  add_partial_sums("depthwise_wgrad_add", params.sums, stream);
}

}  // namespace convbound::depthwise
