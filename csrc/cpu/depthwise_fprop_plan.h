// What the plain-ISA driver (depthwise_fprop.cpp) hands to the vector kernels (depthwise_fprop_simd.h): plain data
// only, because the files that include this are compiled for different instruction sets and must share no inline
// function.
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
// outputs, and its partial sums wait in y.
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

// The other axis (W in NCHW, H in NHWC).
struct CrossAxis {
  int64_t in, out, taps, stride, padding, dilation;
};

struct DepthwisePlan {
  const float* x;
  const float* w;  // NCHW: [K][R][S] as given; NHWC: [panel][R * S + 2][vector], the last rows being the bias and, as
                   // int32, each output's channel counted from the panel's first
  const float* bias;  // NCHW only; may be null
  float* y;
  int64_t n, c, k, multiplier;
  int64_t x_floats;
  int64_t vector;  // floats per vector that the plan was made for
  WindowAxis window;
  CrossAxis cross;

  // A work item is tile_p rows of tile_q outputs of one output plane (NCHW), or tile_q outputs of one row (NHWC).
  int64_t tile_p, tile_q;
  int64_t row_tiles, column_tiles;

  int64_t w_origin, w_tap, w_cross;  // NCHW, floats: a plane's first tap, and steps along R and S (negative: flipped)
  int64_t panels;                    // NHWC: a panel is `vector` consecutive output channels

  int64_t items;  // in the order of y
  int64_t
      stage_floats;  // 0: outputs are stored at once; else they are streamed through a stage of this size per thread
};

// Works items [begin, end). `stage` has stage_floats.
using DepthwiseRange = void (*)(const DepthwisePlan& plan, int64_t begin, int64_t end, float* stage);

struct DepthwiseKernels {
  DepthwiseRange nchw, nhwc;
};

extern const DepthwiseKernels kDepthwiseFpropAvx2;
extern const DepthwiseKernels kDepthwiseFpropAvx512;

}  // namespace convbound::cpu
