#include "csrc/cpu/grouped_tiles.h"

#include <algorithm>

#include "csrc/cpu/grouped.h"
#include "csrc/cpu/within.h"

namespace convbound::cpu {

namespace {

constexpr int64_t kWidestVector = 16;

int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

}  // namespace

GroupedAxis::GroupedAxis(const ConvProblem& p, Pass pass, int i) {
  const bool dgrad = pass == Pass::kDgrad;
  tile = {dgrad ? p.output[i] : p.input[i],
          dgrad ? p.input[i] : p.output[i],
          dgrad ? 1 : p.stride[i],
          dgrad ? p.stride[i] : 1,
          0,
          0,
          0,
          nullptr};
  classes.resize(static_cast<size_t>(std::min(tile.out_step, tile.out)));
  int64_t low = INT64_MAX, high = INT64_MIN;
  for (size_t c = 0; c < classes.size(); ++c) {
    for (int64_t tap = 0; tap < p.filter[i]; ++tap) {
      const int64_t distance =
          dgrad ? static_cast<int64_t>(c) + p.padding[i] - tap * p.dilation[i] : tap * p.dilation[i] - p.padding[i];
      const int64_t shift = floor_div(distance, p.stride[i]), residue = distance - shift * p.stride[i];
      if (dgrad && residue != 0) continue;
      const auto found = std::find(residues.begin(), residues.end(), residue);
      const int64_t slot = found - residues.begin();
      if (found == residues.end()) residues.push_back(residue);
      classes[c].push_back({tap, slot, shift});
      low = std::min(low, shift);
      high = std::max(high, shift);
    }
  }
  if (residues.empty()) {  // no position meets any tap
    residues.push_back(0);
    low = high = 0;
  }
  for (auto& taps : classes) {
    for (Tap& tap : taps) tap.shift -= low;
  }
  tile.low = low;
  tile.reach = high - low;
  tile.slots = static_cast<int64_t>(residues.size());
  tile.residues = residues.data();
}

TilePlan GroupedAxes::tile(int64_t channels, int64_t rows, int64_t columns) const {
  const TileAxis &w = width.tile, &h = height.tile;
  const int64_t row = columns + w.reach;
  int64_t shared = columns == width.steps() ? row : 0;
  for (int64_t residue : width.residues) {
    const int64_t first = w.in_step * w.low + residue;  // of the row, as a coordinate
    const int64_t left = std::clamp<int64_t>(ceil_div(std::max<int64_t>(-first, 0), w.in_step), 0, row);
    const int64_t end = first < w.in ? ceil_div(w.in - first, w.in_step) : 0;
    shared = std::min({shared, left, std::max<int64_t>(row - end, 0)});
  }
  TilePlan plan{depth.tile, h, w, channels, rows, columns, 0, 0, 0, 0, nullptr};
  plan.pitch = std::max(row - shared, columns);
  plan.plane = round_up((rows + h.reach - 1) * plan.pitch + row + kWidestVector, kWidestVector);
  if (plan.plane % 1024 == 0) plan.plane += kWidestVector;  // channels 4 KiB apart would share lines of the cache
  plan.planes = depth.tile.slots * (depth.tile.reach + 1) * h.slots * w.slots;
  plan.positions = (rows - 1) * plan.pitch + columns;
  return plan;
}

GroupedTaps::GroupedTaps(const ConvProblem& p, const GroupedAxes& axes, const TilePlan& tile, int64_t sources,
                         int64_t w_channel, int64_t w_tap) {
  const TileAxis &d = tile.depth, &h = tile.height, &w = tile.width;
  for (const auto& depth_taps : axes.depth.classes) {
    for (const auto& height_taps : axes.height.classes) {
      for (const auto& width_taps : axes.width.classes) {
        std::vector<TapAt>& list = taps.emplace_back();
        const auto add = [&](int64_t c, const GroupedAxis::Tap& t, const GroupedAxis::Tap& r,
                             const GroupedAxis::Tap& s) {
          const int64_t plane =
              c * tile.planes + ((t.slot * (d.reach + 1) + t.shift) * h.slots + r.slot) * w.slots + s.slot;
          const int64_t tap = (t.tap * p.filter[1] + r.tap) * p.filter[2] + s.tap;
          list.push_back({plane * tile.plane + r.shift * tile.pitch + s.shift, c * w_channel + tap * w_tap});
        };
        for (int64_t c = 0; c < sources; ++c) {
          for (const auto& t : depth_taps) {
            for (const auto& r : height_taps) {
              for (const auto& s : width_taps) add(c, t, r, s);
            }
          }
        }
      }
    }
  }
  for (const auto& list : taps) lists.push_back({list.data(), static_cast<int64_t>(list.size())});
}

std::vector<RowLanes> row_lanes(int64_t positions, int64_t pitch, int64_t skip, int64_t width, int64_t vector) {
  std::vector<RowLanes> lanes;
  int32_t before = 0;
  for (int64_t first = 0; first < positions; first += vector) {
    lanes.push_back({0, before});
    for (int64_t i = 0; i < vector; ++i) {
      const int64_t column = (first + i) % pitch;
      if (column < skip || column >= skip + width) continue;
      lanes.back().mask |= int32_t{1} << i;
      ++before;
    }
  }
  return lanes;
}

std::vector<RowLanes> spread_rows(const TilePlan& tile, int64_t vector) {
  const TileAxis& w = tile.width;
  const int64_t first = w.low + w.residues[0];  // of a row of the tile, as a coordinate
  const bool whole = w.slots == 1 && w.in_step == 1 && tile.height.slots == 1 && tile.height.in_step == 1 &&
                     first <= 0 && -first + w.in <= tile.pitch && tile.columns + w.reach >= -first + w.in;
  if (vector != kWidestVector || !whole) return {};
  return row_lanes((tile.rows + tile.height.reach) * tile.pitch, tile.pitch, -first, w.in, vector);
}

std::vector<TileSize> tile_sizes(const GroupedAxes& axes, int64_t longest) {
  const int64_t rows = axes.height.steps(), columns = axes.width.steps();
  std::vector<TileSize> sizes;
  if (columns > longest) {
    const int64_t tiles = ceil_div(columns, longest);
    return {{1, std::min(columns, round_up(ceil_div(columns, tiles), kWidestVector))}};
  }
  for (int64_t tiles = 1; tiles <= rows; ++tiles) {
    const int64_t some = ceil_div(rows, tiles);
    if (sizes.empty() || sizes.back().rows != some) sizes.push_back({some, columns});
  }
  return sizes;
}

int64_t groups_per_tile(bool nhwc, int64_t groups, int64_t channels) {
  constexpr int64_t kLine = 16, kMost = 64;
  int64_t bundle = 1;
  while (nhwc && bundle * channels % kLine != 0 && (bundle + 1) * channels <= kMost) ++bundle;
  return std::min(bundle, groups);
}

bool grouped_supports(Pass pass, const ConvProblem& p, DType dtype, Isa isa) {
  constexpr int64_t kLargestSize = int64_t{1} << 29, kLargestStride = int64_t{1} << 24, kLargestTile = 1 << 20;
  constexpr int64_t kMostTaps = 4096, kMostClasses = 64;
  if (isa == Isa::kGeneric || dtype == DType::kFloat64) return false;
  if (p.groups < 2 || p.c_per_group() < 2 || p.c_per_group() > 32 || p.k_per_group() > 128) return false;
  if (p.n < 1 || p.k < 1 || p.input_size() < 1 || p.output_size() < 1 || p.filter_size() < 1) return false;
  if (!axes_within(p, kLargestSize) || p.filter_size() > kMostTaps) return false;
  int64_t classes = 1;
  for (int i = 0; i < 3; ++i) {
    if (p.stride[i] > kLargestStride) return false;
    if (pass == Pass::kDgrad) classes *= std::min(p.stride[i], p.input[i]);
    if (classes > kMostClasses) return false;
  }
  const GroupedAxes axes(p, pass);
  const TilePlan tile = axes.tile(1, 1, std::min<int64_t>(axes.width.steps(), 256));
  const int64_t channels = std::max(p.c_per_group(), p.k_per_group());
  return tile.plane <= kLargestTile && tile.planes <= kLargestTile / tile.plane / channels / 2;
}

}  // namespace convbound::cpu
