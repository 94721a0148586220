// The products of the implicit GEMM (grouped_gemm.h) in 16 bits, on tensor cores.
//
// Four warps share a tile of positions: two by two for 128 channels, else one below the other. A fragment of 16
// positions x 16 deep meets the fragments of all of the warp's channels.
#pragma once

#include "csrc/common/pair.h"
#include "csrc/grouped/grouped_gemm.h"

namespace convbound::grouped {

template <typename T, Pass kPass, GemmTile kOfTile>
class GemmMma {
  static constexpr int kColumns = kOfTile.columns;
  static constexpr int kWarpsAcross = kColumns == 128 ? 2 : 1, kWarpsDown = 4 / kWarpsAcross;
  static constexpr int kTall = kOfTile.rows / kWarpsDown / 16, kWide = kColumns / kWarpsAcross / 8;
  static constexpr int kColumnGranules = kColumns / 8, kDepth = kGemmGranules * 8;

 public:
  static constexpr GemmTile kTile = kOfTile;
  static constexpr int kStages = kTile.rows == 256 ? 3 : 4;  // two blocks fit into 164 KB
  static constexpr int kBlocks = kColumns >= 64 ? 2 : 4;

  __device__ __forceinline__ GemmMma(const T* bias, int channels) {
#pragma unroll
    for (int j = 0; j < kWide; j++) {
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const int channel = first_column_ + j * 8 + pair_ + e;
        const float value = bias != nullptr && channel < channels ? widen(bias[channel]) : 0.0f;
#pragma unroll
        for (int i = 0; i < kTall; i++) sum_[i][j][e] = sum_[i][j][2 + e] = value;
      }
    }
  }

  __device__ __forceinline__ void add(const T* in, const T* filter) {
#pragma unroll
    for (int k = 0; k < 2; k++) {
      constexpr int kPairs = kWide / 2;
      uint32_t b[kPairs][4];
#pragma unroll
      for (int j = 0; j < kPairs; j++) load_filter(b[j], filter, k, j);
#pragma unroll
      for (int i = 0; i < kTall; i++) {
        uint32_t a[4];
        ptx::ldmatrix<4>(
            a, in + swizzled<T, kGemmGranules>(first_row_ + lane_ % 16, k * 2 + lane_ / 16) + i * 16 * kDepth);
#pragma unroll
        for (int j = 0; j < kWide; j++) {
          const uint32_t half[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
          ptx::mma_m16n8k16<T>(sum_[i][j], a, half, sum_[i][j]);
        }
      }
    }
  }

  // The sums to a tile in shared memory, rows of kColumns.
  __device__ __forceinline__ void stage(T* tile) const {
#pragma unroll
    for (int i = 0; i < kTall; i++) {
#pragma unroll
      for (int j = 0; j < kWide; j++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int row = first_row_ + i * 16 + half * 8 + lane_ / 4;
          T* const to = tile + swizzled<T, kColumnGranules>(row, first_column_ / 8 + j) + pair_;
          *reinterpret_cast<PairOf<T>*>(to) =
              narrow_pair<T>(make_float2(sum_[i][j][half * 2], sum_[i][j][half * 2 + 1]));
        }
      }
    }
  }

 private:
  // The fragments of 16 channels, 16 deep.
  __device__ __forceinline__ void load_filter(uint32_t (&b)[4], const T* filter, int k, int j) const {
    if constexpr (kPass == Pass::kDgrad) {
      // 16 rows of a wide tile turn the granules by 4.
      constexpr int kTurn = kColumnGranules >= 8 ? 4 : 0;
      const int at = swizzled<T, kColumnGranules>(lane_ % 16, first_column_ / 8 + lane_ / 16);
      ptx::ldmatrix<4, true>(b, filter + (at ^ (j * 2 ^ k * kTurn) * 8) + k * 16 * kColumns);
    } else {
      const int row = first_column_ + lane_ / 16 * 8 + lane_ % 8;
      ptx::ldmatrix<4>(b, filter + swizzled<T, kGemmGranules>(row, k * 2 + lane_ / 8 % 2) + j * 16 * kDepth);
    }
  }

  int lane_ = static_cast<int>(threadIdx.x) % 32, warp_ = static_cast<int>(threadIdx.x) / 32;
  int pair_ = lane_ % 4 * 2;
  int first_row_ = warp_ / kWarpsAcross * kTall * 16, first_column_ = warp_ % kWarpsAcross * kWide * 8;
  float sum_[kTall][kWide][4];
};

// The rows of a type of 16 bits: a file each, to be compiled side by side.
template <typename T>
KernelRows gemm_mma_rows() {
  return gemm_rows<T, GemmMma, GemmTile{128, 128}, GemmTile{256, 64}, GemmTile{128, 32}, GemmTile{128, 16}>(80, true);
}

}  // namespace convbound::grouped
