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
CONVBOUND_INLINE bool inside(const TapChunk& chunk, const Strip& strip) {
  const int64_t at = strip.first + chunk.start;
  return at >= 0 && at + (B + chunk.taps - 2) * strip.step < strip.extent;
}

}  // namespace
}  // namespace convbound::cpu
