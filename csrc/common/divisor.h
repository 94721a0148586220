// Division by sizes that a launch knows, without the GPU's division.
#pragma once

#include <cuda_runtime.h>

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

}  // namespace convbound
