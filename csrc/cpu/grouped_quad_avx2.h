// Between tensors and the tiles of the grouped kernels: transposes of 4 channels and as many pixels as a vector has
// lanes.
#pragma once

#include "simd_avx2.h"

namespace convbound::cpu {
namespace {

template <class V>
struct Quad;

template <>
struct Quad<Vector8> {
  static constexpr bool kPacks = false;
  // Lane l of reg is the l-th of 4-float pieces at `p`.
  CONVBOUND_INLINE __m256 join(const float* const (&p)[2]) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p[0])), _mm_loadu_ps(p[1]), 1);
  }
  CONVBOUND_INLINE void part(__m256 v, float* const (&p)[2]) {
    _mm_storeu_ps(p[0], _mm256_castps256_ps128(v));
    _mm_storeu_ps(p[1], _mm256_extractf128_ps(v, 1));
  }
  // Every 4 x 4 block of lanes is transposed.
  CONVBOUND_INLINE void transpose(__m256 (&v)[4]) {
    const __m256 a = _mm256_unpacklo_ps(v[0], v[1]), b = _mm256_unpackhi_ps(v[0], v[1]);
    const __m256 c = _mm256_unpacklo_ps(v[2], v[3]), d = _mm256_unpackhi_ps(v[2], v[3]);
    v[0] = _mm256_shuffle_ps(a, c, 0x44);
    v[1] = _mm256_shuffle_ps(a, c, 0xee);
    v[2] = _mm256_shuffle_ps(b, d, 0x44);
    v[3] = _mm256_shuffle_ps(b, d, 0xee);
  }
  // The sums of the lanes of four vectors.
  CONVBOUND_INLINE void sums(const __m256 (&v)[4], float (&to)[4]) {
    const __m256 a = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1)));
  }
};

}  // namespace
}  // namespace convbound::cpu
