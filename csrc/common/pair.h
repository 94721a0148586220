// Two neighbouring elements as one word: half the loads and stores, and conversions that take both halves of a
// register.
#pragma once

#include "csrc/common/numeric.h"

namespace convbound {

template <typename T>
struct PairOf;

template <>
struct PairOf<__half> {
  using Word = __half2;
  static __device__ __forceinline__ float2 widen(Word word) { return __half22float2(word); }
  static __device__ __forceinline__ Word narrow(float x, float y) { return __floats2half2_rn(x, y); }
};

template <>
struct PairOf<__nv_bfloat16> {
  using Word = __nv_bfloat162;
  static __device__ __forceinline__ float2 widen(Word word) { return __bfloat1622float2(word); }
  static __device__ __forceinline__ Word narrow(float x, float y) { return __floats2bfloat162_rn(x, y); }
};

template <>
struct PairOf<float> {
  using Word = float2;
  static __device__ __forceinline__ float2 widen(Word word) { return word; }
  static __device__ __forceinline__ Word narrow(float x, float y) { return make_float2(x, y); }
};

}  // namespace convbound
