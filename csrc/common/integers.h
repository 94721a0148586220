// Whole-number arithmetic. Quotients are computed in 64 bits and given in the wider type of the two operands.
#pragma once

#include <cstdint>
#include <type_traits>

namespace convbound {

template <typename A, typename B>
constexpr std::common_type_t<A, B> divide_up(A value, B by) {
  return static_cast<std::common_type_t<A, B>>((int64_t{value} + by - 1) / by);
}

template <typename A, typename B>
constexpr std::common_type_t<A, B> round_up(A value, B to) {
  return divide_up(value, to) * to;
}

// The exponent of the least power of two that reaches the value.
constexpr int log2_up(int64_t value) {
  int exponent = 0;
  for (int64_t reach = 1; reach < value; reach *= 2) exponent++;
  return exponent;
}

// Whether 0 <= index < size.
constexpr bool within(int index, int size) { return static_cast<unsigned>(index) < static_cast<unsigned>(size); }

// The remainder that is not negative.
constexpr int64_t modulo(int64_t value, int64_t modulus) { return (value % modulus + modulus) % modulus; }

}  // namespace convbound
