// How the Toeplitz kernel (depthwise_nchw_toeplitz.cu) shares planes out to blocks, warps and products. Host code.
#pragma once

#include <algorithm>

#include "csrc/common/integers.h"
#include "csrc/depthwise/depthwise_nchw.h"

namespace convbound::depthwise {

constexpr int kToeplitzThreads = 128;
// One product makes a tile of 16 rows and 8 columns of output from a strip of 8 columns of input, 16 bytes of each row,
// or from a window of two strips of which the first has an even number.
constexpr int kProductRows = 16, kStrip = 8, kWindow = 2 * kStrip;
constexpr int kWavefront = 64;  // elements that all banks of shared memory give at once
// Shared memory of a block: while that lasts it takes more images of its filter; a plane larger than the second is cut
// into bands.
constexpr int kSeveralImagesBytes = 40 * 1024, kWholePlaneBytes = 72 * 1024;

// The sums that a warp keeps: `tall` times 16 rows of `tiles` times 8 columns, each from `strips` strips at a time.
struct ToeplitzShape {
  int strips, tiles, tall;
};

struct ToeplitzPlan {
  ToeplitzShape shape;
  int images;             // of one filter in a block; rows of theirs that have the same number lie beside each other
  int team_log2;          // threads that copy one image
  int bands, band_rows;   // of a plane's output
  int lead;               // columns of the first tile that lie left of the plane
  int shift;              // columns between the first one of a tile's first strip and the first one that it needs
  int chunks;             // of shape.windows windows, which together hold a tile's columns of input
  int column_groups;      // of shape.tiles tiles
  int skip, left, width;  // columns of the input that are left out, of zeros before the first, of input
  int columns, pitch;     // of a row in shared memory: those that are read, and to the next row, in elements
  int zeros;              // elements before the rows
  int filter_pitch, odd_copy;  // of a row of the filter, and from one copy of the filter to the other one, in elements
  int x_bytes, w_bytes, raw_bytes, y_bytes;  // of shared memory; y for each image

