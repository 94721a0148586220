// How the depthwise kernels see the axes of a convolution: plain data only, because the files that include this are
// compiled for different instruction sets and must share no inline function.
#pragma once

#include <cstdint>

namespace convbound::cpu {

// Taps tap, tap + tap_step, ... (`taps` of them) along the window axis. The first one meets the first output of a block
// at coordinate `start`, counted from that output's own origin.
struct TapChunk {
  int64_t taps;
  int64_t tap;
  int64_t start;
};

// One or two chunks whose sums stay in registers together. A window of more chunks takes several passes over a block of
// outputs.
struct TapPass {
  int pattern;  // index into kTapPatterns
  TapChunk chunk[2];
};

struct TapPattern {
  int first, second;
};

// The chunk sizes that the kernels unroll. The pairs are 3, 5 and 7 taps at stride 2.
constexpr int kTapPatternCount = 9;
constexpr TapPattern kTapPatterns[kTapPatternCount] = {{1, 0}, {2, 0}, {3, 0}, {4, 0}, {5, 0},
                                                       {7, 0}, {2, 1}, {3, 2}, {4, 3}};

// The axis along which a block of outputs shares its loads (H in NCHW, W in NHWC). Outputs out0 + b * out_step and taps
// tap + j * tap_step meet at in = out0 * stride - padding + start + (b + j) * step: whatever the stride and the
// dilation, only b + j counts, so one load serves every pair with the same sum.
struct WindowAxis {
  int64_t in, out, taps, stride, padding, dilation;
  int64_t out_step;  // dilation / gcd(stride, dilation)
  int64_t tap_step;  // stride / gcd(stride, dilation)
  int64_t step;      // lcm(stride, dilation)
  const TapPass* passes;
  int64_t pass_count;
};

// Any other axis (W in NCHW, H in NHWC).
struct CrossAxis {
  int64_t in, out, taps, stride, padding, dilation;
};

}  // namespace convbound::cpu
