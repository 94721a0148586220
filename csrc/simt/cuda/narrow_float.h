// The 16-bit floats: one class template for IEEE binary16 (__half) and bfloat16 (__nv_bfloat16), their 2-wide vectors,
// and the arithmetic intrinsics that CUDA overloads for both. cuda_fp16.h and cuda_bf16.h give them CUDA's names.
//
// Arithmetic works in float or double and rounds once to nearest even. Rounding to odd on the way (round_to_odd) makes
// the second rounding harmless, so that fused multiply-add is exact as well.
#pragma once

#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <type_traits>

#include "csrc/simt/cuda/vector_types.h"
#include "csrc/simt/cuda/warp_intrinsics.h"

namespace convbound::simt {

// double -> float such that a later rounding to 22 bits or fewer gives what rounding the double directly would give.
inline float round_to_odd(double value) {
  const float nearest = static_cast<float>(value);
  const double error = value - static_cast<double>(nearest);
  const uint32_t bits = std::bit_cast<uint32_t>(nearest);
  if (error == 0 || !(error == error) || (bits & 1) != 0) return nearest;
  const bool away_from_zero = (error > 0) == (nearest > 0 || (nearest == 0 && error > 0));
  if (nearest == 0) return std::bit_cast<float>(error > 0 ? 0x00000001u : 0x80000001u);
  return std::bit_cast<float>(away_from_zero ? bits + 1 : bits - 1);
}

// a * b + c for factors whose product is exact in double, rounded to odd.
inline double fma_to_odd(double a, double b, double c) {
  const double product = a * b;
  const double sum = product + c;
  const double c_part = sum - product;
  const double error = (product - (sum - c_part)) + (c - c_part);
  const uint64_t bits = std::bit_cast<uint64_t>(sum);
  if (error == 0 || !(error == error) || (bits & 1) != 0) return sum;
  return std::bit_cast<double>((error > 0) == (sum > 0) ? bits + 1 : bits - 1);
}

struct Binary16 {
  static float widen(uint16_t bits) {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
    const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fffu) << 13;
    if (magnitude >= 0x0f800000u) return std::bit_cast<float>(sign | 0x7f800000u | magnitude);  // infinity, NaN
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f));
  }
  static uint16_t narrow(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fff;                                  // NaN, as CUDA writes it
    if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 65536 and more
    if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 leaves the result, rounded to even, in the low bits
      const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
      return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
    }
    return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13));
  }
};

struct Brain16 {
  static float widen(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
  static uint16_t narrow(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  }
};

template <typename Format>
struct Narrow {
  uint16_t bits;

  Narrow() = default;
  Narrow(float value) : bits(Format::narrow(value)) {}
  Narrow(double value) : bits(Format::narrow(round_to_odd(value))) {}
  template <std::integral Integer>
  Narrow(Integer value) : Narrow(static_cast<double>(value)) {}
  operator float() const { return Format::widen(bits); }

  static Narrow from_bits(uint16_t bits) {
    Narrow result;
    result.bits = bits;
    return result;
  }
};

template <typename Format>
struct alignas(4) Narrow2 {
  Narrow<Format> x, y;
  Narrow2() = default;
  Narrow2(const Narrow2&) = default;
  Narrow2& operator=(const Narrow2& other) { return assign_whole(*this, other); }
  Narrow2(Narrow<Format> low, Narrow<Format> high) : x(low), y(high) {}
};

template <typename Format>
inline constexpr bool is_shuffled<Narrow<Format>> = true;
template <typename Format>
inline constexpr bool is_shuffled<Narrow2<Format>> = true;

template <typename F>
Narrow<F> operator+(Narrow<F> a, Narrow<F> b) {
  return Narrow<F>(float(a) + float(b));
}
template <typename F>
Narrow<F> operator-(Narrow<F> a, Narrow<F> b) {
  return Narrow<F>(float(a) - float(b));
}
template <typename F>
Narrow<F> operator*(Narrow<F> a, Narrow<F> b) {
  return Narrow<F>(float(a) * float(b));
}
template <typename F>
Narrow<F> operator/(Narrow<F> a, Narrow<F> b) {
  return Narrow<F>(double(float(a)) / double(float(b)));
}
template <typename F>
Narrow<F> operator-(Narrow<F> a) {
  return Narrow<F>::from_bits(a.bits ^ 0x8000u);
}
template <typename F>
Narrow<F>& operator+=(Narrow<F>& a, Narrow<F> b) {
  return a = a + b;
}
template <typename F>
Narrow<F>& operator-=(Narrow<F>& a, Narrow<F> b) {
  return a = a - b;
}
template <typename F>
Narrow<F>& operator*=(Narrow<F>& a, Narrow<F> b) {
  return a = a * b;
}
template <typename F>
bool operator==(Narrow<F> a, Narrow<F> b) {
  return float(a) == float(b);
}
template <typename F>
bool operator<(Narrow<F> a, Narrow<F> b) {
  return float(a) < float(b);
}
template <typename F>
bool operator>(Narrow<F> a, Narrow<F> b) {
  return float(a) > float(b);
}
template <typename F>
bool operator<=(Narrow<F> a, Narrow<F> b) {
  return float(a) <= float(b);
}
template <typename F>
bool operator>=(Narrow<F> a, Narrow<F> b) {
  return float(a) >= float(b);
}

template <typename F>
Narrow<F> fused_multiply_add(Narrow<F> a, Narrow<F> b, Narrow<F> c) {
  return Narrow<F>(fma_to_odd(float(a), float(b), float(c)));
}

}  // namespace convbound::simt

