// The products of grouped_small for any filter: a list of steps of two taps each, and their weights, in shared memory.
#pragma once

#include "csrc/grouped/grouped_small_tile.h"

namespace convbound::grouped {

constexpr int kUnits = 4;  // products of 16 rows that share B

// The list of steps of a block, all phases one after the other, and the fragments of B: [slab of outputs][step][slab of
// inputs][lane].
struct SmallSteps {
  SmallStep* list;
  uint2* fragments;
};

// The place of a tap's inputs in the tile, in bytes from the place of an octet.
__device__ __forceinline__ int tap_offset(const SmallPlan& plan, int d, int h, int w) {
  const int column = w / plan.w.in_step + w % plan.w.in_step * plan.column_class;
  return (d * plan.depth_pitch + h * plan.row_pitch + column) * 16;
}

__device__ __forceinline__ SmallStep small_step(const SmallPlan& plan, const SmallPhases& phase, int d, int h,
                                                int pair) {
  const SmallPhase &of_d = plan.d.phase[phase.d], &of_h = plan.h.phase[phase.h], &of_w = plan.w.phase[phase.w];
  const int row = (of_d.tap_first + d * plan.d.tap_step) * plan.h.filter + of_h.tap_first + h * plan.h.tap_step;
  SmallStep step;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const bool there = pair * 2 + i < of_w.taps;
    const int w = there ? pair * 2 + i : pair * 2;
    step.offset[i] = tap_offset(plan, of_d.first + d * plan.d.in_tap, of_h.first + h * plan.h.in_tap,
                                of_w.first + w * plan.w.in_tap);
    step.tap[i] = there ? row * plan.w.filter + of_w.tap_first + w * plan.w.tap_step : -1;
  }
  return step;
}

__device__ __forceinline__ int steps_of_phase(const SmallPlan& plan, const SmallPhases& phase) {
  return plan.d.phase[phase.d].taps * plan.h.phase[phase.h].taps * ((plan.w.phase[phase.w].taps + 1) / 2);
}

template <typename T>
__device__ __forceinline__ void list_steps(const SmallParams<T>& p, SmallStep* list) {
  const SmallPlan& plan = p.plan;
  const int phases = plan.phases();
  for (int i = 0; i < phases; i++) {
    const SmallPhases phase = phases_at(p, i);
    const int steps = steps_of_phase(plan, phase);
    const int pairs = (plan.w.phase[phase.w].taps + 1) / 2, rows = plan.h.phase[phase.h].taps;
    for (int step = static_cast<int>(threadIdx.x); step < steps; step += kSmallThreads) {
      list[step] = small_step(plan, phase, step / pairs / rows, step / pairs % rows, step % pairs);
    }
    list += steps;
  }
}

// The fragments of B. The list is complete.
template <typename T>
__device__ __forceinline__ void spread_weights(const SmallParams<T>& p, const SmallBlock& block,
                                               const SmallSteps& steps) {
  const SmallPlan& plan = p.plan;
  const int lane = static_cast<int>(threadIdx.x) % 32, of_slab = plan.steps * plan.depth_slabs;
  for (int slab = 0; slab < plan.out_slabs; slab++) {
    const int first = block.in_slab + met_in_slab(p, block, slab);
    for (int i = static_cast<int>(threadIdx.x) / 32; i < of_slab; i += kSmallWarps) {
      const int step = i / plan.depth_slabs, depth = i % plan.depth_slabs;
      const LaneWeights<T> weights(p, first + depth, block.out_slab + slab);
      const int second = steps.list[step].tap[1];
      steps.fragments[(slab * of_slab + i) * 32 + lane] =
          make_uint2(weights.at(steps.list[step].tap[0]), second < 0 ? 0 : weights.at(second));
    }
  }
}

// Adds up the steps of a phase for 8 octets: 4 products of 16 rows, which share B.
template <typename T>
__device__ __forceinline__ void add_steps(const SmallPlan& plan, const SmallStep* list, const uint2* fragments,
                                          int steps, const unsigned char* const (&in)[kUnits],
                                          float (&sum)[kUnits][4]) {
  const int half = static_cast<int>(threadIdx.x) % 32 / 16;
  for (int step = 0; step < steps; step++) {
    int offset = list[step].offset[half];
    for (int depth = 0; depth < plan.depth_slabs; depth++) {
      const uint2 words = *fragments;
      const uint32_t b[2] = {words.x, words.y};
#pragma unroll
      for (int i = 0; i < kUnits; i++) {
        uint32_t a[4];
        ptx::ldmatrix<4>(a, in[i] + offset);
        ptx::mma_m16n8k16<T>(sum[i], a, b, sum[i]);
      }
      fragments += 32;
      offset += plan.in_pitch;
    }
  }
}

// The outputs of a phase into the stage. A warp has one slab, and every so many octets of it.
template <typename T>
__device__ __forceinline__ void compute_steps(const SmallParams<T>& p, const SmallWarp& warp, const unsigned char* tile,
                                              unsigned char* stage, const SmallStep* list, const uint2* fragments,
                                              int steps, const float (&bias)[4]) {
  const SmallPlan& plan = p.plan;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int octets = plan.octets(), last = octets - 1;
  for (int first = warp.part * kUnits * 2; first < octets; first += warp.parts * kUnits * 2) {
    const unsigned char* in[kUnits];
    float sum[kUnits][4];
#pragma unroll
    for (int i = 0; i < kUnits; i++) {
      in[i] = tile + (octet_inputs<1>(p, min(first + 2 * i + lane / 8 % 2, last)) + lane % 8) * kVectorBytes;
#pragma unroll
      for (int e = 0; e < 4; e++) sum[i][e] = bias[e];
    }
    add_steps<T>(plan, list, fragments, steps, in, sum);
#pragma unroll
    for (int i = 0; i < kUnits; i++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int octet = first + 2 * i + half;
        unsigned char* const to = stage + octet * (kOctet * kVectorBytes) + lane * 4;
        if (octet < octets) stage_pair<T>(to, sum[i][2 * half], sum[i][2 * half + 1]);
      }
    }
  }
}

}  // namespace convbound::grouped
