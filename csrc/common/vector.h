// One element, or the 16 bytes of several at once, between global memory and floats.
#pragma once

#include <cuda_runtime.h>

#include <cstring>
#include <type_traits>

#include "csrc/common/numeric.h"

namespace convbound {

// kElements of T as they lie in memory: one, or 16 bytes.
template <typename T, int kElements>
struct Packed {
  static_assert(kElements == 1 || kElements * sizeof(T) == 16, "one element or 16 bytes");
  using Word = std::conditional_t<kElements == 1, T, uint4>;
  Word word;
};

template <typename T, int kElements>
__device__ __forceinline__ void widen(const Packed<T, kElements>& packed, float (&to)[kElements]) {
  T values[kElements];
  memcpy(values, &packed.word, sizeof(values));
#pragma unroll
  for (int i = 0; i < kElements; i++) to[i] = widen(values[i]);
}

template <typename T, int kElements>
__device__ __forceinline__ Packed<T, kElements> narrowed(const float (&from)[kElements]) {
  T values[kElements];
#pragma unroll
  for (int i = 0; i < kElements; i++) values[i] = narrow<T>(from[i]);
  Packed<T, kElements> packed;
  memcpy(static_cast<void*>(&packed.word), values, sizeof(values));
  return packed;
}

// The address is aligned to what is loaded or stored.
template <typename T, int kElements>
__device__ __forceinline__ Packed<T, kElements> load_packed(const T* from) {
  return {*reinterpret_cast<const typename Packed<T, kElements>::Word*>(from)};
}

template <typename T, int kElements>
__device__ __forceinline__ void load_widened(const T* from, float (&to)[kElements]) {
  widen(load_packed<T, kElements>(from), to);
}

template <typename T, int kElements>
__device__ __forceinline__ void store_narrowed(T* to, const float (&from)[kElements]) {
  *reinterpret_cast<typename Packed<T, kElements>::Word*>(to) = narrowed<T, kElements>(from).word;
}

}  // namespace convbound
