// Between tensors and the tiles of the grouped kernels: transposes of 4 channels and as many pixels as a vector has
// lanes, and rows packed or spread.
#pragma once

#include "simd_avx512.h"

namespace convbound::cpu {
namespace {

template <class V>
struct Quad;

template <>
struct Quad<Vector16> {
  static constexpr bool kPacks = true;
  // The lanes in the mask are moved to the front, or come from there; the others are zero.
  CONVBOUND_INLINE __m512 pack(__m512 v, int mask) { return _mm512_maskz_compress_ps(static_cast<__mmask16>(mask), v); }
  CONVBOUND_INLINE __m512 spread(__m512 v, int mask) { return _mm512_maskz_expand_ps(static_cast<__mmask16>(mask), v); }
  // Lane l of reg is the l-th of 4-float pieces at `p`.
  CONVBOUND_INLINE __m512 join(const float* const (&p)[4]) {
    __m512 v = _mm512_maskz_broadcast_f32x4(0xffff, _mm_loadu_ps(p[0]));
    v = _mm512_mask_broadcast_f32x4(v, 0x00f0, _mm_loadu_ps(p[1]));
    v = _mm512_mask_broadcast_f32x4(v, 0x0f00, _mm_loadu_ps(p[2]));
    return _mm512_mask_broadcast_f32x4(v, 0xf000, _mm_loadu_ps(p[3]));
  }
  CONVBOUND_INLINE void part(__m512 v, float* const (&p)[4]) {
    _mm_storeu_ps(p[0], _mm512_castps512_ps128(v));
    _mm_storeu_ps(p[1], _mm512_maskz_extractf32x4_ps(0xf, v, 1));
    _mm_storeu_ps(p[2], _mm512_maskz_extractf32x4_ps(0xf, v, 2));
    _mm_storeu_ps(p[3], _mm512_maskz_extractf32x4_ps(0xf, v, 3));
  }
  // Every 4 x 4 block of lanes is transposed.
  CONVBOUND_INLINE void transpose(__m512 (&v)[4]) {
    constexpr __mmask16 kAll = 0xffff;
    const __m512 a = _mm512_maskz_unpacklo_ps(kAll, v[0], v[1]), b = _mm512_maskz_unpackhi_ps(kAll, v[0], v[1]);
    const __m512 c = _mm512_maskz_unpacklo_ps(kAll, v[2], v[3]), d = _mm512_maskz_unpackhi_ps(kAll, v[2], v[3]);
    v[0] = _mm512_maskz_shuffle_ps(kAll, a, c, 0x44);
    v[1] = _mm512_maskz_shuffle_ps(kAll, a, c, 0xee);
    v[2] = _mm512_maskz_shuffle_ps(kAll, b, d, 0x44);
    v[3] = _mm512_maskz_shuffle_ps(kAll, b, d, 0xee);
  }
  // The sums of the lanes of four vectors.
  CONVBOUND_INLINE void sums(const __m512 (&v)[4], float (&to)[4]) {
    __m512 t[4] = {v[0], v[1], v[2], v[3]};
    transpose(t);
    const __m512 a = _mm512_add_ps(_mm512_add_ps(t[0], t[1]), _mm512_add_ps(t[2], t[3]));
    const __m256 half =
        _mm256_add_ps(_mm512_maskz_extractf32x8_ps(0xff, a, 0), _mm512_maskz_extractf32x8_ps(0xff, a, 1));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
  }
};

}  // namespace
}  // namespace convbound::cpu
