// What the plain-ISA driver (depthwise_fprop.cpp) hands to the vector kernels (depthwise_fprop_simd.h): plain data
// only, because the files that include this are compiled for different instruction sets and must share no inline
// function.
#pragma once

#include "depthwise_axes.h"

namespace convbound::cpu {

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
