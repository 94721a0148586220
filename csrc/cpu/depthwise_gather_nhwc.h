// Depthwise fprop and dgrad in NHWC: vectors along C, blocks of up to 7 outputs along W. See depthwise_gather.cpp.
#pragma once

#include "depthwise_gather_simd.h"

namespace convbound::cpu {
namespace {

// A row of x that an output row meets: where its column 0 would be, and the row of the filter that meets it, in rows of
// a panel.
struct PixelRow {
  const float* x;
  int64_t tap;
};
static_assert(sizeof(PixelRow) <= kListBytes);

struct PixelRows {
  const PixelRow* row;
  int64_t count;
};

// Inputs that come next: `left` floats in each of `rows` rows. Every panel of a block asks for its share, for memory
// would idle during the arithmetic if the first asked for all.
struct Ahead {
  const float* from;
  int64_t left, share, rows, row;
  CONVBOUND_INLINE void ask(Ahead& ahead) {
    if (ahead.left <= 0) return;
    for (int64_t r = 0; r < ahead.rows; ++r) prefetch(ahead.from + r * ahead.row, ahead.share);
    ahead.from += ahead.share;
    ahead.left -= ahead.share;
  }
};

template <class V, int B, int J, bool kChecked, class Load>
CONVBOUND_INLINE void pixel_taps(typename V::Reg (&acc)[B][1], const GatherPlan& plan, const TapChunk& chunk,
                                 const PixelRows& rows, int64_t channel, int64_t first, const float* w,
                                 const Load& load) {
  const int64_t tap_step = plan.window.tap_step * V::kWidth;
  w += chunk.tap * V::kWidth;
  Strip strip{nullptr, first + chunk.start, plan.window.step, plan.x_unit, plan.window.in};
  for (int64_t r = 0; r < rows.count; ++r) {
    strip.origin = rows.row[r].x;
    const float* taps = w + rows.row[r].tap * V::kWidth;
    typename V::Reg tap[J];
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j) tap[j] = V::load(taps + j * tap_step);
    slide<V, B, 1, J, kChecked>(acc, tap, strip, channel, load);
  }
}

template <class V, int B, int J, class Load>
CONVBOUND_INLINE void pixel_chunk(typename V::Reg (&acc)[B][1], const GatherPlan& plan, const TapChunk& chunk,
                                  const PixelRows& rows, int64_t channel, int64_t first, const float* w,
                                  const Load& load) {
  if (inside<B>(chunk, {nullptr, first, plan.window.step, plan.x_unit, plan.window.in})) {
    pixel_taps<V, B, J, false>(acc, plan, chunk, rows, channel, first, w, load);
  } else {
    pixel_taps<V, B, J, true>(acc, plan, chunk, rows, channel, first, w, load);
  }
}

// B outputs (out_step apart) of panels [panel, panel_end); y is the first output's channel 0. `first`: the column where
// the first output's window begins. kSpread: channels repeat, or the panel is not full.
template <class V, int B, bool kSpread, int J0, int J1>
static void pixel_block(const GatherPlan& plan, const TapPass& pass, const PixelRows& rows, int64_t first, bool fresh,
                        float* y, int64_t panel, int64_t panel_end, Ahead& ahead) {
  const int64_t taps = plan.fan * plan.filter[0] * plan.filter[1] * plan.filter[2];
  const int64_t y_step = plan.window.out_step * plan.out_channels;
  for (int64_t i = panel; i < panel_end; ++i) {
    Ahead::ask(ahead);
    const int64_t k = i * V::kWidth;
    const float* w = plan.w + i * (taps + 2) * V::kWidth;
    const float* bias = w + taps * V::kWidth;
    float* out = y + k;
    const int channels = kSpread ? static_cast<int>(smaller(V::kWidth, plan.out_channels - k)) : V::kWidth;
    typename V::Reg acc[B][1];
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) {
      if (fresh) {
        acc[b][0] = V::load(bias);
      } else {
        acc[b][0] = V::load_mask(out + b * y_step, V::mask(0, channels));
      }
    }
    const auto sum = [&](int64_t channel, const auto& load) __attribute__((always_inline)) {
      pixel_chunk<V, B, J0>(acc, plan, pass.chunk[0], rows, channel, first, w, load);
      if constexpr (J1 > 0) pixel_chunk<V, B, J1>(acc, plan, pass.chunk[1], rows, channel, first, w, load);
    };
    if constexpr (kSpread) {
      const typename V::Spread spread = V::spread(bias + V::kWidth, channels);
      sum(k / plan.share, [&](const float* x, int) { return V::load_spread(x, spread); });
    } else {
      sum(k, [](const float* x, int) { return V::load(x); });
    }
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b, out += y_step) {
      if (!kSpread && plan.streams_vectors) {
        V::stream(out, acc[b][0]);
      } else if (!kSpread || channels == V::kWidth) {
        V::store(out, acc[b][0]);
      } else {
        V::store_first(out, acc[b][0], channels);
      }
    }
  }
}

