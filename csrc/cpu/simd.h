// The small vector type V over which the CPU kernels are written once, and what they share. V is compiled for each
// instruction set (simd_avx2.h, simd_avx512.h) in files of their own (*_avx2.cpp, *_avx512.cpp).
//
// Everything that those files include has internal linkage and no std:: template appears: a function that the linker
// could share with plain-ISA files might be kept in its AVX-512 copy.
//
// V has kWidth, Reg, Mask, Index and Spread;
//   zero, broadcast, load, store, stream (non-temporal, aligned), fence, add, sum (of all lanes), fma(a, b, c) = a * b
//   + c;
//   mask(at, limit): the lanes i with 0 <= at + i < limit; load_mask(p, mask): 0 elsewhere, and nothing is touched
//   there; store_first(p, v, n): the first n lanes; even(a, b): the even lanes of a, then of b; multiples(s): the index
//   vector i * s; mask_index(index, at, limit); gather(p, index, mask); spread(sources, n) and load_spread(p, spread):
//   lane i takes p[sources[i]]; sources are ints that never fall, the first n of them count; interleave(a, b, low,
//   high): a0 b0 a1 b1 ...; load_fp16, load_bf16, store_fp16, store_bf16: kWidth of these, rounded to nearest even.
#pragma once

#include <cstdint>

#define CONVBOUND_INLINE __attribute__((always_inline)) static inline

namespace convbound::cpu {
namespace {

CONVBOUND_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
CONVBOUND_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
CONVBOUND_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Keeps the compiler from computing all addresses of an unrolled loop beforehand, for which it lacks registers.
CONVBOUND_INLINE void keep_in_order(int64_t& i) { asm volatile("" : "+r"(i)); }

}  // namespace
}  // namespace convbound::cpu
