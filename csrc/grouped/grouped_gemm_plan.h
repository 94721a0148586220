// How the implicit GEMM (grouped_gemm.h) divides fprop and dgrad: what a launch knows of an axis, and its tile. Host
// code but for phase_of(), which finds a block's phase.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <numeric>

#include "csrc/common/divisor.h"
#include "csrc/common/kernel.h"
#include "csrc/common/phases.h"

namespace convbound::grouped {

// Positions and channels that a block computes. It does so in steps of 64 bytes of depth: 4 granules of 16.
struct GemmTile {
  int rows, columns;
};
constexpr int kGemmThreads = 128;
constexpr int kGemmGranules = 4;

// An axis of fprop, or of dgrad with all its phases (csrc/common/phases.h). There may be thousands of phases, so a
// block computes its own. With u = phase + padding, tap t meets it where t * dilation = u modulo the stride. Divided by
// their greatest common divisor this has the solution first = u / common * inverse modulo tap_step.
struct GemmAxis {
  AxisView view;
  int longer;                          // so many phases have one output more than the others
  Divisor more, fewer;                 // outputs of these and of those
  int padding_quotient, padding_rest;  // padding = quotient * stride + rest
  int inverse, in_tap;
  Divisor phases;
  IndexDivisor common, tap_step, stride;
};

inline GemmAxis gemm_axis(Pass pass, const AxisView& axis) {
  const bool dgrad = pass == Pass::kDgrad;
  const int stride = dgrad ? axis.stride : 1, common = std::gcd(stride, axis.dilation), tap_step = stride / common;
  const int64_t dilation = axis.dilation / common % tap_step;
  const int rest = static_cast<int>(modulo(axis.padding, stride));
  int inverse = 0;
  for (int i = 0; i < tap_step; i++) {
    if (i * dilation % tap_step == 1) inverse = i;
  }
  const int outputs = dgrad ? axis.input / stride : axis.output;
  return {axis,
          dgrad ? axis.input % stride : 0,
          Divisor(int64_t{outputs} + 1),
          Divisor(std::max(outputs, 1)),
          (axis.padding - rest) / stride,
          rest,
          inverse,
          dgrad ? -axis.dilation / common : axis.dilation,
          Divisor(phases_of(pass, axis)),
          IndexDivisor(common),
          IndexDivisor(tap_step),
          IndexDivisor(stride)};
}

// phase_of() of phases.h without its search and its divisions.
template <Pass kPass>
__device__ __forceinline__ AxisPhase phase_of(const GemmAxis& axis, int phase) {
  const AxisView& v = axis.view;
  if constexpr (kPass == Pass::kFprop) {
    return {0, 1, v.output, v.stride, -v.padding, v.dilation, v.input, v.filter, 0, 1};
  }
  const int reach = phase + axis.padding_rest;
  const auto [multiple, rest] = divide(reach, axis.common);
  const int first = divide(divide(multiple, axis.tap_step).remainder * axis.inverse, axis.tap_step).remainder;
  const bool any = rest == 0 && first < v.filter;
  const int left = any ? reach - first * v.dilation : 0;  // a multiple of the stride, of either sign
  const int quotient = divide(left < 0 ? -left : left, axis.stride).quotient;
  return {phase,
          v.stride,
          phase < axis.longer ? axis.more.size : axis.fewer.size,
          1,
          axis.padding_quotient + (left < 0 ? -quotient : quotient),
          axis.in_tap,
          v.output,
          any ? divide(v.filter - first - 1, axis.tap_step).quotient + 1 : 0,
          first,
          axis.tap_step.size};
}

// What a launch knows without its tensors.
struct GemmShape {
  GemmAxis d, h, w;
  int64_t images;
  int inputs, outputs;         // channels of a group: that are added up over, that are written
  int in_pitch, out_pitch;     // of all groups
  int taps;                    // of the filter
  int granules;                // of a group's inputs
  bool whole;                  // granules are multiples of 16 bytes, wherever they lie
  int tap_skip, granule_skip;  // kGemmGranules granules further are so many taps and granules
  IndexDivisor granule_count;
  Divisor column_tiles, groups;
};

struct GemmPlan {
  GemmTile tile{};
  int64_t blocks = 0;
};

// Blocks of a tile. Each phase has as many tiles of positions as the longest one; blocks without positions end at once.
inline int64_t gemm_blocks(Pass pass, const ConvProblem& p, const GemmTile& tile) {
  const bool dgrad = pass == Pass::kDgrad;
  int64_t positions = p.n, phases = 1;
  for (int i = 0; i < 3; i++) {
    const int64_t count = dgrad ? std::min(p.stride[i], p.input[i]) : 1;
    positions *= dgrad ? divide_up(p.input[i], count) : p.output[i];
    phases *= count;
  }
  const int64_t channels = dgrad ? p.c_per_group() : p.k_per_group();
  return divide_up(positions, tile.rows) * divide_up(channels, tile.columns) * phases * p.groups;
}

// The tile with the least time: that of its products, and of its copies, which weigh the more the narrower it is. A
// small problem is divided among all multiprocessors.
inline GemmPlan plan_gemm(Pass pass, const ConvProblem& p, const Device& device,
                          std::initializer_list<GemmTile> tiles) {
  constexpr int kCopies = 24;  // a position's, in channels
  GemmPlan best;
  double least = 0;
  for (const GemmTile& tile : tiles) {
    const int64_t blocks = gemm_blocks(pass, p, tile);
    const double cost = 1.0 * std::max<int64_t>(blocks, device.sms) * tile.rows * (tile.columns + kCopies);
    if (best.blocks == 0 || cost < least) best = {tile, blocks}, least = cost;
  }
  return best;
}

// Many groups of one channel, each of which would take a block with a tile that is mostly empty; and sizes beyond what
// the kernel holds in 32 bits.
inline std::string gemm_refuses(Pass pass, const ConvProblem& p) {
  constexpr int64_t kMost = (1 << 30) - 1, kMostDepth = (1 << 23) - 1, kMostStride = 32767, kMostSingle = 16384;
  constexpr int64_t kMostPositions = int64_t{1} << 32;
  if (std::string reason = size_beyond(p, kMost); !reason.empty()) return reason;
  if (p.c_per_group() == 1 && p.k_per_group() == 1 && p.groups > kMostSingle) {
    return std::to_string(p.groups) + " groups of one channel, at most " + std::to_string(kMostSingle);
  }
  const bool dgrad = pass == Pass::kDgrad;
  int64_t depths = kMostDepth / std::max(p.c_per_group(), p.k_per_group()), positions = kMostPositions / p.n;
  for (int i = 0; i < 3; i++) {
    depths /= p.filter[i];
    positions /= dgrad ? p.input[i] : p.output[i];
    if (dgrad && p.stride[i] > kMostStride) return "a stride beyond " + std::to_string(kMostStride);
  }
  if (depths == 0) return "taps times channels of a group beyond " + std::to_string(kMostDepth);
  return positions > 0 ? "" : "more than " + std::to_string(kMostPositions) + " positions";
}

// Whether each output's taps of a row are neighbours in memory, for they have all channels and no padding. Then they
// are taken as one tap with the channels of all: an image of three channels is cut into 16x16 patches in runs of 48.
inline bool taps_are_neighbours(Pass pass, const ConvView& v) {
  const int64_t end = int64_t{v.w.output - 1} * v.w.stride + v.w.filter;
  return pass == Pass::kFprop && v.groups == 1 && v.w.dilation == 1 && v.w.padding == 0 && end <= v.w.input;
}

// The shape for granules of so many elements and tiles of so many columns.
inline GemmShape gemm_shape(Pass pass, const ConvProblem& p, int granule_elements, int columns) {
  ConvView v = view_of(p);
  const bool dgrad = pass == Pass::kDgrad;
  const int in_pitch = v.groups * (dgrad ? v.outputs : v.inputs);
  const auto whole = [&](int64_t elements) { return elements % granule_elements == 0; };
  bool whole_rows = true;
  if (taps_are_neighbours(pass, v)) {
    whole_rows = whole(int64_t{v.w.stride} * in_pitch) && whole(int64_t{v.w.input} * in_pitch);
    v.inputs *= v.w.filter;
    v.w.filter = 1;
  }
  const int inputs = dgrad ? v.outputs : v.inputs, outputs = dgrad ? v.inputs : v.outputs;
  const int granules = divide_up(inputs, granule_elements);
  return {gemm_axis(pass, v.d),
          gemm_axis(pass, v.h),
          gemm_axis(pass, v.w),
          v.images,
          inputs,
          outputs,
          in_pitch,
          v.groups * outputs,
          v.taps(),
          granules,
          whole_rows && whole(inputs) && (!dgrad || whole(outputs)),
          kGemmGranules / granules,
          kGemmGranules % granules,
          IndexDivisor(granules),
          Divisor(divide_up(outputs, columns)),
          Divisor(v.groups)};
}

}  // namespace convbound::grouped
