// Depthwise fprop for AVX2 and FMA: 16 registers hold 7 sums, 7 taps and one operand.
#if defined(__AVX2__) && defined(__FMA__)

#include <immintrin.h>

#include "depthwise_fprop_simd.h"

namespace convbound::cpu {
namespace {

struct Vector8 {
  static constexpr int kWidth = 8;
  static constexpr int kColumns = 1;  // vectors side by side in a block of 7 rows
  using Reg = __m256;
  using Mask = __m256i;
  struct Spread {
    __m256i loaded, source;
  };

  CONVBOUND_INLINE Reg zero() { return _mm256_setzero_ps(); }
  CONVBOUND_INLINE Reg broadcast(const float* p) { return _mm256_broadcast_ss(p); }
  CONVBOUND_INLINE Reg load(const float* p) { return _mm256_loadu_ps(p); }
  CONVBOUND_INLINE void store(float* p, Reg v) { _mm256_storeu_ps(p, v); }
  CONVBOUND_INLINE Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }

  // AVX2 compares signed numbers only: both sides are shifted down by 2^31, so that negative columns come out largest.
  CONVBOUND_INLINE Mask mask(int64_t at, int64_t limit) {
    constexpr int kShift = -2147483647 - 1;
    const __m256i lane = _mm256_setr_epi32(kShift, kShift + 1, kShift + 2, kShift + 3, kShift + 4, kShift + 5,
                                           kShift + 6, kShift + 7);
    const __m256i column = _mm256_add_epi32(lane, _mm256_set1_epi32(static_cast<int>(at)));
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(limit) + kShift), column);
  }
  CONVBOUND_INLINE Reg load_mask(const float* p, Mask mask) { return _mm256_maskload_ps(p, mask); }
  CONVBOUND_INLINE Reg load_first(const float* p, int n) { return load_mask(p, mask(0, n)); }

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

  // Lane i of `count` takes channel (phase + i) / multiplier.
  CONVBOUND_INLINE Spread spread(int64_t phase, int64_t multiplier, int count) {
    alignas(32) int source[kWidth];
    int channel = 0;
    for (int i = 0; i < kWidth; ++i) {
      source[i] = channel;
      if (++phase == multiplier) phase = 0, ++channel;
    }
    return {mask(0, source[count - 1] + 1), _mm256_load_si256(reinterpret_cast<const __m256i*>(source))};
  }
  CONVBOUND_INLINE Reg load_spread(const float* p, const Spread& spread) {
    return _mm256_permutevar8x32_ps(_mm256_maskload_ps(p, spread.loaded), spread.source);
  }

  CONVBOUND_INLINE void split(Reg a, Reg b, Reg& even, Reg& odd) {
    const __m256i order = _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7);
    even = _mm256_permutevar8x32_ps(_mm256_shuffle_ps(a, b, 0x88), order);
    odd = _mm256_permutevar8x32_ps(_mm256_shuffle_ps(a, b, 0xdd), order);
  }
};

}  // namespace

const DepthwiseKernels kDepthwiseFpropAvx2 = {depthwise_nchw<Vector8, Vector8>, depthwise_nhwc<Vector8>};

}  // namespace convbound::cpu

#endif
