// Divisions that round up, for the host's side of the CPU kernels; the vector code has its own (simd.h).
#pragma once

#include <cstdint>

namespace convbound::cpu {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace convbound::cpu
