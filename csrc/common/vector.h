// Vectors: the elements that one access of 16 bytes moves. They are widened to fp32 and rounded back.
#pragma once

#include <cuda_runtime.h>

#include <cstring>

#include "csrc/common/numeric.h"
#include "csrc/common/pair.h"

namespace convbound {

constexpr int kVectorBytes = 16;
template <typename T>
constexpr int kVectorElements = kVectorBytes / static_cast<int>(sizeof(T));

template <typename T>
struct alignas(kVectorBytes) Vector {
  T element[kVectorElements<T>];
};

// The address is aligned to 16 bytes.
template <typename T>
__device__ __forceinline__ Vector<T> load_vector(const T* from) {
  const uint4 word = *reinterpret_cast<const uint4*>(from);
  Vector<T> vector;
  memcpy(static_cast<void*>(&vector), &word, kVectorBytes);
  return vector;
}

template <typename T>
__device__ __forceinline__ void store_vector(T* to, const Vector<T>& vector) {
  uint4 word;
  memcpy(static_cast<void*>(&word), &vector, kVectorBytes);
  *reinterpret_cast<uint4*>(to) = word;
}

template <typename T>
__device__ __forceinline__ void widen(const Vector<T>& vector, float* to) {
  constexpr int kPairs = kVectorElements<T> / 2;
  PairOf<T> pairs[kPairs];
  memcpy(static_cast<void*>(pairs), static_cast<const void*>(&vector), kVectorBytes);
#pragma unroll
  for (int i = 0; i < kPairs; i++) {
    const float2 pair = widen_pair(pairs[i]);
    to[2 * i] = pair.x;
    to[2 * i + 1] = pair.y;
  }
}

template <typename T>
__device__ __forceinline__ Vector<T> narrow_vector(const float* from) {
  constexpr int kPairs = kVectorElements<T> / 2;
  PairOf<T> pairs[kPairs];
#pragma unroll
  for (int i = 0; i < kPairs; i++) pairs[i] = narrow_pair<T>(make_float2(from[2 * i], from[2 * i + 1]));
  Vector<T> vector;
  memcpy(static_cast<void*>(&vector), static_cast<const void*>(pairs), kVectorBytes);
  return vector;
}

// One element, or 16 bytes of them. The address is aligned to what is loaded or stored.
template <typename T, int kElements>
__device__ __forceinline__ void load_widened(const T* from, float (&to)[kElements]) {
  static_assert(kElements == 1 || kElements == kVectorElements<T>, "one element or 16 bytes");
  if constexpr (kElements == 1) {
    to[0] = widen(*from);
  } else {
    widen(load_vector(from), to);
  }
}

template <typename T, int kElements>
__device__ __forceinline__ void store_narrowed(T* to, const float (&from)[kElements]) {
  static_assert(kElements == 1 || kElements == kVectorElements<T>, "one element or 16 bytes");
  if constexpr (kElements == 1) {
    *to = narrow<T>(from[0]);
  } else {
    store_vector(to, narrow_vector<T>(from));
  }
}

}  // namespace convbound
