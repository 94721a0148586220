// How a dilated depthwise wgrad in NHWC is cut into stages and blocks. Host code; dilated_wgrad_nhwc.cu has the idea.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "csrc/common/integers.h"
#include "csrc/common/partial_sums.h"
#include "csrc/common/wgrad_view.h"

namespace convbound::dilated {

constexpr int kSliceBytes = 32;  // of channels: a sector, so that slices waste none
constexpr int kTile = 3;         // rows and columns of a tile of taps
constexpr int kWgradWarps = 8, kWgradStages = 2;

// A *unit* is what a stage holds: of one image, `rows` rows of dy in each of `classes` neighbouring classes modulo the
// dilation, and the rows of x that they meet: `x_rows` of each class, those in the padding left out.
struct DilatedWgradPlan : WgradView {
  int channels;                            // of dy
  int all_classes, classes, class_groups;  // of rows; in a unit; units to have them all
  int rows, x_rows, chunks;                // chunks: units to have all rows of a class
  int slices, tile_columns, tiles, block_tiles, tile_groups;
  int units, block_units, splits;
  int x_bytes, stage_bytes;  // shared memory: of x in a stage, of a stage
  size_t shared_bytes;
};

// As many whole classes as a stage holds, or as many rows of one class, which reads R - 1 rows of x again per chunk.
// Says why not.
inline std::string cut_into_stages(DilatedWgradPlan& plan) {
  constexpr int kStageBytes = 40 * 1024, kMostStageBytes = 48 * 1024, kLeastRows = 4;
  const auto class_bytes = [&](int64_t rows) {
    return kSliceBytes * ((rows + plan.h.filter - 1) * plan.w.input + rows * plan.w.output);
  };
  const int class_rows = divide_up(plan.h.output, plan.h.dilation);
  plan.all_classes = std::min(plan.h.dilation, plan.h.output);
  plan.rows = class_rows;
  plan.classes = static_cast<int>(std::min<int64_t>(kStageBytes / class_bytes(class_rows), plan.all_classes));
  if (plan.classes == 0) {
    plan.classes = 1;
    const int least = std::max(kLeastRows, plan.h.filter - 1);
    if (class_bytes(least) > kMostStageBytes) {
      return std::to_string(least) + " rows of a class and the x that they meet are " +
             std::to_string(class_bytes(least)) + " bytes, a stage has " + std::to_string(kMostStageBytes);
    }
    const int64_t most = 1 + (kMostStageBytes - class_bytes(1)) / (class_bytes(2) - class_bytes(1));
    plan.rows = static_cast<int>(divide_up(class_rows, divide_up(class_rows, most)));
  }
  plan.class_groups = divide_up(plan.all_classes, plan.classes);
  plan.classes = divide_up(plan.all_classes, plan.class_groups);
  plan.x_rows = plan.rows + plan.h.filter - 1;
  plan.chunks = divide_up(class_rows, plan.rows);
  plan.x_bytes = kSliceBytes * plan.classes * plan.x_rows * plan.w.input;
  plan.stage_bytes = plan.x_bytes + kSliceBytes * plan.classes * plan.rows * plan.w.output;
  return {};
}

// Fills the plan, or says why not.
inline std::string plan_wgrad(const WgradView& view, int element_bytes, const Device& device, DilatedWgradPlan& plan) {
  plan = {};
  static_cast<WgradView&>(plan) = view;
  plan.channels = view.out_channels();
  plan.slices = static_cast<int>(divide_up(int64_t{plan.channels} * element_bytes, kSliceBytes));
  plan.tile_columns = divide_up(plan.w.filter, kTile);
  plan.tiles = divide_up(plan.h.filter, kTile) * plan.tile_columns;
  plan.tile_groups = divide_up(plan.tiles, kWgradWarps);
  plan.block_tiles = divide_up(plan.tiles, plan.tile_groups);
  if (std::string reason = cut_into_stages(plan); !reason.empty()) return reason;

  const int64_t units = plan.images * plan.class_groups * plan.chunks;
  if (units > (1 << 30)) return std::to_string(units) + " stages of rows, at most 2^30";
  plan.units = static_cast<int>(units);
  const int64_t input_bytes = plan.images * plan.x.image * element_bytes;
  const int64_t splits = split_count(device, int64_t{plan.slices} * plan.tile_groups, units, 8, plan.results,
                                     input_bytes + plan.images * plan.dy.image * element_bytes, input_bytes);
  plan.block_units = static_cast<int>(divide_up(units, splits));
  plan.splits = divide_up(plan.units, plan.block_units);
  const int sums = kWgradWarps * (kTile * kTile + 1) * kSliceBytes / element_bytes * 4;
  plan.shared_bytes = static_cast<size_t>(std::max(kWgradStages * plan.stage_bytes + kSliceBytes, sums));
  return {};
}

}  // namespace convbound::dilated
