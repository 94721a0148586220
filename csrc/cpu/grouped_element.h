// Element types of the tensors that the grouped kernels read and write, as vectors of float: fp32 as it is, fp16 and
// bf16 converted.
#pragma once

#include "convert_simd.h"

namespace convbound::cpu {
namespace {

template <class V>
struct Fp32Element {
  using Type = float;
  using Reg = typename V::Reg;
  CONVBOUND_INLINE Reg load(const Type* p) { return V::load(p); }
  CONVBOUND_INLINE Reg load_first(const Type* p, int64_t n) { return V::load_mask(p, V::mask(0, n)); }
  CONVBOUND_INLINE void store(Type* p, Reg v) { V::store(p, v); }
  CONVBOUND_INLINE void store_first(Type* p, Reg v, int64_t n) {
    if (n == V::kWidth) {
      V::store(p, v);
    } else {
      V::store_first(p, v, static_cast<int>(n));
    }
  }
  CONVBOUND_INLINE Reg join(const Type* const (&p)[V::kWidth / 4]) { return Quad<V>::join(p); }
  CONVBOUND_INLINE void part(Reg v, Type* const (&p)[V::kWidth / 4]) { Quad<V>::part(v, p); }
};

// H: Fp16<V> or Bf16<V>.
template <class V, class H>
struct HalfElement {
  using Type = uint16_t;
  using Reg = typename V::Reg;
  CONVBOUND_INLINE Reg load(const Type* p) { return H::load(p); }
  CONVBOUND_INLINE Reg load_first(const Type* p, int64_t n) {
    Type all[V::kWidth] = {};
    for (int64_t i = 0; i < n; ++i) all[i] = p[i];
    return H::load(all);
  }
  CONVBOUND_INLINE void store(Type* p, Reg v) { H::store(p, v); }
  CONVBOUND_INLINE void store_first(Type* p, Reg v, int64_t n) {
    Type all[V::kWidth];
    H::store(all, v);
    for (int64_t i = 0; i < n; ++i) p[i] = all[i];
  }
  CONVBOUND_INLINE Reg join(const Type* const (&p)[V::kWidth / 4]) {
    Type all[V::kWidth];
    for (int i = 0; i < V::kWidth / 4; ++i) __builtin_memcpy(all + 4 * i, p[i], 4 * sizeof(Type));
    return H::load(all);
  }
  CONVBOUND_INLINE void part(Reg v, Type* const (&p)[V::kWidth / 4]) {
    Type all[V::kWidth];
    H::store(all, v);
    for (int i = 0; i < V::kWidth / 4; ++i) __builtin_memcpy(p[i], all + 4 * i, 4 * sizeof(Type));
  }
};

}  // namespace
}  // namespace convbound::cpu
