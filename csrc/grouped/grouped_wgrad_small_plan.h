// How the filter gradient of small groups is cut into boxes and blocks. Host code; grouped_wgrad_small.cu has the idea.
#pragma once

#include "csrc/grouped/grouped_wgrad_plan.h"

namespace convbound::grouped {

constexpr int kSmallWarps = 4, kSmallThreads = 32 * kSmallWarps;
constexpr int kSmallVector = 8;                            // elements of 16 bytes
constexpr int kSmallFilters = kSmallWarps * kSmallVector;  // channels of dy of a block
constexpr int kSmallPitch = kSmallWarps + 1;  // vectors of a row of dy: an odd number, so that 8 rows share no bank
constexpr int kSmallPositions = 128;          // of dy in a box, at most
constexpr int kSmallStages = 2;

// A *box* is what a stage holds: of `box_images` images and one depth, `rows` by `columns` positions of dy, and the x
// that they meet: for each of the T taps along the depth, `x_rows` by `x_columns` pixels.
struct SmallWgradPlan : ConvView {
  int box_images, rows, columns;
  int x_rows, x_columns;
  int x_line, x_image, pixels;           // pixels from one row and image to the next, and of x in all
  int positions, depths;                 // of dy, and the same in whole products
  int row_boxes, column_boxes;           // of an image's depth
  int x_vectors, x_pitch, warp_vectors;  // of x: that a box has, from one pixel to the next, that a warp may meet
  int filter_tiles, column_tiles;
  int64_t image_boxes;
  int boxes, split_boxes;
  int64_t results;  // filter and bias
  int channels;     // of dy
  int splits;

