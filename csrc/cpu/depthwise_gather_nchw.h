// Depthwise fprop and dgrad in NCHW: vectors along W, blocks of up to 7 rows. See depthwise_gather.cpp.
#pragma once

#include "depthwise_gather_simd.h"
#include "depthwise_rows.h"

namespace convbound::cpu {
namespace {

// One plane of x and the filter plane that it meets.
struct Plane {
  const float* x;
  const float* w;
  const float* bias;
  int64_t rows;
};
static_assert(sizeof(Plane) <= kListBytes);

// Where a block of outputs lies: the window coordinate of its first row, its class across, and the column that the
// first output meets at the first tap.
struct RowBlockAt {
  const CrossClass* across;
  int64_t first, column;
  bool fresh;  // begins with the bias; else goes on from what stands in y
};

template <class V, int kStride, int B, int C, int J, bool kChecked>
CONVBOUND_INLINE void row_taps(typename V::Reg (&acc)[B][C], const GatherPlan& plan, const TapChunk& chunk,
                               const Plane& plane, const RowBlockAt& at) {
  const CrossAxis& cross = plan.cross;
  const int64_t tap_step = plan.window.tap_step * plan.filter[2];
  const float* taps = plane.w + chunk.tap * plan.filter[2] + at.across->tap;
  const Strip strip{plane.x, at.first + chunk.start, plan.window.step, plan.x_row, plane.rows};
  int64_t column = at.column;
  for (int64_t s = 0; s < at.across->taps; ++s, taps += cross.tap_step, column += cross.tap_jump) {
    typename V::Reg tap[J];
    RowLoad<V, kStride> loads[C];
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j) tap[j] = V::broadcast(taps + j * tap_step);
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      loads[c] = loads[c].make(column + c * V::kWidth * cross.in_step, cross.in_step, cross.in);
    }
    slide<V, B, C, J, kChecked>(acc, tap, strip, column, [&](const float* x, int c) {
      return RowLoad<V, kStride>::load(loads[c], x + c * V::kWidth * cross.in_step);
    });
  }
}

// Whether C vectors find all columns of all taps across the window inside the row.
template <class V, int C>
CONVBOUND_INLINE bool whole(const CrossAxis& cross, const RowBlockAt& at) {
  const int64_t last = at.column + (at.across->taps - 1) * cross.tap_jump;
  return smaller(at.column, last) >= 0 && larger(at.column, last) + C * V::kWidth <= cross.in;
}

template <class V, int kStride, int B, int C, int J>
CONVBOUND_INLINE void row_chunk(typename V::Reg (&acc)[B][C], const GatherPlan& plan, const TapChunk& chunk,
                                const Plane& plane, const RowBlockAt& at) {
  // Only stride 1 spends code on versions without checks: of rows, and of columns where masks serve a single row.
  if (B == 1 && kStride == 1 && whole<V, C>(plan.cross, at)) {
    row_taps<V, B == 1 && kStride == 1 ? kWhole : kStride, B, C, J, true>(acc, plan, chunk, plane, at);
  } else if (kStride == 1 && inside<B>(chunk, {plane.x, at.first, plan.window.step, plan.x_row, plane.rows})) {
    row_taps<V, kStride, B, C, J, kStride != 1>(acc, plan, chunk, plane, at);
  } else {
    row_taps<V, kStride, B, C, J, true>(acc, plan, chunk, plane, at);
  }
}

// B rows (y_step floats apart in y) of C vectors, of which `count` outputs are left in a row.
template <class V, int kStride, int B, int C, int J0, int J1>
static void row_block(const GatherPlan& plan, const TapPass& pass, const Plane& plane, const RowBlockAt& at, float* y,
                      int64_t y_step, int64_t count) {
  typename V::Reg acc[B][C];
#pragma GCC unroll 8
  for (int b = 0; b < B; ++b) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      if (at.fresh) {
        acc[b][c] = V::broadcast(plane.bias);
      } else {
        acc[b][c] = V::load_mask(y + b * y_step + c * V::kWidth, V::mask(c * V::kWidth, count));
      }
    }
  }
  row_chunk<V, kStride, B, C, J0>(acc, plan, pass.chunk[0], plane, at);
  if constexpr (J1 > 0) row_chunk<V, kStride, B, C, J1>(acc, plan, pass.chunk[1], plane, at);
