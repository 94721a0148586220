// Fetches what is wanted later, line by line among the arithmetic: tiles touch many short pieces of memory, which
// hardware prefetchers do not foresee.
#pragma once

#include "simd.h"

namespace convbound::cpu {
namespace {

// Part of a tensor: some channels, and a rectangle of one image at one depth.
struct Part {
  const void* tensor;
  int64_t channels, depth, height, width;  // of the tensor
  int64_t image, channel, channel_count, d;
  int64_t row, row_end, column, column_end;
};

// The cache lines to be fetched, in this order, `rate` at each opportunity: counted from one of two tensors, which the
// highest bit tells.
struct Lines {
  static constexpr int64_t kMost = 3072, kBytes = 64;
  const char* base[2];
  uint32_t line[kMost];
  int64_t next, count, rate;
};

CONVBOUND_INLINE void prefetch_some(Lines& lines) {
  for (int64_t i = 0; i < lines.rate && lines.next < lines.count; ++i) {
    const uint32_t line = lines.line[lines.next++];
    __builtin_prefetch(lines.base[line >> 31] + (line & 0x7fffffff) * Lines::kBytes, 0, 2);
  }
}

// As many lines of a part as there is room for.
static void add_lines(const Part& p, bool nhwc, int64_t element, int tensor, Lines& lines) {
  const int64_t rows = p.row_end - p.row, columns = p.column_end - p.column;
  if (rows <= 0 || columns <= 0 || p.d < 0 || p.d >= p.depth) return;
  const int64_t pixel = nhwc ? p.channels * element : element, row = p.width * pixel, plane = p.height * row;
  const char* at = static_cast<const char*>(p.tensor) + p.row * row + p.column * pixel;
  int64_t runs = rows, run_step = row, pieces = columns, piece_step = pixel, bytes = p.channel_count * element;
  if (nhwc) {
    at += (p.image * p.depth + p.d) * plane + p.channel * element;
    if (p.channel_count == p.channels) {
      bytes *= pieces;
      pieces = 1;
    }
  } else {
    at += ((p.image * p.channels + p.channel) * p.depth + p.d) * plane;
    runs = p.channel_count;
    run_step = p.depth * plane;
    const bool whole = columns == p.width;
    pieces = whole ? 1 : rows;
    piece_step = row;
    bytes = columns * element * (whole ? rows : 1);
  }
  const char* const base = static_cast<const char*>(p.tensor) -
                           reinterpret_cast<uintptr_t>(p.tensor) % static_cast<uintptr_t>(Lines::kBytes);
  lines.base[tensor] = base;
  const uint32_t mark = static_cast<uint32_t>(tensor) << 31;
  for (int64_t run = 0; run < runs; ++run) {
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t from = at + run * run_step + piece * piece_step - base;
      for (int64_t line = from / Lines::kBytes; line * Lines::kBytes < from + bytes; ++line) {
        if (lines.count == Lines::kMost) return;
        lines.line[lines.count++] = mark | static_cast<uint32_t>(line);
      }
    }
  }
}

}  // namespace
}  // namespace convbound::cpu