template <typename F>
using __simt_narrow = convbound::simt::Narrow<F>;
template <typename F>
using __simt_narrow2 = convbound::simt::Narrow2<F>;

template <typename F>
__simt_narrow<F> __hadd(__simt_narrow<F> a, __simt_narrow<F> b) {
  return a + b;
}
template <typename F>
__simt_narrow<F> __hsub(__simt_narrow<F> a, __simt_narrow<F> b) {
  return a - b;
}
template <typename F>
__simt_narrow<F> __hmul(__simt_narrow<F> a, __simt_narrow<F> b) {
  return a * b;
}
template <typename F>
__simt_narrow<F> __hdiv(__simt_narrow<F> a, __simt_narrow<F> b) {
  return a / b;
}
template <typename F>
__simt_narrow<F> __hneg(__simt_narrow<F> a) {
  return -a;
}
template <typename F>
__simt_narrow<F> __habs(__simt_narrow<F> a) {
  return __simt_narrow<F>::from_bits(a.bits & 0x7fffu);
}
template <typename F>
__simt_narrow<F> __hfma(__simt_narrow<F> a, __simt_narrow<F> b, __simt_narrow<F> c) {
  return convbound::simt::fused_multiply_add(a, b, c);
}
template <typename F>
__simt_narrow<F> __hmax(__simt_narrow<F> a, __simt_narrow<F> b) {
  return __simt_narrow<F>(fmaxf(a, b));
}
template <typename F>
__simt_narrow<F> __hmin(__simt_narrow<F> a, __simt_narrow<F> b) {
  return __simt_narrow<F>(fminf(a, b));
}
template <typename F>
bool __heq(__simt_narrow<F> a, __simt_narrow<F> b) {
  return a == b;
}
template <typename F>
bool __hne(__simt_narrow<F> a, __simt_narrow<F> b) {
  return a < b || a > b;
}
template <typename F>
bool __hlt(__simt_narrow<F> a, __simt_narrow<F> b) {
  return a < b;
}
template <typename F>
bool __hle(__simt_narrow<F> a, __simt_narrow<F> b) {
  return a <= b;
}
template <typename F>
bool __hgt(__simt_narrow<F> a, __simt_narrow<F> b) {
  return a > b;
}
template <typename F>
bool __hge(__simt_narrow<F> a, __simt_narrow<F> b) {
  return a >= b;
}
template <typename F>
bool __hisnan(__simt_narrow<F> a) {
  return std::isnan(float(a));
}

template <typename F>
__simt_narrow2<F> __hadd2(__simt_narrow2<F> a, __simt_narrow2<F> b) {
  return {a.x + b.x, a.y + b.y};
}
template <typename F>
__simt_narrow2<F> __hsub2(__simt_narrow2<F> a, __simt_narrow2<F> b) {
  return {a.x - b.x, a.y - b.y};
}
template <typename F>
__simt_narrow2<F> __hmul2(__simt_narrow2<F> a, __simt_narrow2<F> b) {
  return {a.x * b.x, a.y * b.y};
}
template <typename F>
__simt_narrow2<F> __hneg2(__simt_narrow2<F> a) {
  return {-a.x, -a.y};
}
template <typename F>
__simt_narrow2<F> __hfma2(__simt_narrow2<F> a, __simt_narrow2<F> b, __simt_narrow2<F> c) {
  return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}
template <typename F>
__simt_narrow2<F> __hmax2(__simt_narrow2<F> a, __simt_narrow2<F> b) {
  return {__hmax(a.x, b.x), __hmax(a.y, b.y)};
}
template <typename F>
__simt_narrow2<F> __hmin2(__simt_narrow2<F> a, __simt_narrow2<F> b) {
  return {__hmin(a.x, b.x), __hmin(a.y, b.y)};
}
