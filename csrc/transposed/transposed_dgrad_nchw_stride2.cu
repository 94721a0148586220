// transposed_dgrad, NCHW, depthwise, stride 2: dx[n,c,h,w] = bias[c] + sum over r,s of dy[n,c,p,q] * w[c,r,s] with
// h + padding = 2p + r (and w alike). See transposed_nchw.h for blocks and tiles.
//
// Each thread walks down dy, in a group of two or four columns of dx. A row p of dy adds to the rows 2p ... 2p + R - 1
// of dx + padding; the first two of them are complete then and stored, and the sums of the others move up by two. So
// every element of dy is loaded once for each group, every tap is used once for every block of 2x2, and a row in the
// padding is passed over. Groups begin at even columns of dx, whatever the padding, so that where rows have an even
// length two or four elements are one store.
//
//   per 2x2 block   R*S FMA, at most ceil(S/2) + 1 shared loads, 2 shared stores
//   global memory   dy once, but for ceil(R/2) - 1 rows above each band where a plane is cut (1/18 of dy, 1/90 of all
//                   traffic, for 3x3 at 112 x 112 in fp16); dx once, all of both by 16-byte accesses
//   in flight       loads are a fifth of the traffic: a stage of dy, about 4 KB, x 4 blocks at the least (7x7), where a
//                   fifth of 24 (sm_80) and 36 KB (sm_90) is asked for; stores wait for nothing
//   instructions    of the inner loop for an output, on sm_80: 8 at 3x3, 10 at 4x4 and 5x5, 19 at 7x7
#include <cstring>
#include <type_traits>

#include "csrc/common/pair.h"
#include "csrc/transposed/transposed_nchw.h"

