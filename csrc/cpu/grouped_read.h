// Reads a tile of a tensor into the form that grouped_plan.h describes.
#pragma once

#include "grouped_element.h"
#include "grouped_plan.h"

namespace convbound::cpu {
namespace {

// Which tile: of which image, groups and channels, its first steps, and how many.
struct TileAt {
  int64_t image, group, groups, channel, channels;
  int64_t depth, row, column, rows, columns;
};

// The part of `count` steps of an axis, from the first one's `source` coordinate on, that lies inside the source.
struct Inside {
  int64_t skip, count, source;
};

CONVBOUND_INLINE Inside inside(int64_t source, int64_t step, int64_t count, int64_t in) {
  const int64_t skip = source < 0 ? smaller(ceil_div(-source, step), count) : 0;
  const int64_t end = source < in ? smaller(ceil_div(in - source, step), count) : 0;
  return {skip, larger(end - skip, 0), source + skip * step};
}

// to[i] = from[i * step]; vectors of zeros or of the next row's values may be written up to a vector beyond.
template <class V, class E>
static void read_row(const typename E::Type* from, int64_t step, int64_t count, float* to) {
  int64_t i = 0;
  if (step == 1) {
    for (; i + V::kWidth <= count; i += V::kWidth) V::store(to + i, E::load(from + i));
    if (i < count) V::store(to + i, E::load_first(from + i, count - i));
  } else if (step == 2) {
    for (; i + V::kWidth < count; i += V::kWidth) {
      V::store(to + i, V::even(E::load(from + 2 * i), E::load(from + 2 * i + V::kWidth)));
    }
    const int64_t left = 2 * (count - i) - 1;
    const typename E::Reg low = E::load_first(from + 2 * i, smaller(left, V::kWidth));
    const int64_t more = larger(left - V::kWidth, 0);
    V::store(to + i, V::even(low, more > 0 ? E::load_first(from + 2 * i + V::kWidth, more) : V::zero()));
  } else {
    for (; i < count; i += V::kWidth) {
      typename E::Type some[V::kWidth] = {};
      for (int64_t j = 0; j < smaller(V::kWidth, count - i); ++j) some[j] = from[(i + j) * step];
      V::store(to + i, E::load(some));
    }
  }
}

// to[c][i] = from[i * step][c] for 4 channels, `plane` floats apart, and a vector of pixels.
template <class V, class E, class Pixel>
CONVBOUND_INLINE void read_block(const Pixel& pixel, int64_t channels, float* to, int64_t plane) {
  typename V::Reg v[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const typename E::Type* p[V::kWidth / 4];
#pragma GCC unroll 4
    for (int l = 0; l < V::kWidth / 4; ++l) p[l] = pixel(4 * l + j);
    v[j] = E::join(p);
  }
  Quad<V>::transpose(v);
  for (int64_t k = 0; k < channels; ++k) V::store(to + k * plane, v[k]);
}

// to[c][i] = from[i * step][c], channels `plane` floats apart.
template <class V, class E>
static void read_pixels(const typename E::Type* from, int64_t step, int64_t count, int64_t channels, float* to,
                        int64_t plane) {
  using T = typename E::Type;
  static const T zeros[4] = {};
  const int64_t whole = channels / 4 * 4, last = larger(count - V::kWidth, 0);
  // All channels of a block of pixels in turn: with many channels in all, more pixels would not stay in the cache.
  for (int64_t begin = 0; begin < count; begin += V::kWidth) {
    const int64_t i = smaller(begin, last);  // the last block may overlap the one before it
    const T* const first = from + i * step;
    for (int64_t c = 0; c < whole; c += 4) {
      if (count >= V::kWidth) {
        read_block<V, E>([&](int64_t at) { return first + at * step + c; }, 4, to + c * plane + i, plane);
      } else {
        read_block<V, E>([&](int64_t at) { return at < count ? first + at * step + c : static_cast<const T*>(zeros); },
                         4, to + c * plane + i, plane);
      }
    }
    if (whole == channels) continue;
    T padded[V::kWidth][4] = {};
    for (int64_t at = 0; at < smaller(count, V::kWidth); ++at) {
      for (int64_t c = whole; c < channels; ++c) padded[at][c - whole] = first[at * step + c];
    }
    read_block<V, E>([&](int64_t at) { return static_cast<const T*>(padded[at]); }, channels - whole,
                     to + whole * plane + i, plane);
  }
}

CONVBOUND_INLINE void clear(float* from, float* to) {
  __builtin_memset(from, 0, static_cast<uint64_t>(to - from) * sizeof(float));
}

// Whole rows, which follow each other in memory: values are spread over vectors of positions.
template <class V, class E>
static void read_rows(const TilePlan& tile, const typename E::Type* from, int64_t count, float* to) {
  if constexpr (Quad<V>::kPacks) {
    const int64_t total = count * tile.width.in;
    const RowLanes* lanes = tile.spread;
    for (int64_t left = count * tile.pitch; left > 0; left -= V::kWidth, ++lanes, to += V::kWidth) {
      const int64_t values = total - lanes->before;
      const typename V::Reg v =
          values >= V::kWidth ? E::load(from + lanes->before) : E::load_first(from + lanes->before, larger(values, 0));
      V::store(to, Quad<V>::spread(v, lanes->mask));
    }
  }
}

template <class V, class E, bool kNhwc>
static void read_plane(const TilePlan& tile, const void* tensor, const TileAt& at, int64_t d, int64_t row_residue,
                       int64_t column_residue, float* plane) {
  using T = typename E::Type;
  const TileAxis &height = tile.height, &width = tile.width;
  const int64_t channel_floats = tile.planes * tile.plane;
  const int64_t rows = at.rows + height.reach, columns = at.columns + width.reach;
  const bool outside = d < 0 || d >= tile.depth.in;
  const Inside h =
      inside(height.in_step * (at.row + height.low) + row_residue, height.in_step, outside ? 0 : rows, height.in);
  const Inside w = inside(width.in_step * (at.column + width.low) + column_residue, width.in_step, columns, width.in);
  const bool whole = !kNhwc && tile.spread != nullptr && h.count > 0;
  for (int64_t c = 0; c < at.channels; ++c) {
    float* own = plane + c * channel_floats;
    clear(own, own + (whole ? h.skip * tile.pitch : tile.plane));
    if (whole) clear(own + (h.skip + h.count) * tile.pitch, own + tile.plane);
  }
  if (h.count == 0 || w.count == 0) return;
  plane += h.skip * tile.pitch;
  if (kNhwc) {
    const int64_t unit = tile.channels;
    const T* from = static_cast<const T*>(tensor) +
                    (((at.image * tile.depth.in + d) * height.in + h.source) * width.in + w.source) * unit + at.channel;
    plane += w.skip;
    for (int64_t i = 0; i < h.count; ++i) {
      read_pixels<V, E>(from, width.in_step * unit, w.count, at.channels, plane, channel_floats);
      from += height.in_step * width.in * unit;
      plane += tile.pitch;
    }
    return;
  }
  for (int64_t c = 0; c < at.channels; ++c, plane += channel_floats) {
    const int64_t channel = at.image * tile.channels + at.channel + c;
    const T* from =
        static_cast<const T*>(tensor) + ((channel * tile.depth.in + d) * height.in + h.source) * width.in + w.source;
    if (whole) {
      read_rows<V, E>(tile, from, h.count, plane);
      continue;
    }
    float* row = plane + w.skip;
    for (int64_t i = 0; i < h.count; ++i) {
      read_row<V, E>(from, width.in_step, w.count, row);
      from += height.in_step * width.in;
      row += tile.pitch;
    }
  }
}

template <class V, class E, bool kNhwc>
static void read_tile(const TilePlan& tile, const void* tensor, const TileAt& at, float* to) {
  const TileAxis &depth = tile.depth, &height = tile.height, &width = tile.width;
  for (int64_t slot = 0; slot < depth.slots; ++slot) {
    for (int64_t shift = 0; shift <= depth.reach; ++shift) {
      const int64_t d = depth.in_step * (at.depth + depth.low + shift) + depth.residues[slot];
      for (int64_t i = 0; i < height.slots; ++i) {
        for (int64_t j = 0; j < width.slots; ++j, to += tile.plane) {
          read_plane<V, E, kNhwc>(tile, tensor, at, d, height.residues[i], width.residues[j], to);
        }
      }
    }
  }
}

}  // namespace
}  // namespace convbound::cpu
