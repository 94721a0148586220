// One element, or the 16 bytes of several at once, between global memory and floats.
#pragma once

#include <cuda_runtime.h>

#include <cstring>

#include "csrc/common/numeric.h"

namespace convbound {

// `from` is aligned to what is loaded: an element, or 16 bytes.
template <typename T, int kElements>
__device__ __forceinline__ void load_widened(const T* from, float (&to)[kElements]) {
  static_assert(kElements == 1 || kElements * sizeof(T) == 16, "one element or 16 bytes");
  T values[kElements];
  if constexpr (kElements == 1) {
    values[0] = *from;
  } else {
    const uint4 bits = *reinterpret_cast<const uint4*>(from);
    memcpy(values, &bits, 16);
  }
#pragma unroll
  for (int i = 0; i < kElements; i++) to[i] = widen(values[i]);
}

template <typename T, int kElements>
__device__ __forceinline__ void store_narrowed(T* to, const float (&from)[kElements]) {
  static_assert(kElements == 1 || kElements * sizeof(T) == 16, "one element or 16 bytes");
  T values[kElements];
#pragma unroll
  for (int i = 0; i < kElements; i++) values[i] = narrow<T>(from[i]);
  if constexpr (kElements == 1) {
    *to = values[0];
  } else {
    uint4 bits;
    memcpy(&bits, values, 16);
    *reinterpret_cast<uint4*>(to) = bits;
  }
}

}  // namespace convbound
