// What the plain-ISA driver (depthwise_gather.cpp) hands to the vector kernels (depthwise_gather_nchw.h,
// depthwise_gather_nhwc.h): plain data only, see depthwise_axes.h.
#pragma once

#include "convert.h"
#include "depthwise_axes.h"

namespace convbound::cpu {

struct GatherPlan {
  // As given: of element_bytes each.
  const void* x;
  void* y;
  int64_t element_bytes;
  const Converter* convert;  // null: fp32
  // fp32. NCHW: [filter][T][R][S]; NHWC: [panel][fan][T][R][S][vector], then a row of biases (zero beyond the channels)
  // and one of the inputs' channels, as int32, counted from the panel's first.
  const float* w;
  const float* bias;  // NCHW only; may be null

  // Of the channels, `fan` inputs meet in one output (dgrad with a channel multiplier), or `share` outputs have one
  // input (fprop with a channel multiplier).
  int64_t n, in_channels, out_channels, fan, share;
  int64_t filter[3];
  WindowAxis window;
  CrossAxis cross, depth;
  Reach rows_met, columns_met;

  // A work item is tile_p rows of tile_q outputs of one output plane. They are in the order of y.
  int64_t tile_p, tile_q;
  int64_t row_tiles, column_tiles, items;
  int64_t x_row, x_unit;  // floats from row to row and from column to column, where the kernel reads x
  int64_t vector;         // floats per vector that the plan was made for
  int64_t panels;         // NHWC: a panel is `vector` consecutive output channels
  int64_t group;          // outputs along the window axis that are finished, and leave the tile, together
  int64_t class_row;      // NCHW: columns kept for each class across, where there are several

  // Per thread, in floats. input: room for a tile's inputs, converted; 0: x is read in place. tile: outputs that wait
  // to be interleaved or narrowed. stage: outputs that are streamed. 0 for both: outputs are stored at once.
  int64_t input_floats, tile_floats, stage_floats;
  bool streams_vectors;  // NHWC: outputs are whole vectors of memory, and streamed without a stage
};

// What a thread works with.
struct GatherMemory {
  void* list;  // kListBytes for each of the fan * T planes (NCHW) or fan * T * R rows (NHWC) that an output may meet
  float* input;
  float* tile;
  float* stage;
};

constexpr int64_t kListBytes = 32;

// Works items [begin, end).
using GatherRange = void (*)(const GatherPlan& plan, int64_t begin, int64_t end, const GatherMemory& memory);

struct GatherKernels {
  GatherRange nchw, nhwc;
};

extern const GatherKernels kDepthwiseGatherAvx2;
extern const GatherKernels kDepthwiseGatherAvx512;

}  // namespace convbound::cpu
