// Vectors along W out of rows of NCHW planes, for any stride.
#pragma once

#include "simd.h"

namespace convbound::cpu {
namespace {

// Lane i takes column + i * stride of a row, or 0 where that lies outside [0, width). kStride 0 is any stride.
template <class V, int kStride>
struct RowLoad;

// Instead of a stride: stride 1, and the caller knows that all lanes lie inside.
constexpr int kWhole = -1;

template <class V>
struct RowLoad<V, kWhole> {
  CONVBOUND_INLINE RowLoad make(int64_t, int64_t, int64_t) { return {}; }
  CONVBOUND_INLINE typename V::Reg load(const RowLoad&, const float* x) { return V::load(x); }
};

template <class V>
struct RowLoad<V, 1> {
  typename V::Mask mask;
  CONVBOUND_INLINE RowLoad make(int64_t column, int64_t, int64_t width) { return {V::mask(column, width)}; }
  CONVBOUND_INLINE typename V::Reg load(const RowLoad& self, const float* x) { return V::load_mask(x, self.mask); }
};

template <class V>
struct RowLoad<V, 2> {
  typename V::Mask low, high;
  CONVBOUND_INLINE RowLoad make(int64_t column, int64_t, int64_t width) {
    return {V::mask(column, width), V::mask(column + V::kWidth, width)};
  }
  CONVBOUND_INLINE typename V::Reg load(const RowLoad& self, const float* x) {
    return V::even(V::load_mask(x, self.low), V::load_mask(x + V::kWidth, self.high));
  }
};

template <class V>
struct RowLoad<V, 0> {
  typename V::Index index;
  typename V::Mask mask;
  CONVBOUND_INLINE RowLoad make(int64_t column, int64_t stride, int64_t width) {
    const typename V::Index index = V::multiples(stride);
    return {index, V::mask_index(index, column, width)};
  }
  CONVBOUND_INLINE typename V::Reg load(const RowLoad& self, const float* x) {
    return V::gather(x, self.index, self.mask);
  }
};

}  // namespace
}  // namespace convbound::cpu
