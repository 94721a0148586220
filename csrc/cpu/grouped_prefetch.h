// Fetches what is wanted later, a few cache lines at a time between blocks of arithmetic: tiles touch many short pieces
// of memory, which hardware prefetchers do not foresee.
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

// `runs` x `pieces` pieces of `bytes` each, of which [run][piece][byte] comes next.
struct Prefetch {
  const char* at;
  int64_t runs, run_step, pieces, piece_step, bytes;
  int64_t run, piece, byte;
  int64_t lines_per_call;
};

// For a part that is to be fetched after `calls` calls of prefetch_some.
CONVBOUND_INLINE Prefetch prefetch_part(const Part& p, bool nhwc, int64_t element, int64_t calls) {
  const int64_t rows = p.row_end - p.row, columns = p.column_end - p.column;
  const int64_t pixel = nhwc ? p.channels * element : element, row = p.width * pixel, plane = p.height * row;
  Prefetch f{};
  if (rows <= 0 || columns <= 0 || p.d < 0 || p.d >= p.depth) return f;
  int64_t offset = p.row * row + p.column * pixel;
  if (nhwc) {
    offset += (p.image * p.depth + p.d) * plane + p.channel * element;
    const bool whole = p.channel_count == p.channels;
    f = {nullptr, rows, row, whole ? 1 : columns, pixel, whole ? columns * pixel : p.channel_count * element, 0,
         0,       0,    0};
  } else {
    offset += ((p.image * p.channels + p.channel) * p.depth + p.d) * plane;
    const bool whole = columns == p.width;
    f = {nullptr,
         p.channel_count,
         p.depth * plane,
         whole ? 1 : rows,
         row,
         whole ? rows * row : columns * element,
         0,
         0,
         0,
         0};
  }
  f.at = static_cast<const char*>(p.tensor) + offset;
  f.lines_per_call = ceil_div(f.runs * f.pieces * (f.bytes / 64 + 1), calls);
  return f;
}

CONVBOUND_INLINE void prefetch_some(Prefetch& f) {
  for (int64_t i = 0; i < f.lines_per_call && f.run < f.runs; ++i) {
    __builtin_prefetch(f.at + f.run * f.run_step + f.piece * f.piece_step + smaller(f.byte, f.bytes - 1), 0, 2);
    f.byte += 64;
    if (f.byte < f.bytes + 63) continue;  // the last byte may lie in one more line
    f.byte = 0;
    if (++f.piece < f.pieces) continue;
    f.piece = 0;
    ++f.run;
  }
}

}  // namespace
}  // namespace convbound::cpu
