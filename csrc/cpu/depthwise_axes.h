// How the depthwise kernels see the axes of a convolution: plain data only, because the files that include this are
// compiled for different instruction sets and must share no inline function.
//
// fprop and dgrad both gather: each output sums products of taps and inputs. In fprop, output p meets input p * stride
// - padding + r * dilation at tap r. In dgrad "output" is a position h of dx and "input" a position of dy: they meet at
// (h + padding - r * dilation) / stride, where that has no remainder, so positions fall into classes, each with taps of
// its own. wgrad goes over the same pairs as fprop.
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

// Every out_step-th output. The origin of the i-th of them is at input coordinate first + i * step.
struct WindowClass {
  int64_t first;
  const TapPass* passes;  // at least one; where there is no tap, one that meets nothing
  int64_t pass_count;
};

// The axis along which a block of outputs shares its loads (H in NCHW, W in NHWC). Outputs b of one class and taps tap
// + j * tap_step meet at origin + start + (b + j) * step: whatever the stride and the dilation, only b + j counts, so
// one load serves every pair with the same sum.
struct WindowAxis {
  int64_t in, out;
  int64_t out_step;  // fprop: dilation / gcd(stride, dilation); dgrad: lcm(stride, dilation)
  int64_t tap_step;  // fprop: stride / gcd(stride, dilation); dgrad: minus that
  int64_t step;      // fprop: lcm(stride, dilation); dgrad: dilation / gcd(stride, dilation)
  int64_t span;      // inputs from an origin to the last that it meets, and one
  const WindowClass* classes;
};

// Every out_step-th output: its j-th tap (of `taps`) is tap + j * tap_step, and the i-th output meets it at input start
// + i * in_step + j * tap_jump.
struct CrossClass {
  int64_t tap, taps, start;
};

// Any other axis (NCHW: D and W, NHWC: D and H).
struct CrossAxis {
  int64_t in, out;
  int64_t out_step, in_step, tap_step, tap_jump;
  const CrossClass* classes;
};

// The inputs that outputs [a, b) meet lie between floor((a * rise + low) / run) and floor(((b - 1) * rise + high) /
// run), both included.
struct Reach {
  int64_t rise, run, low, high;
};

}  // namespace convbound::cpu