namespace convbound::transposed {

namespace {

// Columns 2c and 2c + 1 of a group, of the parity of the padding: which element of the window meets tap s, if the
// window's element u is dy's column q - u. Even columns of dx take the even taps where the padding is even.
template <int kFilter, int kGroup, bool kOdd>
struct Columns {
  static constexpr int kPairs = kGroup / 2;
  static constexpr int kOfPair = kOdd ? kFilter / 2 + 1 : (kFilter + 1) / 2;
  static constexpr int kWindow = kOfPair + kPairs - 1;
  static constexpr bool takes(int column, int s) { return (column + s + (kOdd ? 1 : 0)) % 2 == 0; }
  static constexpr int element(int column, int s) {
    const int of_pair = kOdd && column % 2 == 0 ? 1 + s / 2 : s / 2;
    return of_pair + kPairs - 1 - column / 2;
  }
};

// A row of the group by stores of kVector elements. Of the group's columns those from `first` to `end` are the tile's.
template <int kVector, typename T, int kGroup>
__device__ __forceinline__ void store_group(T* to, const float (&values)[kGroup], int first, int end) {
  using Pair = PairOf<T>;
  if constexpr (kVector == 4) {
    const Pair pairs[2] = {narrow_pair<T>(make_float2(values[0], values[1])),
                           narrow_pair<T>(make_float2(values[2], values[3]))};
    uint2 word;
    memcpy(static_cast<void*>(&word), pairs, sizeof(word));
    *reinterpret_cast<uint2*>(to) = word;
  } else if constexpr (kVector == 2) {
#pragma unroll
    for (int i = 0; i < kGroup; i += 2) {
      if (i < end) *reinterpret_cast<Pair*>(to + i) = narrow_pair<T>(make_float2(values[i], values[i + 1]));
    }
  } else {
#pragma unroll
    for (int i = 0; i < kGroup; i++) {
      if (i >= first && i < end) to[i] = narrow<T>(values[i]);
    }
  }
}

template <typename T, int kFilter, bool kOdd>
__global__ void __launch_bounds__(kThreads, kFilter < 5    ? 8
                                            : kFilter == 5 ? 6
                                                           : 4)
    dgrad_nchw_stride2_kernel(const __grid_constant__ Params<T> params) {
  constexpr int kGroup = column_group(kFilter), kAbove = (kFilter + 1) / 2 - 1;
  constexpr int kTaps = kFilter * kFilter, kSums = kFilter * kGroup;
  using C = Columns<kFilter, kGroup, kOdd>;
  run_tile(params, [&](const Range& range, int planes, T* dx_stage, const Staged<T>& dy_stage,
                       const StagedFilters<T>& filters) {
    const Tile& tile = params.tile;
    const Axis &h = tile.h, &w = tile.w;
    const int items = tile.segments * tile.columns;
    const QuotientRemainder team = divide(static_cast<int>(threadIdx.x), params.team);
    const int plane_end = team.quotient < tile.teams ? planes : 0;
    // Where a tile is a part of a row, its first group may begin one column before it.
    const int first_column = range.w / 2 * 2, height = range.h_end - range.h,
              dx_offset = elements_after_boundary(dx_stage);
    const bool even = w.input % 2 == 0 && tile.w.tiles == 1 && dx_offset % 2 == 0;
    const bool fourfold = even && kGroup == 4 && sizeof(T) == 2 && w.input % 4 == 0 && dx_offset % 4 == 0;
#pragma unroll 1
    for (int plane = team.quotient; plane < plane_end; plane += tile.teams) {
      float tap[kFilter][kFilter];
      const T* const taps = filters.taps(params, plane);
#pragma unroll
      for (int t = 0; t < kTaps; t++) tap[t / kFilter][t % kFilter] = widen(taps[t]);
      const float bias = filters.biases[plane];
#pragma unroll 1
      for (int item = team.remainder; item < items; item += tile.team) {
        const QuotientRemainder part = divide(item, params.columns);
        const int first = range.i + part.quotient * tile.steps, end = min(first + tile.steps, range.i_end);
        const int column = first_column + part.remainder * kGroup, columns = range.w_end - column;
        if (columns <= 0) continue;

        const int q = column / 2 + (w.padding + 1) / 2 + C::kPairs - 1;
        bool inside[C::kWindow];
#pragma unroll
        for (int u = 0; u < C::kWindow; u++) inside[u] = q - u >= range.q && q - u < range.q_end;
        const T* dy = dy_stage(plane) + (first - kAbove - range.p) * w.output + q - range.q;
        T* dx = dx_stage + (plane * h.input + 2 * first - h.padding - range.h) * w.input + column - range.w;

        const auto walk = [&](auto vector) {
          constexpr int kVector = decltype(vector)::value;
          float sum[kFilter][kGroup];  // of rows 2p + r
#pragma unroll
          for (int i = 0; i < kSums; i++) sum[i / kGroup][i % kGroup] = bias;
          const auto add_row = [&] {
            float window[C::kWindow];
#pragma unroll
            for (int u = 0; u < C::kWindow; u++) window[u] = inside[u] ? widen(dy[-u]) : 0.0f;
#pragma unroll
            for (int i = 0; i < kSums; i++) {
              const int r = i / kGroup, x = i % kGroup;
              float added = r + 2 < kFilter ? sum[(r + 2) % kFilter][x] : bias;
#pragma unroll
              for (int s = 0; s < kFilter; s++) {
                if (C::takes(x, s)) added = fmaf(window[C::element(x, s)], tap[r][s], added);
              }
              sum[r][x] = added;
            }
            dy += w.output;
          };
          const auto pass_row = [&] {
#pragma unroll
            for (int i = 0; i < kSums; i++) {
              const int r = i / kGroup, x = i % kGroup;
              sum[r][x] = r + 2 < kFilter ? sum[(r + 2) % kFilter][x] : bias;
            }
            dy += w.output;
          };
          int at = 2 * first - h.padding - range.h;
          const auto store = [&] {
            const bool upper = static_cast<unsigned>(at) < static_cast<unsigned>(height);
            const bool lower = static_cast<unsigned>(at + 1) < static_cast<unsigned>(height);
            if (upper) store_group<kVector>(dx, sum[0], range.w - column, columns);
            if (lower) store_group<kVector>(dx + w.input, sum[1], range.w - column, columns);
            dx += 2 * w.input;
            at += 2;
          };
#pragma unroll
          for (int row = 0; row < kAbove; row++) {
            const int p = first - kAbove + row;
            if (p >= 0 && p < h.output) {
              add_row();
            } else {
              pass_row();
            }
          }
          const int inner_end = min(end, h.output);
#pragma unroll 1
          for (int p = first; p < inner_end; p++) {
            add_row();
            store();
          }
#pragma unroll 1
          for (int p = max(first, inner_end); p < end; p++) {
            pass_row();
            store();
          }
        };
        if (fourfold) {
          walk(std::integral_constant < int, kGroup == 4 && sizeof(T) == 2 ? 4 : 2 > {});
        } else if (even) {
          walk(std::integral_constant<int, 2>{});
        } else {
          walk(std::integral_constant<int, 1>{});
        }
      }
    }
  });
}

}  // namespace

bool supports_stride2(const ConvProblem& p) {
  return strided_depthwise_dgrad(p) && p.k == p.c && p.dilation[1] == 1 && p.dilation[2] == 1 &&
         nchw_shape<float>(p).shared_bytes <= kMostBytes;
}

template <typename T, int kFilter>
void dgrad_nchw_stride2(const ConvProblem& problem, const Tensors& tensors, cudaStream_t stream) {
  const bool odd = problem.padding[2] % 2 != 0;
  launch("transposed_dgrad_nchw_stride2",
         odd ? dgrad_nchw_stride2_kernel<T, kFilter, true> : dgrad_nchw_stride2_kernel<T, kFilter, false>,
         nchw_shape<T>(problem), stream, make_params<T>(problem, tensors));
}

#define CONVBOUND_STRIDE2(T, filter) \
  template void dgrad_nchw_stride2<T, filter>(const ConvProblem&, const Tensors&, cudaStream_t);
#define CONVBOUND_STRIDE2_FILTERS(T) \
  CONVBOUND_STRIDE2(T, 3)            \
  CONVBOUND_STRIDE2(T, 4)            \
  CONVBOUND_STRIDE2(T, 5)            \
  CONVBOUND_STRIDE2(T, 7)
CONVBOUND_STRIDE2_FILTERS(__half)
CONVBOUND_STRIDE2_FILTERS(__nv_bfloat16)
CONVBOUND_STRIDE2_FILTERS(float)

}  // namespace convbound::transposed
