#include "csrc/cpu/depthwise_wgrad_tiles.h"

#include <algorithm>

#include "csrc/cpu/integers.h"

namespace convbound::cpu {

namespace {

constexpr int64_t kTileFloats = 6144;  // of x and dy: 24 KiB of a first-level cache of 32
constexpr int64_t kSlabTileFloats =
    3 << 15;                               // the same of all channels, which share the second level with the next tile
constexpr int64_t kAheadFloats = 1 << 15;  // NHWC: what is asked for lies so far ahead at least
constexpr int64_t kBlock = 7;

int64_t halved(int64_t tile, int64_t unit) { return ceil_div(ceil_div(tile, 2), unit) * unit; }

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// Where elements lie: distances from row to row and from column to column, and how many lie together in a column.
struct Pitch {
  int64_t row, unit, run;
};

void widen_box(const Converter& convert, const void* from, const Pitch& in, Range rows, Range columns, float* to,
               const Pitch& out) {
  const auto widen = [&](int64_t row, int64_t column, int64_t count) {
    convert.widen(static_cast<const uint16_t*>(from) + row * in.row + column * in.unit,
                  to + (row - rows.begin) * out.row + (column - columns.begin) * out.unit, count);
  };
  const bool whole_pixels = in.run == in.unit && in.unit == out.unit;
  if (whole_pixels && columns.size() * in.unit == in.row && in.row == out.row) {
    widen(rows.begin, columns.begin, rows.size() * in.row);
    return;
  }
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    if (whole_pixels) {
      widen(row, columns.begin, columns.size() * in.unit);
    } else {
      for (int64_t column = columns.begin; column < columns.end; ++column) widen(row, column, in.run);
    }
  }
}

}  // namespace

// Inputs along an axis that so many outputs meet.
int64_t WgradTiles::met(int axis, int64_t outputs) const {
  const ConvProblem& p = *problem_;
  return std::min(p.input[axis], (outputs - 1) * p.stride[axis] + (p.filter[axis] - 1) * p.dilation[axis] + 1);
}

// Floats of x and dy that a pass touches.
int64_t WgradTiles::floats(int64_t rows, int64_t columns) const {
  return (nchw_ ? 1 : vector_) * (met(1, rows) * met(2, columns) + rows * columns);
}

WgradTiles::WgradTiles(const ConvProblem& problem, bool nchw, int64_t vector, const Tensors& tensors,
                       const Converter* convert)
    : problem_(&problem), nchw_(nchw), vector_(vector), tensors_(&tensors), convert_(convert) {
  tile_p_ = problem.output[1];
  tile_q_ = problem.output[2];
  const int64_t least_p = nchw ? kBlock : 1, least_q = nchw ? 16 * vector : 4 * kBlock;
  const auto too_large = [&](int64_t most) {
    const int64_t of_a_pass = floats(tile_p_, tile_q_);
    return of_a_pass > most || (!nchw && of_a_pass / vector * problem.k > kSlabTileFloats);
  };
  while (tile_p_ > least_p && too_large(kTileFloats)) tile_p_ = halved(tile_p_, tile_p_ > kBlock ? kBlock : 1);
  while (tile_q_ > least_q && too_large(2 * kTileFloats)) tile_q_ = halved(tile_q_, least_q);
  row_tiles_ = ceil_div(problem.output[1], tile_p_);
  column_tiles_ = ceil_div(problem.output[2], tile_q_);
  // NHWC needs few pixels to pay for its sums, and the first tiles of an item are those that nobody asked for.
  const int64_t most = nchw ? kMost : std::min<int64_t>(kMost, ceil_div(4 * kBlock, tile_p_ * tile_q_));
  together_ = std::clamp<int64_t>(kTileFloats / floats(tile_p_, tile_q_), 1, most);
  pass_panels_ = std::max<int64_t>(1, kTileFloats / (together_ * floats(tile_p_, tile_q_)));
}