using PixelBlock = void (*)(const GatherPlan&, const TapPass&, const PixelRows&, int64_t, bool, float*, int64_t,
                            int64_t, Ahead&);

// [spread][block]
template <class V, int P>
struct PixelTable {
  static constexpr int kFirst = kTapPatterns[P].first, kSecond = kTapPatterns[P].second;
  static constexpr PixelBlock kEntries[2][4] = {
      {pixel_block<V, 7, false, kFirst, kSecond>, pixel_block<V, 4, false, kFirst, kSecond>,
       pixel_block<V, 2, false, kFirst, kSecond>, pixel_block<V, 1, false, kFirst, kSecond>},
      {pixel_block<V, 7, true, kFirst, kSecond>, pixel_block<V, 4, true, kFirst, kSecond>,
       pixel_block<V, 2, true, kFirst, kSecond>, pixel_block<V, 1, true, kFirst, kSecond>}};
};

template <class V>
CONVBOUND_INLINE PixelBlock find_pixel_block(int pattern, bool spread, int block) {
  static constexpr const PixelBlock(*kTable[kTapPatternCount])[4] = {
      PixelTable<V, 0>::kEntries, PixelTable<V, 1>::kEntries, PixelTable<V, 2>::kEntries,
      PixelTable<V, 3>::kEntries, PixelTable<V, 4>::kEntries, PixelTable<V, 5>::kEntries,
      PixelTable<V, 6>::kEntries, PixelTable<V, 7>::kEntries, PixelTable<V, 8>::kEntries};
  return kTable[pattern][spread][block];
}

// One block of all channels.
template <class V>
static void block_panels(const GatherPlan& plan, const PixelRows& rows, const WindowRun& run, float* y, Ahead ahead) {
  const int index = block_index(run.left);
  const int64_t full = plan.share == 1 ? plan.out_channels / V::kWidth : 0;
  for (int64_t i = 0; i < run.taps->pass_count; ++i) {
    const TapPass& pass = run.taps->passes[i];
    if (full > 0) {
      find_pixel_block<V>(pass.pattern, false, index)(plan, pass, rows, run.first, i == 0, y, 0, full, ahead);
    }
    if (full < plan.panels) {
      find_pixel_block<V>(pass.pattern, true, index)(plan, pass, rows, run.first, i == 0, y, full, plan.panels, ahead);
    }
  }
}

// Converts the inputs [columns) of a row of all channels; with a fan, channel c * fan + m goes to the m-th plane,
// plane_floats further on. `pixel` has room for a pixel.
static void bring_row(const GatherPlan& plan, int64_t at, Range columns, int64_t plane_floats, float* to,
                      float* pixel) {
  if (plan.fan == 1) {
    const int64_t from = at + columns.begin * plan.in_channels;
    read_elements(plan, from, (columns.end - columns.begin) * plan.in_channels, to);
    return;
  }
  for (int64_t w = columns.begin; w < columns.end; ++w, to += plan.out_channels) {
    read_elements(plan, at + w * plan.in_channels, plan.in_channels, pixel);
    for (int64_t c = 0; c < plan.out_channels; ++c) {
      for (int64_t m = 0; m < plan.fan; ++m) to[m * plane_floats + c] = pixel[c * plan.fan + m];
    }
  }
}

