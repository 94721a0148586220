// What the plain-ISA driver (depthwise_wgrad.cpp) hands to the vector kernels (depthwise_wgrad_nchw.h,
// depthwise_wgrad_nhwc.h): plain data only, see depthwise_axes.h.
#pragma once

#include "depthwise_axes.h"

namespace convbound::cpu {

// Outputs [p0, p1) x [q0, q1) of one plane. x and dy: where row 0, column 0 of the planes would be (NHWC: of the slab's
// first channel), of which only what the outputs meet need be there.
struct WgradTile {
  const float* x;
  const float* dy;
  int64_t p0, p1, q0, q1;
};

// An axis as the problem has it.
struct PlainAxis {
  int64_t in, out, taps, stride, padding, dilation;
};

struct WgradPlan {
  WindowAxis window;
  PlainAxis along, across;                 // along the window axis, and the other one
  int64_t x_row, x_unit, dy_row, dy_unit;  // floats from row to row and from column to column
  int64_t sum_window, sum_cross;           // rows of sums from tap to tap along either axis
  int64_t sum_rows;                        // of a plane (NCHW) or panel (NHWC): T R S taps and the bias

  // NHWC: a panel is one vector of output channels, a slab several panels.
  int64_t k, multiplier, slab_panels;
  const int32_t* sources;     // [panel][vector]: the channel of x that each meets, counted from the panel's first
  int64_t x_ahead, dy_ahead;  // NHWC: floats from a tile to the one that is asked for meanwhile, per tile of a step
};

// A few taps, for all tiles: taps [cross_tap, cross_tap + cross_taps) across the window, and a pass along it.
struct WgradStep {
  const WgradTile* tiles;
  int64_t tile_count;
  const TapPass* pass;
  int64_t cross_tap, cross_taps;
  int64_t panel, panel_end;  // NHWC
  bool fresh;                // the sums begin with these tiles
  bool prefetch;             // ask for the rows that come next
};

// How many taps across the window a pass of each pattern may take at once: as many sums as registers allow, and enough
// to cover the latency of a multiply-add.
constexpr int kMostCrossTaps[kTapPatternCount] = {4, 4, 3, 2, 2, 1, 3, 2, 1};

// Adds to `sums` (rows of one vector: NCHW of one plane's channel, NHWC of the slab that begins with its first panel).
using WgradSweep = void (*)(const WgradPlan& plan, const WgradStep& step, float* sums);

struct WgradKernels {
  WgradSweep nchw, nhwc;
  WgradSweep nchw_bias, nhwc_bias;  // sums of dy alone; `sums` is the row of the (first panel's) bias
  // totals[i] = the sum of the lanes of sums[i]
  void (*add_lanes)(const float* sums, int64_t rows, float* totals);
};

extern const WgradKernels kDepthwiseWgradAvx2;
extern const WgradKernels kDepthwiseWgradAvx512;        // 16 floats a vector
extern const WgradKernels kDepthwiseWgradAvx512Narrow;  // 8, for NCHW planes at most that wide

}  // namespace convbound::cpu
