// What the kernel for dilated NCHW and its choice of tiles share: see dilated_nchw.cu for the algorithm.
#pragma once

#include "csrc/common/divisor.h"
#include "csrc/dilated/dilated.h"

namespace convbound::dilated {

constexpr int kMostThreads = 256;
constexpr int kBatch = 4;  // outputs that a thread of the general kernel makes at a time

// A stage is addressed linearly: row k of a class, of plane i, begins at offset + i * plane + k * step. Whole planes
// lie there as in global memory. The rows of a class, which are copied one by one, have a pitch that is congruent to
// their distance in global memory modulo 16 bytes, so that every row keeps its alignment.
struct Stage {
  int plane, step, row;  // from one row of the plane to the next; 0 where the stage has one class only
  int elements;
};

struct Tile {
  bool whole;    // planes of `groups` groups; else rows and columns of one group
  bool one_row;  // 1-D
  int groups;
  int classes, rows, row_tiles;  // rows of a class in a tile, tiles of a class
  int columns, column_tiles;
  int segments, steps;  // threads that share the walk down a column of a class, and their part
  int class_groups;     // threads that share the classes of a column
  int item_columns;     // of a row that have an item of their own: at 3x3 two columns share one, in 1-D kBatch
  int threads, team, teams, items;  // threads of a block; of one plane's team; teams; items of a plane
  int row_threads;                  // that copy one row, where the plane is cut
  Stage in, out;
  int filter_elements, biases;  // and a zero after them

  int64_t shared_bytes(int64_t element_bytes) const {
    return (int64_t{in.elements} + out.elements + filter_elements) * element_bytes + (int64_t{biases} + 1) * 4;
  }
};

// The same correlation without the taps that meet padding alone.
Correlation without_idle_taps(Correlation);

// After without_idle_taps: the filter in memory may be larger, with rows of tap_row taps.
inline bool is_3x3(const Correlation& c) { return c.h.filter == 3 && c.w.filter == 3 && c.inputs == 1; }

Tile choose_tile(const Correlation&, int element_bytes);

struct NchwParams {
  Correlation c;
  Tile tile;
  Divisor channels;
  IndexDivisor wrap, team, columns, class_groups, column_tiles, row_tiles, cut_classes;
};

}  // namespace convbound::dilated