#pragma GCC unroll 8
  for (int b = 0; b < B; ++b, y += y_step) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      if (count >= (c + 1) * V::kWidth) {
        V::store(y + c * V::kWidth, acc[b][c]);
      } else {
        V::store_first(y + c * V::kWidth, acc[b][c], static_cast<int>(count - c * V::kWidth));
      }
    }
  }
}

using RowBlock = void (*)(const GatherPlan&, const TapPass&, const Plane&, const RowBlockAt&, float*, int64_t, int64_t);

struct RowBlocks {
  RowBlock wide;    // `columns` vectors
  RowBlock single;  // one vector
  RowBlock narrow;  // one vector of half the width, for what is left at the end of a row
  int64_t columns;
};

// Rows of the table: blocks of 7, 4, 2, 1.
template <class V, class Narrow, int kStride, int P>
struct RowTable {
  static constexpr int kFirst = kTapPatterns[P].first, kSecond = kTapPatterns[P].second;
  template <int B, int C>
  static constexpr RowBlocks entry() {
    return {row_block<V, kStride, B, C, kFirst, kSecond>, row_block<V, kStride, B, 1, kFirst, kSecond>,
            row_block<Narrow, kStride, B, 1, kFirst, kSecond>, C};
  }
  static constexpr RowBlocks kEntries[4] = {entry<7, kStride == 1 ? V::kColumns : 1>(), entry<4, 1>(), entry<2, 1>(),
                                            entry<1, kStride == 1 ? 4 : 1>()};
};

template <class V, class Narrow, int kStride>
CONVBOUND_INLINE const RowBlocks* row_table(int pattern) {
  static constexpr const RowBlocks* kTable[kTapPatternCount] = {
      RowTable<V, Narrow, kStride, 0>::kEntries, RowTable<V, Narrow, kStride, 1>::kEntries,
      RowTable<V, Narrow, kStride, 2>::kEntries, RowTable<V, Narrow, kStride, 3>::kEntries,
      RowTable<V, Narrow, kStride, 4>::kEntries, RowTable<V, Narrow, kStride, 5>::kEntries,
      RowTable<V, Narrow, kStride, 6>::kEntries, RowTable<V, Narrow, kStride, 7>::kEntries,
      RowTable<V, Narrow, kStride, 8>::kEntries};
  return kTable[pattern];
}

template <class V, class Narrow>
CONVBOUND_INLINE const RowBlocks& row_blocks(int pattern, int64_t stride, int block) {
  return (stride == 1   ? row_table<V, Narrow, 1>(pattern)
          : stride == 2 ? row_table<V, Narrow, 2>(pattern)
                        : row_table<V, Narrow, 0>(pattern))[block];
}

// One block of rows, from column q0 to q1, of all classes across. y: its first row; with several classes, each has
// class_row columns of it.
template <class V, class Narrow>
static void block_rows(const GatherPlan& plan, const Plane& plane, const WindowRun& run, bool fresh, int64_t q0,
                       int64_t q1, float* y, int64_t y_step) {
  const CrossAxis& cross = plan.cross;
  const int index = block_index(run.left);
  for (int64_t i = 0; i < run.taps->pass_count; ++i) {
    const TapPass& pass = run.taps->passes[i];
    const RowBlocks& blocks = row_blocks<V, Narrow>(pass.pattern, cross.in_step, index);
    const int64_t classes = smaller(cross.out_step, q1 - q0);
    for (int64_t c = 0; c < classes; ++c) {
      const CrossClass* across = cross.classes + c;
      RowBlockAt at{across, run.first, 0, fresh && i == 0};
      const int64_t count = ceil_div(q1 - q0 - c, cross.out_step);
      for (int64_t q = 0; q < count;) {
        const int64_t left = count - q;
        const bool wide = left > (blocks.columns - 1) * V::kWidth + Narrow::kWidth;
        const bool single = left > Narrow::kWidth;
        const RowBlock block = wide ? blocks.wide : single ? blocks.single : blocks.narrow;
        at.column = (q0 / cross.out_step + q) * cross.in_step + across->start;
        block(plan, pass, plane, at, y + c * plan.class_row + q, y_step, left);
        q += wide ? blocks.columns * V::kWidth : V::kWidth;
      }
    }
  }
}