  int64_t shared_bytes() const { return int64_t{x_bytes} + w_bytes + raw_bytes + int64_t{images} * y_bytes; }
};

// Instructions that a thread executes per image with `images` of them in a block, fitted to counts of machine code:
// those of a block, of an image, of an output, and of the 16 or 32 rows that a warp takes at once and each filter row
// that reaches the input from there.
inline double toeplitz_cost(const ConvView& p, const ToeplitzPlan& plan, int images) {
  constexpr double kOfBlock = 400, kOfImage = 41, kOfOutput = 0.122, kOfUnit = 170, kOfRow = 14, kOfProduct = 1.6;
  constexpr int kWarps = kToeplitzThreads / 32;
  const int rows = kProductRows * plan.shape.tall;
  const int units = divide_up(std::min(p.h.output, plan.band_rows) * images, rows) * plan.column_groups;
  const double products = plan.shape.tall * plan.shape.tiles * plan.chunks * (plan.shape.strips + 1) / 2.0;
  const int steps = std::min(p.h.filter, p.h.input + (rows - 1) / images);
  const double of_unit = kOfUnit + steps * (kOfRow * plan.chunks + kOfProduct * products);
  const double of_blocks = plan.bands * (kOfBlock + divide_up(units, kWarps) * of_unit) / images;
  return of_blocks + kOfImage + kOfOutput * p.h.output * p.w.output;
}

// Whether it executes less than half of what the FMA kernel (depthwise_nchw_tiled.cu) does for 4 rows of 8
// columns: 1.75 or 2.5 instructions per tap, as counted.
inline bool toeplitz_halves(const ConvView& p, const ToeplitzPlan& plan) {
  const double of_tap = p.w.filter > 8 ? 2.5 : 1.75;
  const double columns = round_up(p.w.output, 8), rows = round_up(p.h.output, 4);
  return 2 * kToeplitzThreads * toeplitz_cost(p, plan, plan.images) < of_tap * p.h.filter * p.w.filter * rows * columns;
}

// Where columns lie, with tiles that begin `lead` columns left of the plane.
inline ToeplitzPlan arrange_columns(const ConvView& p, int lead, const ToeplitzShape& shape) {
  constexpr int kFewestStrips = 2, kMostStrips = 5;
  ToeplitzPlan plan{};
  plan.lead = lead;
  plan.shift = static_cast<int>(modulo(-lead - p.w.padding, kStrip));
  const int needed = std::max(divide_up(kStrip - 1 + p.w.filter + plan.shift, kStrip), kFewestStrips);
  plan.chunks = divide_up(needed, kMostStrips);
  plan.shape = {divide_up(needed, plan.chunks), shape.tiles, shape.tall};
  plan.column_groups = divide_up(divide_up(p.w.output + lead, kStrip), shape.tiles);
  const int strips = plan.chunks * plan.shape.strips, before = lead + p.w.padding + plan.shift;
  plan.columns = (plan.column_groups * shape.tiles + strips - 1) * kStrip;
  plan.skip = std::max(-before, 0);
  plan.left = std::min(std::max(before, 0), plan.columns);
  plan.width = std::max(0, std::min(p.w.input - plan.skip, plan.columns - plan.left));
  // Eight rows of a strip fall on different banks.
  plan.pitch = plan.columns % 16 == 0 ? plan.columns + 8 : plan.columns;
  // A row of zeros, to be read from the bank on which the row begins that it stands for.
  plan.zeros = round_up(plan.columns + kWavefront, kWavefront);
  plan.filter_pitch = (strips + 1) * kStrip;
  plan.odd_copy = round_up(p.h.filter * plan.filter_pitch, 64) + 32;
  return plan;
}

// What a block takes: bands of a plane, or images.
inline void share_out(ToeplitzPlan& plan, const ConvView& p) {
  constexpr int kElement = 2;
  const auto size_up = [&](int band_rows, int images) {
    plan.images = images;
    plan.band_rows = band_rows;
    plan.bands = divide_up(p.h.output, band_rows);
    const int in_rows = std::min(p.h.input, band_rows + p.h.filter - 1);
    plan.x_bytes = (in_rows * images * plan.pitch + plan.zeros) * kElement;
    // Rows of an odd length wait where the output will lie until they are moved to their columns.
    plan.y_bytes = round_up(std::max(in_rows * p.w.input, band_rows * p.w.output) * kElement, 16) + 16;
    return plan.shared_bytes();
  };
  plan.w_bytes = 2 * plan.odd_copy * kElement;
  plan.raw_bytes = round_up(p.h.filter * p.w.filter * kElement, 16) + 16;
  constexpr int kMostBands = 64;
  for (int bands = 1; bands < kMostBands; bands++) {
    const int rows = bands == 1 ? p.h.output : round_up(divide_up(p.h.output, bands), kProductRows);
    if (size_up(rows, 1) <= kWholePlaneBytes) break;
  }
  // More images only where they save a twentieth of the instructions and leave every multiprocessor two blocks.
  constexpr int64_t kMostImages = 16, kBlocksWanted = 264;
  constexpr double kBetter = 0.95;
  const int64_t most = plan.bands == 1 ? std::min({kMostImages, p.images, planes_of(p) / kBlocksWanted}) : 1;
  const auto cost_of_all = [&](int count) {
    const int64_t blocks = divide_up(p.images, count);
    return static_cast<double>(blocks * count) * toeplitz_cost(p, plan, count);
  };
  const int64_t end = most + 1;
  int images = 1;
  for (int count = 2; count < end; count++) {
    if (size_up(p.h.output, count) > kSeveralImagesBytes) break;
    if (cost_of_all(count) < kBetter * cost_of_all(images)) images = count;
  }
  size_up(plan.band_rows, images);
  plan.team_log2 = images == 1 ? 7 : images == 2 ? 6 : 5;
}

inline ToeplitzPlan plan_toeplitz(const ConvView& p) {
  constexpr ToeplitzShape kShapes[] = {{0, 7, 1}, {0, 4, 2}, {0, 2, 2}};
  ToeplitzPlan best{};
  double least = 0;
  // Another lead may need fewer strips. Odd ones would tear pairs of outputs apart.
  for (int lead = 0; lead < kStrip; lead += 2) {
    for (const ToeplitzShape& shape : kShapes) {
      ToeplitzPlan plan = arrange_columns(p, lead, shape);
      share_out(plan, p);
      const double cost = toeplitz_cost(p, plan, plan.images);
      if (least == 0 || cost < least) best = plan, least = cost;
    }
  }
  return best;
}

inline LaunchShape toeplitz_shape(const ConvView& p, const ToeplitzPlan& plan) {
  return {.grid_x = divide_up(p.images, plan.images) * p.out_channels() * plan.bands,
          .block_x = kToeplitzThreads,
          .shared_bytes = static_cast<size_t>(plan.shared_bytes())};
}

}  // namespace convbound::depthwise
