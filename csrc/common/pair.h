// Two neighbouring elements as one access of shared memory, widened to fp32 and rounded back.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

namespace convbound {

// What holds two elements: 4 bytes for the 16-bit types, 8 for float.
template <typename T>
using PairOf = std::conditional_t<std::is_same_v<T, float>, float2,
                                  std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>>;

__device__ __forceinline__ float2 widen_pair(float2 pair) { return pair; }
__device__ __forceinline__ float2 widen_pair(__half2 pair) { return __half22float2(pair); }
__device__ __forceinline__ float2 widen_pair(__nv_bfloat162 pair) { return __bfloat1622float2(pair); }

template <typename T>
__device__ __forceinline__ PairOf<T> narrow_pair(float2 value) {
  if constexpr (std::is_same_v<T, float>) {
    return value;
  } else if constexpr (std::is_same_v<T, __half>) {
    return __floats2half2_rn(value.x, value.y);
  } else {
    return __floats2bfloat162_rn(value.x, value.y);
  }
}

}  // namespace convbound
