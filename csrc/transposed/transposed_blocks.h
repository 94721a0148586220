// Strided depthwise dgrad: the forward of a transposed convolution, and the input gradient of a strided one. Here is
// what its kernels ask of a problem, and what they share of its geometry.
//
// dx is cut into blocks of stride x stride elements: with a = h + padding, block i holds the rows a = i * stride + f of
// phases f < stride. Row a and tap r meet dy's row p = (a - r * dilation) / stride where that division is exact. So a
// block needs every tap of the filter exactly once.
#pragma once

#include <algorithm>
#include <numeric>

#include "csrc/common/integers.h"
#include "csrc/common/kernel.h"
#include "csrc/common/view.h"

namespace convbound::transposed {

constexpr int kMostStride = 16;  // that Phases has room for

// One axis of dx.
struct DxBlocks {
  int first, count;  // blocks that hold any of dx
  int tile, tiles;   // blocks in a tile, tiles in a plane
};

inline DxBlocks make_blocks(const AxisView& axis, int64_t most_in_tile) {
  DxBlocks blocks;
  blocks.first = axis.padding / axis.stride;
  blocks.count = (axis.padding + axis.input - 1) / axis.stride - blocks.first + 1;
  blocks.tiles = static_cast<int>(divide_up(blocks.count, most_in_tile));
  blocks.tile = divide_up(blocks.count, blocks.tiles);
  return blocks;
}

// Which taps meet which elements of an axis of dx, known to a launch and not divided out on the device: for phase f the
// taps r = first + t * step, t < count, and the rows i + offset - t * move of dy.
struct Phases {
  int step, move;
  int first[kMostStride], count[kMostStride], offset[kMostStride];
};

inline Phases make_phases(const AxisView& axis) {
  const int divisor = std::gcd(axis.stride, axis.dilation);
  Phases phases{};
  phases.step = axis.stride / divisor;
  phases.move = axis.dilation / divisor;
  for (int f = 0; f < axis.stride; f++) {
    for (int r = 0; r < phases.step; r++) {
      if ((f - r * axis.dilation) % axis.stride != 0 || r >= axis.filter) continue;
      phases.first[f] = r;
      phases.count[f] = divide_up(axis.filter - r, phases.step);
      phases.offset[f] = (f - r * axis.dilation) / axis.stride;
    }
  }
  return phases;
}

inline std::string problem_refused(const ConvProblem& p) {
  if (p.stride[1] == 1 && p.stride[2] == 1) return "stride 1 along both axes";
  constexpr int64_t kMostSize = (1 << 24) - 1, kMostMultiplier = 64;
  return first_of({not_depthwise_2d(p), multiplier_beyond(p, kMostMultiplier), size_beyond(p, kMostSize)});
}

inline std::string stride_refused(const ConvProblem& p) {
  const int64_t stride = std::max(p.stride[1], p.stride[2]);
  return stride > kMostStride ? "stride " + std::to_string(stride) + ", at most " + std::to_string(kMostStride) : "";
}

// For kernels that know which taps a block has.
inline std::string multiplier_or_dilation_refused(const ConvProblem& p) {
  return first_of({multiplier_beyond(p, 1), p.dilation[1] > 1 || p.dilation[2] > 1 ? "a dilation" : ""});
}

}  // namespace convbound::transposed
