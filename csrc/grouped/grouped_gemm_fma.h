// The products of the implicit GEMM (grouped_gemm.h) in fp32, by FMA.
//
// 128 threads, 16 below each other and 8 side by side, share a tile: a thread has every 16th position
// and an eighth of the channels. It loads 4 depths of a position as 16 bytes; 8 lanes read the same position, and
// channels from different banks.
#pragma once

#include "csrc/grouped/grouped_gemm.h"

namespace convbound::grouped {

template <typename T, Pass kPass, GemmTile kOfTile>
class GemmFma {
  static constexpr int kAcross = 8, kDown = kGemmThreads / kAcross;
  static constexpr int kTall = kOfTile.rows / kDown, kWide = kOfTile.columns / kAcross;
  static constexpr int kDepths = kVectorElements<T>, kColumnGranules = kOfTile.columns / kDepths;
  // dgrad: channels that lie side by side in a row of the filter.
  static constexpr int kRun = kPass == Pass::kFprop ? 1 : kWide < kDepths ? kWide : kDepths;

 public:
  static constexpr GemmTile kTile = kOfTile;
  static constexpr int kStages = 4, kBlocks = kPass == Pass::kFprop ? 3 : 2;  // dgrad would spill

  __device__ __forceinline__ GemmFma(const T* bias, int channels) {
#pragma unroll
    for (int j = 0; j < kWide; j++) {
      const float value = bias != nullptr && channel(j) < channels ? bias[channel(j)] : 0.0f;
#pragma unroll
      for (int i = 0; i < kTall; i++) sum_[i][j] = value;
    }
  }

  __device__ __forceinline__ void add(const T* in, const T* filter) {
#pragma unroll 1
    for (int granule = 0; granule < kGemmGranules; granule++) {
      Vector<T> a[kTall];
#pragma unroll
      for (int i = 0; i < kTall; i++) a[i] = load_vector(in + swizzled<T, kGemmGranules>(down_ + i * kDown, granule));
      if constexpr (kPass == Pass::kFprop) {
#pragma unroll
        for (int j = 0; j < kWide; j++)
          add_row(a, load_vector(filter + swizzled<T, kGemmGranules>(channel(j), granule)), j);
      } else {
#pragma unroll
        for (int k = 0; k < kDepths; k++) add_depth(a, filter, granule * kDepths + k, k);
      }
    }
  }

  // The sums to a tile in shared memory, rows of its channels.
  __device__ __forceinline__ void stage(T* tile) const {
#pragma unroll
    for (int i = 0; i < kTall; i++) {
#pragma unroll
      for (int j = 0; j < kWide; j++) *at<kColumnGranules>(tile, down_ + i * kDown, channel(j)) = sum_[i][j];
    }
  }

 private:
  __device__ __forceinline__ int channel(int j) const { return (j / kRun * kAcross + across_) * kRun + j % kRun; }

  template <int kGranules, typename Element>
  __device__ __forceinline__ static Element* at(Element* shared, int row, int element) {
    return shared + swizzled<T, kGranules>(row, element / kDepths) + element % kDepths;
  }

  // fprop: 4 depths of channel j.
  __device__ __forceinline__ void add_row(const Vector<T> (&a)[kTall], const Vector<T>& b, int j) {
#pragma unroll
    for (int k = 0; k < kDepths; k++) {
#pragma unroll
      for (int i = 0; i < kTall; i++) sum_[i][j] = fmaf(a[i].element[k], b.element[k], sum_[i][j]);
    }
  }

  // dgrad: one depth of all channels, the k-th of those of `a`.
  __device__ __forceinline__ void add_depth(const Vector<T> (&a)[kTall], const T* filter, int depth, int k) {
#pragma unroll
    for (int j = 0; j < kWide; j += kRun) {
      struct alignas(kRun * sizeof(T)) Run {
        T element[kRun];
      };
      const Run b = *reinterpret_cast<const Run*>(at<kColumnGranules>(filter, depth, channel(j)));
#pragma unroll
      for (int e = 0; e < kRun; e++) {
#pragma unroll
        for (int i = 0; i < kTall; i++) sum_[i][j + e] = fmaf(a[i].element[k], b.element[e], sum_[i][j + e]);
      }
    }
  }

  int across_ = static_cast<int>(threadIdx.x) % kAcross, down_ = static_cast<int>(threadIdx.x) / kAcross;
  float sum_[kTall][kWide];
};

}  // namespace convbound::grouped
