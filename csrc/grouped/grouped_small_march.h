// The products of grouped_small for 3x3, 5x5 and 7x7 at stride 1: the weights stay in registers, and a warp marches
// down a band of rows. It loads each row of the input once, and multiplies it into all rows of the output that it
// meets.
#pragma once

#include "csrc/grouped/grouped_small_tile.h"

namespace convbound::grouped {

// A filter of kTaps x kFilterSide x kFilterSide over kSlabs slabs of inputs. Its planes, one for each slab and tap
// along depth, lie some bytes apart in the tile.
template <int kFilterSide, int kTaps, int kSlabs>
struct MarchTraits {
  static constexpr int kSide = kFilterSide, kDepth = kTaps, kDepthSlabs = kSlabs;
  static constexpr int kPlanes = kDepth * kDepthSlabs;
  static constexpr int kPairs = kSide / 2;                            // of taps along a filter row, before its last one
  static constexpr int kRows = kBand + kSide - 1;                     // of the input, under a band
  static constexpr int kBlocks = kSide == 3 && kPlanes == 1 ? 5 : 4;  // up to 96 or 128 registers
  static_assert(kSide % 2 == 1 && kRows % 2 == 0, "one tap of a filter row is left over; rows go by two");
};

// B for all taps of a slab. Taps of a filter row are paired, and its last one with that of the next filter row: of rows
// 0 and 1, 2 and 3, … in last[0], and of rows 1 and 2, 3 and 4, … in last[1].
template <typename Traits>
struct MarchWeights {
  uint32_t pair[Traits::kPlanes][Traits::kSide][Traits::kPairs][2];
  uint32_t last[Traits::kPlanes][2][Traits::kPairs][2];

