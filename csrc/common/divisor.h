// Division by sizes that a launch knows, without the GPU's division.
#pragma once

#include <cuda_runtime.h>

#include <bit>
#include <cstdint>

namespace convbound {

// Division of 64-bit indices by a 32-bit size: a multiplication with 2^64 / size, rounded up, is exact while index *
// size < 2^64. The GPU's own 64-bit division is a function call, and calls cost spills.
struct Divisor {
  int size;
  uint64_t reciprocal;

  explicit Divisor(int64_t size)
      : size(static_cast<int>(size)), reciprocal(~uint64_t{0} / static_cast<uint64_t>(size) + 1) {}
};

// index % divisor; index becomes index / divisor.
__device__ __forceinline__ int take(int64_t& index, const Divisor& divisor) {
  if (divisor.size == 1) return 0;  // its reciprocal would need 65 bits
  const int64_t quotient = static_cast<int64_t>(__umul64hi(static_cast<uint64_t>(index), divisor.reciprocal));
  const int remainder = static_cast<int>(index - quotient * divisor.size);
  index = quotient;
  return remainder;
}

// The same for 32-bit indices: one wide multiplication and a shift, cheap enough for inner loops.
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
