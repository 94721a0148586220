// Division of 32-bit indices by sizes that a launch knows: one wide multiplication and a shift, cheap enough for inner
// loops, where the 64-bit Divisor (divisor.h) is for bases.
#pragma once

#include <cuda_runtime.h>

#include <bit>
#include <cstdint>

namespace convbound {

// With shift = 31 + ceil(log2(size)) and multiplier = floor(2^shift / size) + 1, the quotient is exact below 2^31.
struct IndexDivisor {
  int size;
  int shift;
  uint32_t multiplier;

  explicit IndexDivisor(int64_t size)
      : size(static_cast<int>(size)),
        shift(31 + std::bit_width(static_cast<uint64_t>(size) - 1)),
        multiplier(static_cast<uint32_t>((uint64_t{1} << shift) / static_cast<uint64_t>(size) + 1)) {}
};

struct QuotientRemainder {
  int quotient, remainder;
};

__device__ __forceinline__ QuotientRemainder divide(int index, const IndexDivisor& divisor) {
  const auto product = static_cast<uint64_t>(static_cast<uint32_t>(index)) * divisor.multiplier;
  const int quotient = static_cast<int>(product >> divisor.shift);
  return {quotient, index - quotient * divisor.size};
}

}  // namespace convbound
