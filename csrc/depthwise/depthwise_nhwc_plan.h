// Host side of the depthwise NHWC kernels: a pass as a gather, and the tile that a block takes of it.
#pragma once

#include "csrc/common/kernel.h"

namespace convbound::depthwise {

// fprop, or dgrad with stride 1, as one equation: result[n,k,p,q] = sum over r,s of source[n,c,p * stride + r *
// dilation
// - padding, ...] * filter. dgrad is fprop with the filter turned around and the padding on the other side.
struct Gather {
  int64_t images, channels, source_channels;
  int64_t per_source, gathered;  // result channels of a source channel, source channels of a result channel
  int64_t source[2], result[2], filter[2], stride[2], padding[2], dilation[2];  // h, w
  bool flip;

  Gather(Pass pass, const ConvProblem& problem);
  int64_t extent(int axis) const { return (filter[axis] - 1) * dilation[axis] + 1; }
};

// What the kernels can compute of a problem at all: depthwise, at most 2-D, coordinates and row sizes in 32 bits.
bool is_gather(Pass pass, const ConvProblem& problem);

// An instance's side of the choice of a tile.
struct PatchShape {
  int vectors, channels, rows, columns, slots;  // as in PatchTraits
  int64_t tile_bytes;                           // at most, unless one patch needs more
  int rounds;                                   // patches that a lane computes one after the other, at most
};

// The tile of a block, in patches, positions and blocks; see depthwise_nhwc_tile.h.
struct TilePlan {
  int64_t patches_h, patches_w, images;  // of a block
  int64_t rows, columns;                 // of the input under them
  int64_t column_group, row_group;       // a position is skipped after so many columns, row_skew after so many rows
  int64_t pitch, row_skew, image_positions;
  int64_t patch_distance;  // of neighbours, in positions
  int64_t tiles_h, tiles_w, slices, blocks;
  int64_t tile_bytes;
};

TilePlan plan_tile(const Gather& gather, const PatchShape& shape);

}  // namespace convbound::depthwise
