// The vector types of simd.h for AVX-512 (F, BW, VL, DQ). Include it only in files that are compiled for these.
#pragma once

#include <immintrin.h>

#include "simd.h"

namespace convbound::cpu {
namespace {

// For the end of a row of 8 outputs or fewer, and for 7 x 7 planes.
struct Vector8 {
  static constexpr int kWidth = 8;
  static constexpr int kRegisters = 32;
  using Reg = __m256;
  using Mask = __mmask8;
  using Index = __m256i;

  CONVBOUND_INLINE Reg zero() { return _mm256_setzero_ps(); }
  CONVBOUND_INLINE Reg broadcast(const float* p) { return _mm256_broadcast_ss(p); }
  CONVBOUND_INLINE Reg load(const float* p) { return _mm256_loadu_ps(p); }
  CONVBOUND_INLINE void store(float* p, Reg v) { _mm256_storeu_ps(p, v); }
  CONVBOUND_INLINE Index multiples(int64_t step) {
    return _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(static_cast<int>(step)));
  }
  CONVBOUND_INLINE Mask mask_index(Index index, int64_t at, int64_t limit) {
    const __m256i column = _mm256_add_epi32(index, _mm256_set1_epi32(static_cast<int>(at)));
    return _mm256_cmplt_epu32_mask(column, _mm256_set1_epi32(static_cast<int>(limit)));
  }
  CONVBOUND_INLINE Mask mask(int64_t at, int64_t limit) {
    return mask_index(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), at, limit);
  }
  CONVBOUND_INLINE Reg gather(const float* p, Index index, Mask mask) {
    return _mm256_mmask_i32gather_ps(_mm256_setzero_ps(), mask, index, p, sizeof(float));
  }
  CONVBOUND_INLINE Reg even(Reg a, Reg b) {
    return _mm256_permutex2var_ps(a, _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14), b);
  }
  CONVBOUND_INLINE Reg load_mask(const float* p, Mask mask) { return _mm256_maskz_loadu_ps(mask, p); }
  CONVBOUND_INLINE void store_first(float* p, Reg v, int n) {
    _mm256_mask_storeu_ps(p, static_cast<__mmask8>((1u << n) - 1), v);
  }
  CONVBOUND_INLINE Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  CONVBOUND_INLINE float sum(Reg v) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  CONVBOUND_INLINE Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
};

struct Vector16 {
  static constexpr int kWidth = 16;
  static constexpr int kRegisters = 32;
  static constexpr int kColumns = 2;  // vectors side by side in a block of 7 rows
  using Reg = __m512;
  using Mask = __mmask16;
  using Index = __m512i;
  struct Spread {
    __m512i source;
    __mmask16 loaded;
  };

  CONVBOUND_INLINE Reg zero() { return _mm512_setzero_ps(); }
  CONVBOUND_INLINE Reg broadcast(const float* p) { return _mm512_set1_ps(*p); }
  CONVBOUND_INLINE Reg load(const float* p) { return _mm512_loadu_ps(p); }
  CONVBOUND_INLINE void store(float* p, Reg v) { _mm512_storeu_ps(p, v); }
  CONVBOUND_INLINE void stream(float* p, Reg v) { _mm512_stream_ps(p, v); }
  CONVBOUND_INLINE void fence() { _mm_sfence(); }
  CONVBOUND_INLINE Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  CONVBOUND_INLINE float sum(Reg v) {
    return Vector8::sum(
        _mm256_add_ps(_mm512_maskz_extractf32x8_ps(0xff, v, 0), _mm512_maskz_extractf32x8_ps(0xff, v, 1)));
  }
  CONVBOUND_INLINE Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }

  CONVBOUND_INLINE Index lanes() { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
  CONVBOUND_INLINE Index multiples(int64_t step) {
    return _mm512_mullo_epi32(lanes(), _mm512_set1_epi32(static_cast<int>(step)));
  }
  CONVBOUND_INLINE Mask mask_index(Index index, int64_t at, int64_t limit) {
    const __m512i column = _mm512_add_epi32(index, _mm512_set1_epi32(static_cast<int>(at)));
    return _mm512_cmplt_epu32_mask(column, _mm512_set1_epi32(static_cast<int>(limit)));
  }
  CONVBOUND_INLINE Mask mask(int64_t at, int64_t limit) { return mask_index(lanes(), at, limit); }
  CONVBOUND_INLINE Mask first(int n) { return static_cast<Mask>((1u << n) - 1); }
  CONVBOUND_INLINE Reg load_mask(const float* p, Mask mask) { return _mm512_maskz_loadu_ps(mask, p); }
  CONVBOUND_INLINE Reg gather(const float* p, Index index, Mask mask) {
    return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, index, p, sizeof(float));
  }
  CONVBOUND_INLINE void store_first(float* p, Reg v, int n) { _mm512_mask_storeu_ps(p, first(n), v); }

  CONVBOUND_INLINE Spread spread(const float* sources, int count) {
    return {_mm512_loadu_si512(sources), first(reinterpret_cast<const int*>(sources)[count - 1] + 1)};
  }
  CONVBOUND_INLINE Reg load_spread(const float* p, const Spread& spread) {
    return _mm512_maskz_permutexvar_ps(first(kWidth), spread.source, _mm512_maskz_loadu_ps(spread.loaded, p));
  }

  CONVBOUND_INLINE Reg even(Reg a, Reg b) {
    const __m512i evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(a, evens, b);
  }

  CONVBOUND_INLINE void interleave(Reg a, Reg b, Reg& low, Reg& high) {
    low = _mm512_permutex2var_ps(a, _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), b);
    high =
        _mm512_permutex2var_ps(a, _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31), b);
  }

  CONVBOUND_INLINE __m256i load_half(const uint16_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  CONVBOUND_INLINE void store_half(uint16_t* p, __m256i v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  CONVBOUND_INLINE Reg load_fp16(const uint16_t* p) { return _mm512_maskz_cvtph_ps(first(kWidth), load_half(p)); }
  CONVBOUND_INLINE void store_fp16(uint16_t* p, Reg v) {
    store_half(p, _mm512_maskz_cvtps_ph(first(kWidth), v, _MM_FROUND_TO_NEAREST_INT));
  }
  CONVBOUND_INLINE Reg load_bf16(const uint16_t* p) {
    const __m512i wide = _mm512_maskz_cvtepu16_epi32(first(kWidth), load_half(p));
    return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(first(kWidth), wide, 16));
  }
  CONVBOUND_INLINE void store_bf16(uint16_t* p, Reg v) {
    const Mask all = first(kWidth);
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_maskz_srli_epi32(all, bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __m512i kept = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), rounded, quiet);
    store_half(p, _mm512_maskz_cvtepi32_epi16(all, _mm512_maskz_srli_epi32(all, kept, 16)));
  }
};

}  // namespace
}  // namespace convbound::cpu
