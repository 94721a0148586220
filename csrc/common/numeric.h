// Element types of the kernels: what they accumulate in, and the way there and back.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

namespace convbound {

// 16-bit types and float accumulate in float, double in double; one rounding at the end.
template <typename T>
struct Accumulator {
  using Type = float;
};
template <>
struct Accumulator<double> {
  using Type = double;
};

__device__ __forceinline__ float widen(__half value) { return __half2float(value); }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }

template <typename T>
__device__ __forceinline__ T narrow(typename Accumulator<T>::Type value) {
  if constexpr (sizeof(T) == 2) {
    T result;
    if constexpr (std::is_same_v<T, __half>) {
      result = __float2half_rn(value);
    } else {
      result = __float2bfloat16_rn(value);
    }
    return result;
  } else {
    return value;
  }
}

}  // namespace convbound