// The planes that outputs [p0, p1) x [q0, q1) of a plane meet, at least one; converted, where they are not read in
// place.
static int64_t list_planes(const GatherPlan& plan, int64_t channel, int64_t image, int64_t o, Range p, Range q,
                           float* input, Plane* planes) {
  static const float zero = 0.0f;
  const CrossAxis& depth = plan.depth;
  const CrossClass& taps = depth.classes[o % depth.out_step];
  const Range rows = inputs_met(plan.rows_met, p.begin, p.end, plan.window.in);
  const Range columns = inputs_met(plan.columns_met, q.begin, q.end, plan.cross.in);
  const int64_t filter = plan.filter[1] * plan.filter[2];
  int64_t count = 0;
  for (int64_t m = 0; m < plan.fan; ++m) {
    const int64_t x_channel = channel / plan.share * plan.fan + m;
    for (int64_t t = 0; t < taps.taps; ++t) {
      const int64_t d = taps.start + o / depth.out_step * depth.in_step + t * depth.tap_jump;
      if (d < 0 || d >= depth.in) continue;
      Plane& plane = planes[count++];
      const int64_t at = ((image * plan.in_channels + x_channel) * depth.in + d) * plan.window.in * plan.cross.in;
      plane.w = plan.w + ((channel * plan.fan + m) * plan.filter[0] + taps.tap + t * depth.tap_step) * filter;
      plane.rows = plan.window.in;
      if (plan.input_floats == 0) {
        plane.x = static_cast<const float*>(plan.x) + at;
        continue;
      }
      plane.x = input - rows.begin * plan.x_row - columns.begin;
      if (columns.end - columns.begin == plan.x_row && plan.x_row == plan.cross.in) {
        read_elements(plan, at + rows.begin * plan.x_row, (rows.end - rows.begin) * plan.x_row, input);
        input += (rows.end - rows.begin) * plan.x_row;
      } else {
        for (int64_t h = rows.begin; h < rows.end; ++h, input += plan.x_row) {
          read_elements(plan, at + h * plan.cross.in + columns.begin, columns.end - columns.begin, input);
        }
      }
    }
  }
  if (count == 0) planes[count++] = {input, plan.w, nullptr, 0};
  for (int64_t i = 0; i < count; ++i) planes[i].bias = plan.bias == nullptr ? &zero : plan.bias + channel;
  return count;
}

// y[i * classes + c] = from[c * class_row + i], up to `count`.
template <class V>
CONVBOUND_INLINE void interleave(const GatherPlan& plan, const float* from, int64_t count, float* y) {
  const int64_t classes = plan.cross.out_step;
  int64_t done = 0;
  if (classes == 2) {
    for (; 2 * done + 2 * V::kWidth <= count; done += V::kWidth) {
      typename V::Reg low, high;
      V::interleave(V::load(from + done), V::load(from + plan.class_row + done), low, high);
      V::store(y + 2 * done, low);
      V::store(y + 2 * done + V::kWidth, high);
    }
  }
  for (int64_t c = 0; c < classes; ++c) {
    const float* lane = from + c * plan.class_row;
    for (int64_t i = done; i * classes + c < count; ++i) y[i * classes + c] = lane[i];
  }
}