  template <typename T>
  __device__ __forceinline__ MarchWeights(const SmallParams<T>& p, int in_slab, int out_slab) {
    constexpr int kSide = Traits::kSide, kPlane = kSide * kSide;
#pragma unroll
    for (int plane = 0; plane < Traits::kPlanes; plane++) {
      LaneWeights<T> weights(p, in_slab + plane % Traits::kDepthSlabs, out_slab);
      if (p.dgrad) weights.turn_round(p.taps);  // dgrad is fprop with the filter turned round
      const int first = plane / Traits::kDepthSlabs * kPlane;
#pragma unroll
      for (int r = 0; r < kSide; r++) {
        __syncwarp();  // or ptxas would load all rows at once, more than registers hold
#pragma unroll
        for (int s = 0; s < kSide; s++) {
          const uint32_t word = weights.at(first + r * kSide + s);
          if (s + 1 < kSide) {
            pair[plane][r][s / 2][s % 2] = word;
          } else {
            // A shuffle that moves nothing: ptxas would keep one register for both, and copy it before every product.
            if (r + 1 < kSide) last[plane][0][r / 2][r % 2] = word;
            if (r > 0) last[plane][1][(r - 1) / 2][(r - 1) % 2] = __shfl_sync(0xffffffff, word, threadIdx.x % 32);
          }
        }
      }
    }
  }
};

// Where a lane finds its rows of A: for two taps of one row of the input, and for the last tap of two rows.
struct MarchLane {
  const unsigned char *pair, *last;
};

// Multiplies row i of the input under a band with all filter rows, but for their last taps. The products that follow
// one another belong to several rows of the output.
template <typename T, typename Traits>
__device__ __forceinline__ void add_pairs(float (&sum)[Traits::kSide][4], const unsigned char* row,
                                          const MarchWeights<Traits>& weights, int plane, int i,
                                          const float (&bias)[4]) {
  constexpr int kSide = Traits::kSide;
#pragma unroll
  for (int pair = 0; pair < Traits::kPairs; pair++) {
    uint32_t a[4];
    ptx::ldmatrix<4>(a, row + pair * 2 * kVectorBytes);
#pragma unroll
    for (int r = 0; r < kSide; r++) {
      const int to = i - r;
      if (to < 0 || to >= kBand) continue;
      const float (&before)[4] = sum[to % kSide];
      const bool first = pair == 0 && r == 0 && plane == 0;
      ptx::mma_m16n8k16<T>(sum[to % kSide], a, weights.pair[plane][r][pair], first ? bias : before);
    }
  }
}

// Multiplies the last taps with rows i and i + 1 of the input, i even, for one row of the output. It may meet only one
// of them: the first in its last filter row, or the second in its first one.
template <typename T, typename Traits>
__device__ __forceinline__ void add_last(float (&sum)[Traits::kSide][4], const uint32_t (&a)[4],
                                         const MarchWeights<Traits>& weights, int plane, int i, int to) {
  constexpr int kLast = Traits::kSide - 1;
  if (to < 0 || to >= kBand) return;
  float (&mine)[4] = sum[to % Traits::kSide];
  const int r = i - to;  // the filter row that meets row i
  if (r == kLast) {
    const uint32_t first[2] = {a[0], a[1]}, word[1] = {weights.last[plane][1][kLast / 2 - 1][1]};
    ptx::mma_m16n8k8<T>(mine, first, word, mine);
  } else if (r < 0) {
    const uint32_t second[2] = {a[2], a[3]}, word[1] = {weights.last[plane][0][0][0]};
    ptx::mma_m16n8k8<T>(mine, second, word, mine);
  } else {
    ptx::mma_m16n8k16<T>(mine, a, weights.last[plane][r % 2][r / 2], mine);
  }
}

// Stores a row of the output that is complete.
template <typename T>
__device__ __forceinline__ void stage_row(const float (&sum)[4], unsigned char* out, int row, bool second) {
  constexpr int kRow = kOctet * kVectorBytes;
  stage_pair<T>(out + row * kRow, sum[0], sum[1]);
  if (second) stage_pair<T>(out + (kBand + row) * kRow, sum[2], sum[3]);
}

// The outputs of a band below two octets. A sum is open while the rows of its filter go by, kSide sums at a time.
template <typename T, typename Traits>
__device__ __forceinline__ void march(const MarchWeights<Traits>& weights, const SmallPlan& plan, MarchLane in,
                                      unsigned char* out, bool second, const float (&bias)[4]) {
  constexpr int kSide = Traits::kSide, kPlanes = Traits::kPlanes;
  const int pitch = plan.row_pitch * kVectorBytes;
  const auto plane_at = [&](int plane) {
    return plane % Traits::kDepthSlabs * plan.in_pitch + plane / Traits::kDepthSlabs * plan.depth_pitch * kVectorBytes;
  };
  float sum[kSide][4];
#pragma unroll
  for (int i = 0; i < Traits::kRows; i += 2) {
    uint32_t last[kPlanes][4];
    const int done = i - kSide + 1;  // this row of the output and the next one are complete after these two rows
#pragma unroll
    for (int plane = 0; plane < kPlanes; plane++) {
      add_pairs<T>(sum, in.pair + plane_at(plane), weights, plane, i, bias);
      ptx::ldmatrix<4>(last[plane], in.last + plane_at(plane));
      add_last<T>(sum, last[plane], weights, plane, i, done);
    }
    if (done >= 0) stage_row<T>(sum[done % kSide], out, done, second);
#pragma unroll
    for (int plane = 0; plane < kPlanes; plane++) {
      add_pairs<T>(sum, in.pair + pitch + plane_at(plane), weights, plane, i + 1, bias);
#pragma unroll
      for (int r = 0; r < kSide; r++) add_last<T>(sum, last[plane], weights, plane, i, done + 1 + r);
    }
    if (done >= 0) stage_row<T>(sum[(done + 1) % kSide], out, done + 1, second);
    in.pair += 2 * pitch, in.last += 2 * pitch;
  }
}

template <typename T, typename Traits>
__device__ __forceinline__ void compute_bands(const SmallParams<T>& p, const SmallWarp& warp,
                                              const MarchWeights<Traits>& weights, const unsigned char* tile,
                                              unsigned char* stage, const float (&bias)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int octets = p.plan.octets(), last = octets - 1;
  for (int first = warp.part * 2; first < octets; first += warp.parts * 2) {
    const int octet = octet_inputs<kBand>(p, min(first + lane / 8 % 2, last)) + lane % 8;
    const unsigned char* const row = tile + octet * kVectorBytes;
    const int half = lane / 16 * kVectorBytes;
    const MarchLane in{row + half, row + (Traits::kSide - 1) * kVectorBytes + half * p.plan.row_pitch};
    unsigned char* const out = stage + first * (kBand * kOctet * kVectorBytes) + lane * 4;
    march<T>(weights, p.plan, in, out, first < last, bias);
  }
}

}  // namespace convbound::grouped
