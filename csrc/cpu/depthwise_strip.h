// The operands of a block along the window axis.
#pragma once

#include "depthwise_axes.h"
#include "simd.h"

namespace convbound::cpu {
namespace {

// Where a block's operands lie: coordinate i of the window axis is at origin + i * unit + an offset of the caller's,
// and exists if 0 <= i < extent.
struct Strip {
  const float* origin;
  int64_t first, step, unit, extent;
};

// Whether a block of B outputs finds all operands of a chunk inside the input, so that no coordinate needs a check.
template <int B>
CONVBOUND_INLINE bool inside(const WindowAxis& axis, const TapChunk& chunk, int64_t first, int64_t extent) {
  return first + chunk.start >= 0 && first + chunk.start + (B + chunk.taps - 2) * axis.step < extent;
}

}  // namespace
}  // namespace convbound::cpu