// The inputs of one work item: read in place, or converted.
struct PixelInput {
  const float* x;   // row 0, column 0 of the first plane along the depth that is met
  int64_t plane_d;  // floats from plane to plane along the depth,
  int64_t plane_m;  // and from one input channel of an output to the next
  Range depth;      // the planes met
};

static PixelInput bring_input(const GatherPlan& plan, int64_t image, int64_t o, Range p, Range q, float* input) {
  const CrossClass& taps = plan.depth.classes[o % plan.depth.out_step];
  const int64_t d0 = taps.start + o / plan.depth.out_step * plan.depth.in_step;
  const int64_t d1 = d0 + (taps.taps - 1) * plan.depth.tap_jump;
  PixelInput in{};
  in.depth.begin = larger(0, smaller(d0, d1));
  in.depth.end = taps.taps > 0 ? smaller(plan.depth.in, larger(d0, d1) + 1) : 0;
  const int64_t x_row = plan.window.in * plan.in_channels;
  const int64_t plane_elements = plan.cross.in * x_row;
  const int64_t at = (image * plan.depth.in + in.depth.begin) * plane_elements;
  if (plan.input_floats == 0) {
    in.x = static_cast<const float*>(plan.x) + at;
    in.plane_d = plane_elements;
    return in;
  }
  const Range rows = inputs_met(plan.rows_met, p.begin, p.end, plan.cross.in);
  const Range columns = inputs_met(plan.columns_met, q.begin, q.end, plan.window.in);
  const int64_t jump = plan.depth.tap_jump < 0 ? -plan.depth.tap_jump : plan.depth.tap_jump;
  float* pixel = input + plan.input_floats - plan.in_channels;
  in.plane_m = (rows.end - rows.begin) * plan.x_row;
  in.plane_d = in.plane_m * plan.fan;
  in.x = input - rows.begin * plan.x_row - columns.begin * plan.x_unit;
  for (int64_t d = in.depth.begin; d < in.depth.end; ++d) {
    if ((d - d0) % jump != 0) continue;
    float* to = input + (d - in.depth.begin) * in.plane_d;
    for (int64_t h = rows.begin; h < rows.end; ++h, to += plan.x_row) {
      bring_row(plan, at + (d - in.depth.begin) * plane_elements + h * x_row, columns, in.plane_m, to, pixel);
    }
  }
  return in;
}

// The rows of x that output row p of plane o meets.
static PixelRows list_rows(const GatherPlan& plan, const PixelInput& in, int64_t o, int64_t p, PixelRow* list) {
  const CrossAxis& depth = plan.depth;
  const CrossAxis& cross = plan.cross;
  const CrossClass& ts = depth.classes[o % depth.out_step];
  const CrossClass& rs = cross.classes[p % cross.out_step];
  PixelRow* row = list;
  for (int64_t m = 0; m < plan.fan; ++m) {
    for (int64_t t = 0; t < ts.taps; ++t) {
      const int64_t d = ts.start + o / depth.out_step * depth.in_step + t * depth.tap_jump;
      if (d < 0 || d >= depth.in) continue;
      const float* plane = in.x + (d - in.depth.begin) * in.plane_d + m * in.plane_m;
      for (int64_t r = 0; r < rs.taps; ++r) {
        const int64_t h = rs.start + p / cross.out_step * cross.in_step + r * cross.tap_jump;
        if (h < 0 || h >= cross.in) continue;
        const int64_t filter_row =
            (m * plan.filter[0] + ts.tap + t * depth.tap_step) * plan.filter[1] + rs.tap + r * cross.tap_step;
        *row++ = {plane + h * plan.x_row, filter_row * plan.filter[2]};
      }
    }
  }
  return {list, row - list};
}

