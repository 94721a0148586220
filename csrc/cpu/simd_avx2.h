// The vector type of simd.h for AVX2, FMA and F16C. Include it only in files that are compiled for these.
#pragma once

#include <immintrin.h>

#include "simd.h"

namespace convbound::cpu {
namespace {

struct Vector8 {
  static constexpr int kWidth = 8;
  static constexpr int kColumns = 1;  // vectors side by side in a block of 7 rows
  static constexpr int kRegisters = 16;
  using Reg = __m256;
  using Mask = __m256i;
  using Index = __m256i;
  struct Spread {
    __m256i loaded, source;
  };

  CONVBOUND_INLINE Reg zero() { return _mm256_setzero_ps(); }
  CONVBOUND_INLINE Reg broadcast(const float* p) { return _mm256_broadcast_ss(p); }
  CONVBOUND_INLINE Reg load(const float* p) { return _mm256_loadu_ps(p); }
  CONVBOUND_INLINE void store(float* p, Reg v) { _mm256_storeu_ps(p, v); }
  CONVBOUND_INLINE void stream(float* p, Reg v) { _mm256_stream_ps(p, v); }
  CONVBOUND_INLINE void fence() { _mm_sfence(); }
  CONVBOUND_INLINE Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  CONVBOUND_INLINE Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }

  CONVBOUND_INLINE float sum(Reg v) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }

  CONVBOUND_INLINE Index multiples(int64_t step) {
    return _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(static_cast<int>(step)));
  }
  // AVX2 compares signed numbers only: both sides are shifted down by 2^31, so that negative columns come out largest.
  CONVBOUND_INLINE Mask mask_index(Index index, int64_t at, int64_t limit) {
    constexpr int64_t kShift = 2147483648;
    const __m256i column = _mm256_add_epi32(index, _mm256_set1_epi32(static_cast<int>(at - kShift)));
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(limit - kShift)), column);
  }
  CONVBOUND_INLINE Mask mask(int64_t at, int64_t limit) {
    return mask_index(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), at, limit);
  }
  CONVBOUND_INLINE Reg load_mask(const float* p, Mask mask) { return _mm256_maskload_ps(p, mask); }
  CONVBOUND_INLINE Reg gather(const float* p, Index index, Mask mask) {
    return _mm256_mask_i32gather_ps(_mm256_setzero_ps(), p, index, _mm256_castsi256_ps(mask), sizeof(float));
  }

  // In pieces: vmaskmovps to memory takes dozens of micro-operations on AMD's cores.
  CONVBOUND_INLINE void store_first(float* p, Reg v, int n) {
    __m128 part = _mm256_castps256_ps128(v);
    if ((n & 4) != 0) {
      _mm_storeu_ps(p, part);
      part = _mm256_extractf128_ps(v, 1);
      p += 4;
    }
    if ((n & 2) != 0) {
      _mm_storel_pi(reinterpret_cast<__m64*>(p), part);
      part = _mm_movehl_ps(part, part);
      p += 2;
    }
    if ((n & 1) != 0) _mm_store_ss(p, part);
  }

  CONVBOUND_INLINE Spread spread(const float* sources, int count) {
    const __m256i source = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sources));
    return {mask(0, reinterpret_cast<const int*>(sources)[count - 1] + 1), source};
  }
  CONVBOUND_INLINE Reg load_spread(const float* p, const Spread& spread) {
    return _mm256_permutevar8x32_ps(_mm256_maskload_ps(p, spread.loaded), spread.source);
  }

  CONVBOUND_INLINE Reg even(Reg a, Reg b) {
    const __m256d pairs = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(pairs, 0xd8));
  }

  CONVBOUND_INLINE void interleave(Reg a, Reg b, Reg& low, Reg& high) {
    const __m256 first = _mm256_unpacklo_ps(a, b), second = _mm256_unpackhi_ps(a, b);
    low = _mm256_permute2f128_ps(first, second, 0x20);
    high = _mm256_permute2f128_ps(first, second, 0x31);
  }

  CONVBOUND_INLINE __m128i load_half(const uint16_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
  CONVBOUND_INLINE void store_half(uint16_t* p, __m128i v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v); }
  CONVBOUND_INLINE Reg load_fp16(const uint16_t* p) { return _mm256_cvtph_ps(load_half(p)); }
  CONVBOUND_INLINE void store_fp16(uint16_t* p, Reg v) { store_half(p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)); }
  CONVBOUND_INLINE Reg load_bf16(const uint16_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_half(p)), 16));
  }
  CONVBOUND_INLINE void store_bf16(uint16_t* p, Reg v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
    store_half(p, _mm256_castsi256_si128(packed));
  }
};

}  // namespace
}  // namespace convbound::cpu
