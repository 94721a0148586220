// Writes results that wait in a tile, one plane for each class of target positions, to the target.
#pragma once

#include "grouped_read.h"

namespace convbound::cpu {
namespace {

// A row of the target: `count` values, of which i * classes + c stands at from[c * plane + i].
template <class V, class E>
static void write_row(const float* from, int64_t plane, int64_t classes, int64_t count, typename E::Type* to) {
  int64_t i = 0;
  if (classes == 1) {
    for (; i + V::kWidth <= count; i += V::kWidth) E::store(to + i, V::load(from + i));
    if (i < count) E::store_first(to + i, V::load(from + i), count - i);
  } else if (classes == 2) {
    for (; i < count; i += 2 * V::kWidth) {
      typename V::Reg low, high;
      V::interleave(V::load(from + i / 2), V::load(from + plane + i / 2), low, high);
      const int64_t left = count - i;
      if (left >= 2 * V::kWidth) {
        E::store(to + i, low);
        E::store(to + i + V::kWidth, high);
      } else {
        E::store_first(to + i, low, smaller(left, V::kWidth));
        if (left > V::kWidth) E::store_first(to + i + V::kWidth, high, left - V::kWidth);
      }
    }
  } else {
    for (; i < count; i += V::kWidth) {
      float some[V::kWidth] = {};
      const int64_t left = smaller(count - i, V::kWidth);
      for (int64_t j = 0; j < left; ++j) some[j] = from[(i + j) % classes * plane + (i + j) / classes];
      E::store_first(to + i, V::load(some), left);
    }
  }
}

// to[i * step][c] = from[c * plane + i] for `channels` of 4 channels and a vector of pixels.
template <class V, class E, class Pixel>
CONVBOUND_INLINE void write_block(const float* from, int64_t plane, int64_t channels, const Pixel& pixel) {
  typename V::Reg v[4];
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) v[k] = V::load(from + (k < channels ? k * plane : 0));
  Quad<V>::transpose(v);
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    typename E::Type* p[V::kWidth / 4];
#pragma GCC unroll 4
    for (int l = 0; l < V::kWidth / 4; ++l) p[l] = pixel(4 * l + j);
    E::part(v[j], p);
  }
}

// to[i * step][c] = from[c * plane + i].
template <class V, class E>
static void write_pixels(const float* from, int64_t plane, int64_t channels, int64_t count, typename E::Type* to,
                         int64_t step) {
  using T = typename E::Type;
  const int64_t whole = channels / 4 * 4, last = larger(count - V::kWidth, 0);
  for (int64_t begin = 0; begin < count; begin += V::kWidth) {
    const int64_t i = smaller(begin, last);  // the last block may overlap the one before it
    T* const first = to + i * step;
    T aside[V::kWidth][4];
    for (int64_t c = 0; c < whole; c += 4) {
      const float* source = from + c * plane + i;
      if (count >= V::kWidth) {
        write_block<V, E>(source, plane, 4, [&](int64_t at) { return first + at * step + c; });
      } else {
        write_block<V, E>(source, plane, 4,
                          [&](int64_t at) { return at < count ? first + at * step + c : static_cast<T*>(aside[at]); });
      }
    }
    if (whole == channels) continue;
    write_block<V, E>(from + whole * plane + i, plane, channels - whole,
                      [&](int64_t at) { return static_cast<T*>(aside[at]); });
    for (int64_t at = 0; at < smaller(count, V::kWidth); ++at) {
      for (int64_t c = whole; c < channels; ++c) first[at * step + c] = aside[at][c - whole];
    }
  }
}

// The results of one class along D, of `channels` channels from `channel` on.
template <class V, class E, bool kNhwc>
static void write_tile(const GroupedPlan& plan, const float* results, const TileAt& at, int64_t channel,
                       int64_t channels, int64_t d) {
  using T = typename E::Type;
  const TileAxis &depth = plan.tile.depth, &height = plan.tile.height, &width = plan.tile.width;
  const int64_t all_channels = plan.groups * plan.out_fan;
  const int64_t channel_floats = plan.height_classes * plan.width_classes * plan.result_plane;
  for (int64_t i = 0; i < at.rows; ++i) {
    for (int64_t r = 0; r < plan.height_classes; ++r) {
      const int64_t h = height.out_step * (at.row + i) + r, w = width.out_step * at.column;
      if (h >= height.out) break;
      const float* from = results + r * plan.width_classes * plan.result_plane + i * plan.tile.pitch;
      const int64_t count = smaller(width.out_step * at.columns, width.out - w);
      if (kNhwc) {
        T* to = static_cast<T*>(plan.target) +
                (((at.image * depth.out + d) * height.out + h) * width.out + w) * all_channels + channel;
        for (int64_t s = 0; s < plan.width_classes && s < count; ++s) {
          write_pixels<V, E>(from + s * plan.result_plane, channel_floats, channels,
                             ceil_div(count - s, width.out_step), to + s * all_channels, width.out_step * all_channels);
        }
        continue;
      }
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t plane = ((at.image * all_channels + channel + c) * depth.out + d) * height.out + h;
        write_row<V, E>(from + c * channel_floats, plan.result_plane, width.out_step, count,
                        static_cast<T*>(plan.target) + plane * width.out + w);
      }
    }
  }
}

}  // namespace
}  // namespace convbound::cpu