  int64_t blocks() const { return int64_t{column_tiles} * filter_tiles * splits; }
  int64_t all_boxes() const { return image_boxes * d.output * row_boxes * column_boxes; }
  constexpr int64_t stage_bytes() const {
    return 16 * (int64_t{box_images} * x_image * x_pitch + int64_t{depths} * kSmallPitch);
  }
  int64_t shared_bytes() const { return kSmallStages * stage_bytes() + int64_t{depths} * 4; }
};

// The least distance from `least` on that, `steps` times, is `wanted` modulo 8, if there is one. ldmatrix reads 8
// positions at once: they lie on different banks where pixel and position are the same modulo 8, also across the end of
// a row and of an image.
inline int distance_on_banks(int64_t least, int64_t steps, int64_t wanted) {
  for (int64_t more = 0; more < 8; more++) {
    if ((least + more) * steps % 8 == wanted % 8) return static_cast<int>(least + more);
  }
  return static_cast<int>(least);
}

// Cuts a depth of an image into `row_boxes` by `column_boxes`, whole images into boxes of several. Says whether a stage
// holds it.
inline bool cut_into_boxes(SmallWgradPlan& plan, int row_boxes, int column_boxes) {
  constexpr int64_t kMostStageBytes = 46 * 1024, kMostPixels = 1 << 14;
  plan.rows = divide_up(plan.h.output, row_boxes), plan.columns = divide_up(plan.w.output, column_boxes);
  plan.row_boxes = divide_up(plan.h.output, plan.rows), plan.column_boxes = divide_up(plan.w.output, plan.columns);
  const int64_t x_rows = (plan.rows - 1) * int64_t{plan.h.stride} + plan.h.extent();
  const int64_t x_columns = (plan.columns - 1) * int64_t{plan.w.stride} + plan.w.extent();
  if (int64_t{plan.rows} * plan.columns > kSmallPositions || x_rows > kMostPixels || x_columns > kMostPixels)
    return false;
  const int64_t pixels = x_rows * x_columns * plan.d.filter;
  if (pixels > kMostPixels) return false;
  const bool whole = plan.row_boxes == 1 && plan.column_boxes == 1;
  const int64_t most_images = whole ? std::min<int64_t>(kSmallPositions / (plan.rows * plan.columns), plan.images) : 1;
  plan.x_rows = static_cast<int>(x_rows), plan.x_columns = static_cast<int>(x_columns);
  plan.x_line = distance_on_banks(x_columns, plan.h.stride, int64_t{plan.columns} * plan.w.stride);
  plan.x_image =
      distance_on_banks(plan.d.filter * x_rows * plan.x_line, 1, int64_t{plan.rows} * plan.columns * plan.w.stride);
  for (int64_t images = most_images; images > 0; images--) {
    plan.box_images = static_cast<int>(images);
    plan.image_boxes = divide_up(plan.images, images);
    plan.pixels = static_cast<int>(images * pixels);
    plan.positions = plan.box_images * plan.rows * plan.columns;
    plan.depths = round_up(plan.positions, 16);
    if (plan.stage_bytes() <= kMostStageBytes) return true;
  }
  return false;
}

// Vectors that all boxes of a channel tile copy and products that they compute, weighed against each other.
inline double small_wgrad_cost(const SmallWgradPlan& plan) {
  const double box = static_cast<double>(plan.pixels) * plan.x_vectors + plan.depths * (kSmallWarps + plan.x_vectors);
  return box * static_cast<double>(plan.all_boxes());
}

// Fills the plan for warps of 2 * tall pairs (tap, vector of x), or says why not.
inline std::string plan_small_wgrad(const ConvProblem& p, SmallWgradPlan& plan) {
  constexpr int kMostOfGroup = 16, kMostVectors = 8;
  constexpr int64_t kMost = 1 << 28;
  if (std::string beyond = size_beyond(p, kMost); !beyond.empty()) return beyond;
  if (p.c_per_group() > kMostOfGroup || p.k_per_group() > kMostOfGroup) {
    return "C/g = " + std::to_string(p.c_per_group()) + ", K/g = " + std::to_string(p.k_per_group()) +
           ", made for 16 at most";
  }
  plan = {};
  static_cast<ConvView&>(plan) = view_of(p);
  plan.channels = static_cast<int>(p.k);
  plan.results = p.k * (p.c_per_group() * p.filter_size() + 1);
  const int64_t vectors = most_vectors(plan, kSmallFilters, kSmallVector);
  if (vectors > kMostVectors) return std::to_string(vectors * 8) + " channels of x for 32 of dy, at most 64";
  plan.x_vectors = static_cast<int>(vectors);
  plan.x_pitch = plan.x_vectors | 1;  // an odd number, so that 8 neighbouring pixels share no bank
  plan.warp_vectors = static_cast<int>(most_vectors(plan, kSmallVector, kSmallVector));

  SmallWgradPlan best;
  bool found = false;
  const int end = std::min(plan.w.output, kSmallPositions) + 1;
  for (int columns = 1; columns < end; columns++) {
    const int most_rows = std::min(plan.h.output, kSmallPositions / columns);
    for (int rows = most_rows; rows > 0; rows /= 2) {
      SmallWgradPlan cut = plan;
      if (!cut_into_boxes(cut, divide_up(plan.h.output, rows), divide_up(plan.w.output, columns))) continue;
      if (found && small_wgrad_cost(cut) >= small_wgrad_cost(best)) continue;
      best = cut, found = true;
    }
  }
  if (!found) return "the x that a position of dy meets does not fit into a stage";
  plan = best;
  if (plan.all_boxes() > kMost) return std::to_string(plan.all_boxes()) + " boxes, at most 2^28";
  plan.boxes = static_cast<int>(plan.all_boxes());
  return {};
}

// Shares the boxes out to blocks with warps of 2 * `tall` pairs of a tap and a vector of x. A multiprocessor holds at
// most `blocks` of them.
inline void split_small_wgrad(const ConvProblem& p, const Device& device, int tall, int blocks, SmallWgradPlan& plan) {
  plan.column_tiles = divide_up(plan.taps() * plan.warp_vectors, 2 * tall);
  plan.filter_tiles = divide_up(plan.channels, kSmallFilters);
  constexpr int64_t kSharedBytes = 227 * 1024, kReservedBytes = 1024;
  const int64_t resident = std::min<int64_t>(blocks, kSharedBytes / (plan.shared_bytes() + kReservedBytes));
  plan.split_boxes = static_cast<int>(wgrad_split_units({.tiles = int64_t{plan.column_tiles} * plan.filter_tiles,
                                                         .units = plan.boxes,
                                                         .most_units = plan.boxes,
                                                         .unit_positions = plan.positions,
                                                         .unit_bytes = plan.stage_bytes(),
                                                         .slots = device.sms * resident,
                                                         .results = plan.results,
                                                         .x_bytes = plan.images * p.c * p.input_size() * 2}));
  plan.splits = divide_up(plan.boxes, plan.split_boxes);
}

}  // namespace convbound::grouped
