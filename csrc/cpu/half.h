// fp16 and bf16 as storage types for the CPU kernels: they convert to and from float, round to nearest even, and do no
// arithmetic of their own, because every kernel accumulates wider.
#pragma once

#include <bit>
#include <cstdint>

namespace convbound::cpu {

struct BFloat16 {
  uint16_t bits;

  BFloat16() = default;
  explicit BFloat16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = nan ? uint16_t(u >> 16 | 0x40u) : uint16_t((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
  }
  operator float() const { return std::bit_cast<float>(uint32_t(bits) << 16); }
};

struct Half {
  uint16_t bits;

  Half() = default;
  explicit Half(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    const uint32_t magnitude = u & 0x7fffffffu;
    uint32_t half;
    if (magnitude > 0x7f800000u) {
      half = 0x7e00u;  // NaN
    } else if (magnitude >= 0x477ff000u) {
      half = 0x7c00u;  // 65520 and more round to infinity
    } else if (magnitude < 0x38800000u) {
      // Subnormal: adding 0.5 puts the last fp16 bit at the last float bit, so that the float adder rounds.
      const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
      half = std::bit_cast<uint32_t>(aligned) - std::bit_cast<uint32_t>(0.5f);
    } else {
      half = (magnitude + 0x0fffu + (magnitude >> 13 & 1u) - 0x38000000u) >> 13;
    }
    bits = uint16_t(u >> 16 & 0x8000u) | uint16_t(half);
  }
  operator float() const {
    const uint32_t sign = uint32_t(bits & 0x8000u) << 16, exponent = bits >> 10 & 0x1fu, mantissa = bits & 0x3ffu;
    if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | mantissa << 13);
    if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
    const float magnitude = float(mantissa) * 0x1p-24f;  // subnormal or zero: exact
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
};

}  // namespace convbound::cpu
