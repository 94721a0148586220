// The loops of convert.h over the vector type of simd.h.
#pragma once

#include "convert.h"
#include "simd.h"

namespace convbound::cpu {
namespace {

template <class V>
struct Fp16 {
  CONVBOUND_INLINE typename V::Reg load(const uint16_t* p) { return V::load_fp16(p); }
  CONVBOUND_INLINE void store(uint16_t* p, typename V::Reg v) { V::store_fp16(p, v); }
};

template <class V>
struct Bf16 {
  CONVBOUND_INLINE typename V::Reg load(const uint16_t* p) { return V::load_bf16(p); }
  CONVBOUND_INLINE void store(uint16_t* p, typename V::Reg v) { V::store_bf16(p, v); }
};

template <class V, class T>
static void widen(const void* from, float* to, int64_t count) {
  const uint16_t* p = static_cast<const uint16_t*>(from);
  int64_t i = 0;
  for (; i + V::kWidth <= count; i += V::kWidth) V::store(to + i, T::load(p + i));
  if (i == count) return;
  uint16_t rest[V::kWidth] = {};
  float widened[V::kWidth];
  for (int64_t j = i; j < count; ++j) rest[j - i] = p[j];
  V::store(widened, T::load(rest));
  for (int64_t j = i; j < count; ++j) to[j] = widened[j - i];
}

template <class V, class T>
static void narrow(const float* from, void* to, int64_t count) {
  uint16_t* p = static_cast<uint16_t*>(to);
  int64_t i = 0;
  for (; i + V::kWidth <= count; i += V::kWidth) T::store(p + i, V::load(from + i));
  if (i == count) return;
  float rest[V::kWidth] = {};
  uint16_t narrowed[V::kWidth];
  for (int64_t j = i; j < count; ++j) rest[j - i] = from[j];
  T::store(narrowed, V::load(rest));
  for (int64_t j = i; j < count; ++j) p[j] = narrowed[j - i];
}

template <class V>
constexpr Converters kConverters = {{widen<V, Fp16<V>>, narrow<V, Fp16<V>>}, {widen<V, Bf16<V>>, narrow<V, Bf16<V>>}};

}  // namespace
}  // namespace convbound::cpu