void WgradTiles::set_pitch(WgradPlan& plan) {
  const ConvProblem& p = *problem_;
  slab_k_ = std::min(p.k, plan.slab_panels * vector_);
  slab_c_ = std::min(p.c, (slab_k_ - 1) / plan.multiplier + 2);
  plan.x_unit = nchw_ ? 1 : in_place() ? p.c : slab_c_;
  plan.dy_unit = nchw_ ? 1 : in_place() ? p.k : slab_k_;
  plan.x_row = plan.x_unit * (in_place() ? p.input[2] : met(2, tile_q_));
  plan.dy_row = plan.dy_unit * (in_place() ? p.output[2] : tile_q_);
  x_floats_ = ceil_div(met(1, tile_p_) * plan.x_row, 16) * 16;
  const int64_t tile = (p.n * (p.input_size() * plan.x_unit + p.output_size() * plan.dy_unit)) / count();
  const int64_t ahead = ceil_div(kAheadFloats, tile * together_);
  plan.x_ahead = ahead * (p.n * p.input_size() / count()) * plan.x_unit;
  plan.dy_ahead = ahead * (p.n * p.output_size() / count()) * plan.dy_unit;
  memory_floats_ = in_place() ? 0 : ceil_div(together_ * (x_floats_ + tile_p_ * plan.dy_row), 16) * 16;
}

int64_t WgradTiles::place(const WgradPlan& plan, int64_t first, int64_t last, int64_t k, int64_t t, float* memory,
                          WgradTile* tiles) const {
  const ConvProblem& p = *problem_;
  const int64_t c = k / plan.multiplier;
  const int64_t x_plane = p.input[1] * p.input[2], dy_plane = p.output[1] * p.output[2];
  int64_t count = 0;
  for (int64_t i = first; i < last; ++i) {
    const int64_t plane = i / (row_tiles_ * column_tiles_);
    const int64_t n = plane / p.output[0], o = plane % p.output[0];
    const int64_t d = t == kNoTap ? 0 : o * p.stride[0] - p.padding[0] + t * p.dilation[0];
    if (d < 0 || d >= p.input[0]) continue;
    WgradTile& tile = tiles[count++];
    tile.p0 = i / column_tiles_ % row_tiles_ * tile_p_;
    tile.p1 = std::min(p.output[1], tile.p0 + tile_p_);
    tile.q0 = i % column_tiles_ * tile_q_;
    tile.q1 = std::min(p.output[2], tile.q0 + tile_q_);
    const int64_t x = nchw_ ? ((n * p.c + c) * p.input[0] + d) * x_plane : (n * p.input[0] + d) * x_plane * p.c + c;
    const int64_t dy =
        nchw_ ? ((n * p.k + k) * p.output[0] + o) * dy_plane : (n * p.output[0] + o) * dy_plane * p.k + k;
    if (in_place()) {
      tile.x = static_cast<const float*>(tensors_->x) + x;
      tile.dy = static_cast<const float*>(tensors_->y) + dy;
      continue;
    }
    const auto inputs = [&](int axis, int64_t begin, int64_t end) {
      const int64_t at = begin * p.stride[axis] - p.padding[axis];
      const int64_t beyond = (end - 1) * p.stride[axis] - p.padding[axis] + (p.filter[axis] - 1) * p.dilation[axis] + 1;
      const int64_t low = std::clamp<int64_t>(at, 0, p.input[axis]);
      return Range{low, std::clamp<int64_t>(beyond, low, p.input[axis])};
    };
    const int64_t x_run = nchw_ ? 1 : std::min(slab_c_, p.c - c), dy_run = nchw_ ? 1 : std::min(slab_k_, p.k - k);
    const Pitch x_in{p.input[2] * (nchw_ ? 1 : p.c), nchw_ ? 1 : p.c, x_run};
    const Pitch dy_in{p.output[2] * (nchw_ ? 1 : p.k), nchw_ ? 1 : p.k, dy_run};
    if (t != kNoTap) {
      const Range rows = inputs(1, tile.p0, tile.p1), columns = inputs(2, tile.q0, tile.q1);
      widen_box(*convert_, static_cast<const uint16_t*>(tensors_->x) + x, x_in, rows, columns, memory,
                {plan.x_row, plan.x_unit, x_run});
      tile.x = memory - rows.begin * plan.x_row - columns.begin * plan.x_unit;
    }
    memory += x_floats_;
    widen_box(*convert_, static_cast<const uint16_t*>(tensors_->y) + dy, dy_in, {tile.p0, tile.p1}, {tile.q0, tile.q1},
              memory, {plan.dy_row, plan.dy_unit, dy_run});
    tile.dy = memory - tile.p0 * plan.dy_row - tile.q0 * plan.dy_unit;
    memory += tile_p_ * plan.dy_row;
  }
  return count;
}

}  // namespace convbound::cpu
