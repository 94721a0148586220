// From a problem to the plain data of grouped_plan.h.
#pragma once

#include <vector>

#include "csrc/conv_problem.h"
#include "csrc/cpu/grouped_plan.h"
#include "csrc/cpu/integers.h"

namespace convbound::cpu {

// One axis of a pass: which taps each class of target positions has, and where they meet the source.
struct GroupedAxis {
  struct Tap {
    int64_t tap, slot, shift;  // shift: counted from the axis' lowest
  };
  TileAxis tile;
  std::vector<int64_t> residues;
  std::vector<std::vector<Tap>> classes;

  GroupedAxis(const ConvProblem& problem, Pass pass, int axis);
  GroupedAxis(const GroupedAxis&) = delete;

  int64_t steps() const { return (tile.out + tile.out_step - 1) / tile.out_step; }
};

struct GroupedAxes {
  GroupedAxis depth, height, width;

  GroupedAxes(const ConvProblem& problem, Pass pass)
      : depth(problem, pass, 0), height(problem, pass, 1), width(problem, pass, 2) {}

  TilePlan tile(int64_t channels, int64_t rows, int64_t columns) const;
};

// Where the taps of `sources` channels of the filter meet a tile, for each class of target positions [D][H][W]. Source
// channel c, tap t of the filter is w[c * w_channel + t * w_tap]; taps are in the order of the filter's memory.
struct GroupedTaps {
  std::vector<std::vector<TapAt>> taps;
  std::vector<TapList> lists;

  GroupedTaps(const ConvProblem& problem, const GroupedAxes& axes, const TilePlan& tile, int64_t sources,
              int64_t w_channel, int64_t w_tap);
};

// For each vector of `positions`, those lanes whose column, of `pitch`, is one of `width` from `skip` on.
std::vector<RowLanes> row_lanes(int64_t positions, int64_t pitch, int64_t skip, int64_t width, int64_t vector);

// TilePlan::spread; empty where it does not apply.
std::vector<RowLanes> spread_rows(const TilePlan& tile, int64_t vector);

// The steps of a tile along H and W.
struct TileSize {
  int64_t rows, columns;
};

// Candidates for a tile: whole rows, all or fewer; a part of one row where a row is longer than `longest`.
std::vector<TileSize> tile_sizes(const GroupedAxes& axes, int64_t longest);

// Groups that share a tile: one in NCHW; in NHWC as many as fill cache lines.
int64_t groups_per_tile(bool nhwc, int64_t groups, int64_t channels);

}  // namespace convbound::cpu