// Where x goes on after the operands of a block: in the next output row's last input rows, or along the only row there
// is.
static Ahead look_ahead(const GatherPlan& plan, const PixelInput& in, int64_t p, const WindowRun& run) {
  const WindowAxis& axis = plan.window;
  const CrossAxis& cross = plan.cross;
  const int64_t block = kBlocks[block_index(run.left)];
  const int64_t count = smaller(block * axis.step, axis.in) * plan.x_unit;
  const int64_t share = (ceil_div(count, plan.panels) + 15) & ~int64_t{15};
  const float* last = in.x + (in.depth.end - in.depth.begin - 1) * in.plane_d;
  if (cross.out == 1) {
    return {last + (run.first + axis.span + (block - 1) * axis.step) * plan.x_unit, count, share, 1, 0};
  }
  if ((p + 1) % cross.out_step != 0) return {};
  const int64_t next = (plan.rows_met.high + (p + 1) * plan.rows_met.rise) / plan.rows_met.run;
  return {last + next * plan.x_row + larger(0, run.first) * plan.x_unit, count, share, cross.in_step, -plan.x_row};
}

// Outputs that wait in the tile or on the stage go to y.
template <class V>
CONVBOUND_INLINE void put(const GatherPlan& plan, Stream<V>& stream, const float* tile, int64_t at, int64_t count) {
  if (plan.tile_floats > 0) {
    write_elements(plan, tile, at, count);
  } else if (plan.stage_floats > 0) {
    Stream<V>::push(stream, count);
  }
}

template <class V>
static void gather_nhwc(const GatherPlan& plan, int64_t begin, int64_t end, const GatherMemory& memory) {
  const WindowAxis& axis = plan.window;
  const int64_t tiles = plan.row_tiles * plan.column_tiles;
  const int64_t k = plan.out_channels;
  float* const y = static_cast<float*>(plan.y);  // where it is fp32
  Stream<V> stream{};
  for (int64_t item = begin; item < end; ++item) {
    const int64_t plane = item / tiles;  // over images and depths
    const int64_t o = plane % plan.depth.out;
    const int64_t p0 = item % tiles / plan.column_tiles * plan.tile_p;
    const int64_t q0 = item % plan.column_tiles * plan.tile_q;
    const int64_t p1 = smaller(p0 + plan.tile_p, plan.cross.out);
    const int64_t q1 = smaller(q0 + plan.tile_q, axis.out);
    const PixelInput in = bring_input(plan, plane / plan.depth.out, o, {p0, p1}, {q0, q1}, memory.input);
    for (int64_t p = p0; p < p1; ++p) {
      const PixelRows rows = list_rows(plan, in, o, p, static_cast<PixelRow*>(memory.list));
      const int64_t at = ((plane * plan.cross.out + p) * axis.out + q0) * k;
      if (plan.stage_floats > 0 && item == begin && p == p0) stream = Stream<V>::begin(memory.stage, y + at);
      for (int64_t g0 = q0; g0 < q1; g0 += plan.group) {
        const int64_t g1 = smaller(g0 + plan.group, q1);
        const int64_t offset = (g0 - q0) * k;
        float* out = plan.tile_floats > 0    ? memory.tile
                     : plan.stage_floats > 0 ? stream.stage + stream.held
                                             : y + at + offset;
        for (int64_t q_first = g0; q_first < smaller(g0 + axis.out_step, g1); ++q_first) {
          WindowRun run = WindowRun::make(axis, q_first, g1);
          for (int64_t q = q_first; run.left > 0;) {
            const int64_t block = kBlocks[block_index(run.left)];
            const bool looks = q_first == g0 && plan.input_floats == 0;
            block_panels<V>(plan, rows, run, out + (q - g0) * k, looks ? look_ahead(plan, in, p, run) : Ahead{});
            q += block * axis.out_step;
            run.first += block * axis.step;
            run.left -= block;
          }
        }
        put<V>(plan, stream, out, at + offset, (g1 - g0) * k);
      }
    }
  }
  if (plan.stage_floats > 0) Stream<V>::end(stream);
  if (plan.streams_vectors) V::fence();
}

}  // namespace
}  // namespace convbound::cpu
