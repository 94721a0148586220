// What the plain-ISA drivers of the grouped kernels (grouped_gather.cpp, grouped_wgrad.cpp) hand to the vector kernels:
// plain data only, because the files that include this are compiled for different instruction sets and must share no
// inline function.
#pragma once

#include <cstdint>

namespace convbound::cpu {

// One spatial axis, as seen by the i-th step of the target: target coordinates out_step * i + class, source coordinates
// in_step * (i + shift) + residue, with `shift` between low and low + reach and one of a few residues (slots).
//
//   fprop, wgrad  target: y, source: x; p = i, h = p * stride + r * dilation - padding, so in_step is the stride.
//   dgrad         target: dx, source: dy; p = (h + padding - r * dilation) / stride, so out_step is the stride, and
//                 each class of positions h has the taps r for which that division leaves nothing.
struct TileAxis {
  int64_t in, out;
  int64_t in_step, out_step;
  int64_t low, reach;
  int64_t slots;
  const int64_t* residues;
};

// For a vector of positions, those that belong to a row: which lanes, and how many come before the vector.
struct RowLanes {
  int32_t mask, before;
};

// How a tile of the source lies in memory: [channel][slot and shift along D][slot along H][slot along W][row][pitch],
// converted to fp32, zeros for padding. Then step (row, column) of the target meets tap (t, r, s) of channel c at row *
// pitch + column + an offset of (c, t, r, s) alone, whatever the stride, the dilation, the padding and the layout.
struct TilePlan {
  TileAxis depth, height, width;
  int64_t channels;       // of the tensor
  int64_t rows, columns;  // steps of a tile; one along D
  int64_t pitch;      // floats from row to row; where the zeros at a row's end serve the next one's beginning, fewer
  int64_t plane;      // floats of the innermost three dimensions, and as many as vectors may reach beyond
  int64_t planes;     // per channel
  int64_t positions;  // from the first step of a full tile to its last, those between the rows included
  // Where whole rows of the source are in the tile, in order: one entry for each vector of positions from the first row
  // that has values. Null elsewhere, and where the instruction set does not spread values over lanes.
  const RowLanes* spread;
};

// The tensors' element type, as an index into tables of kernels.
constexpr int kElementTypes = 3;  // fp32, fp16, bf16

// Where a source value and a tap meet: offsets into the tile and into the filter.
struct TapAt {
  int64_t source, w;
};

// A class of target positions.
struct TapList {
  const TapAt* taps;
  int64_t count;
};

struct GroupedPlan {
  const void* source;
  void* target;
  const float* w;
  const float* bias;  // may be null
  TilePlan tile;
  int64_t n, groups;
  int64_t in_fan, out_fan;  // channels of the source and of the target per group
  int64_t w_group, w_lane;  // floats of the filter from group to group, and from target channel to target channel
  const TapList* classes;   // [D][H][W]
  int64_t depth_classes, height_classes, width_classes;

  // A work item is one tile of `bundle` groups; they are in the order of the target.
  int64_t bundle, bundles, row_tiles, column_tiles, items;
  // NCHW: one entry for each vector of positions, where results go to the target as they come out of registers; null
  // where they go to a tile of their own.
  const RowLanes* pack;
  // Per thread, in floats.
  int64_t source_floats, result_plane, result_floats;
};

struct GroupedWgradPlan {
  const void* x;
  const void* dy;
  TilePlan x_tile, dy_tile;
  int64_t n, groups, c_fan, k_fan;
  const TapAt* taps;
  int64_t tap_count;
  int64_t w_group, w_lane, w_floats;
  bool bias;

  // A work item is one chunk of the tiles for one bundle of groups; tiles are read `stack` at a time.
  int64_t bundle, bundles, row_tiles, column_tiles, tiles, stack, chunks;
  int64_t x_floats, dy_floats;  // per tile
};

using GroupedRange = void (*)(const GroupedPlan& plan, int64_t begin, int64_t end, float* memory);

// Adds up one item: `sums` is a whole filter, followed by a bias gradient.
using GroupedWgradItem = void (*)(const GroupedWgradPlan& plan, int64_t chunk, int64_t bundle, float* memory,
                                  float* sums);

struct GroupedKernels {
  int64_t vector;  // floats
  GroupedRange nchw[kElementTypes], nhwc[kElementTypes];
  GroupedWgradItem wgrad_nchw[kElementTypes], wgrad_nhwc[kElementTypes];
};

extern const GroupedKernels kGroupedAvx2;
extern const GroupedKernels kGroupedAvx512;

}  // namespace convbound::cpu