// Rows of `count` outputs that wait in the tile go to y: interleaved, narrowed, streamed.
template <class V>
static void finish_rows(const GatherPlan& plan, Stream<V>& stream, float* tile, int64_t rows, int64_t count,
                        int64_t at) {
  if (plan.class_row == 0) {
    write_elements(plan, tile, at, rows * count);
    return;
  }
  const int64_t tile_row = plan.class_row * plan.cross.out_step;
  float* whole = tile + plan.tile_floats - plan.tile_q;
  for (int64_t i = 0; i < rows; ++i, tile += tile_row, at += count) {
    if (plan.stage_floats > 0) {
      interleave<V>(plan, tile, count, stream.stage + stream.held);
      Stream<V>::push(stream, count);
    } else if (plan.convert != nullptr) {
      interleave<V>(plan, tile, count, whole);
      write_elements(plan, whole, at, count);
    } else {
      interleave<V>(plan, tile, count, static_cast<float*>(plan.y) + at);
    }
  }
}

template <class V, class Narrow>
static void gather_nchw(const GatherPlan& plan, int64_t begin, int64_t end, const GatherMemory& memory) {
  const WindowAxis& axis = plan.window;
  const int64_t tiles = plan.row_tiles * plan.column_tiles;
  Plane* planes = static_cast<Plane*>(memory.list);
  float* const y = static_cast<float*>(plan.y);  // where it is fp32
  Stream<V> stream{};
  for (int64_t item = begin; item < end; ++item) {
    const int64_t plane = item / tiles;  // over images, output channels and depths
    const int64_t channel = plane / plan.depth.out % plan.out_channels;
    const Range p{item % tiles / plan.column_tiles * plan.tile_p,
                  smaller(item % tiles / plan.column_tiles * plan.tile_p + plan.tile_p, axis.out)};
    const Range q{item % plan.column_tiles * plan.tile_q,
                  smaller(item % plan.column_tiles * plan.tile_q + plan.tile_q, plan.cross.out)};
    const int64_t count = q.end - q.begin;
    const int64_t plane_count = list_planes(plan, channel, plane / plan.depth.out / plan.out_channels,
                                            plane % plan.depth.out, p, q, memory.input, planes);
    const Plane& last = planes[plane_count - 1];
    if (plan.stage_floats > 0 && item == begin) {
      stream = Stream<V>::begin(memory.stage, y + (plane * axis.out + p.begin) * plan.cross.out + q.begin);
    }
    for (int64_t p0 = p.begin; p0 < p.end; p0 += plan.group) {
      const int64_t p1 = smaller(p0 + plan.group, p.end);
      const int64_t at = (plane * axis.out + p0) * plan.cross.out + q.begin;
      const bool direct = plan.tile_floats == 0 && plan.stage_floats == 0;
      const int64_t out_row = plan.class_row > 0 ? plan.class_row * plan.cross.out_step
                              : direct           ? plan.cross.out
                                                 : count;
      float* out = direct ? y + at : plan.tile_floats > 0 ? memory.tile : stream.stage + stream.held;
      for (int64_t p_first = p0; p_first < smaller(p0 + axis.out_step, p1); ++p_first) {
        WindowRun run = WindowRun::make(axis, p_first, p1);
        for (int64_t i = p_first; run.left > 0;) {
          const int64_t block = kBlocks[block_index(run.left)];
          if (p_first == p0 && plan.input_floats == 0 && axis.out > 1) {
            const int64_t rows = smaller(block * axis.step, axis.in);
            // Those of the block after the next: memory takes about as long as one block.
            prefetch(last.x + (run.first + axis.span + 2 * rows) * plan.x_row, rows * plan.x_row);
          }
          for (int64_t j = 0; j < plane_count; ++j) {
            block_rows<V, Narrow>(plan, planes[j], run, j == 0, q.begin, q.end, out + (i - p0) * out_row,
                                  axis.out_step * out_row);
          }
          i += block * axis.out_step;
          run.first += block * axis.step;
          run.left -= block;
        }
      }
      if (plan.tile_floats > 0) {
        finish_rows<V>(plan, stream, memory.tile, p1 - p0, count, at);
      } else if (plan.stage_floats > 0) {
        Stream<V>::push(stream, (p1 - p0) * count);
      }
    }
  }
  if (plan.stage_floats > 0) Stream<V>::end(stream);
}

}  // namespace
}  // namespace convbound::cpu
