// transposed_dgrad, NCHW, depthwise, stride 2: dx[n,c,h,w] = bias[c] + sum over r,s of dy[n,c,p,q] * w[c,r,s] with
// h + padding = 2p + r (and w alike). See transposed_nchw.h for blocks and tiles.
//
// Each thread walks down a column of 2x2 blocks of dx. Block (i, j) needs dy's rows i ... i - ceil(R/2) + 1 and as many
// columns: that window stays in registers, so that a step loads one row of it, makes four elements with each of the R *
// S taps once, and stores them.
//
//   per 2x2 block   R*S FMA, ceil(S/2) shared loads, 4 shared stores
//   global memory   dy once, but for ceil(R/2) - 1 rows above each band where a plane is cut (1/18 of dy, 1/90 of all
//                   traffic, for 3x3 at 112 x 112 in fp16); dx once, all of both by 16-byte accesses
//   in flight       loads are a fifth of the traffic: a stage of dy, about 4 KB, x 11 blocks on sm_90, where a fifth of
//                   36 KB is asked for; stores wait for nothing
//
// Lanes take neighbouring columns, whose elements lie 2 apart in dx. In fp32 that would be two wavefronts a store, so
// the upper half of the warp stores its two elements in the other order and each store meets all 32 banks once.
#include "csrc/transposed/transposed_nchw.h"

namespace convbound::transposed {

namespace {

template <typename T, int kFilter>
__global__ void __launch_bounds__(kThreads, kFilter < 7 ? 8 : 5)
    dgrad_nchw_stride2_kernel(const __grid_constant__ Params<T> params) {
  constexpr int kWindow = (kFilter + 1) / 2, kAbove = kWindow - 1, kTaps = kFilter * kFilter;
  run_tile(params, [&](const Range& range, int planes, T* dx_stage, const Staged<T>& dy_stage, const float* weights) {
    const Tile& tile = params.tile;
    const Axis &h = tile.h, &w = tile.w;
    const int columns = range.j_end - range.j, items = planes * tile.segments * columns;
    const bool swap = sizeof(T) == 4 && threadIdx.x % 32 >= 16;
    for (int item = static_cast<int>(threadIdx.x); item < items; item += kThreads) {
      const int j = range.j + item % columns, rest = item / columns;
      const int plane = rest / tile.segments, first = range.i + rest % tile.segments * tile.steps;
      const int steps = min(tile.steps, range.i_end - first);

      float tap[kFilter][kFilter];
#pragma unroll
      for (int t = 0; t < kTaps; t++) tap[t / kFilter][t % kFilter] = weights[plane * (kTaps + 1) + t];
      const float bias = weights[plane * (kTaps + 1) + kTaps];

      const T* const dy = dy_stage(plane) + (j - range.q);
      T* const dx = dx_stage + plane * h.input * w.input + (2 * j - w.padding - range.w);
      const auto row = [&](int p, float (&values)[kWindow]) {
        const bool inside = p >= 0 && p < h.output;
#pragma unroll
        for (int t = 0; t < kWindow; t++) {
          const bool there = inside && j - t >= 0 && j - t < w.output;
          values[t] = there ? widen(dy[(p - range.p) * w.output - t]) : 0.0f;
        }
      };
      const bool left = 2 * j >= w.padding, right = 2 * j + 1 - w.padding < w.input;
      const auto store = [&](int at, const float (&values)[2]) {
        if (at < range.h || at >= range.h_end) return;
        T* const to = dx + (at - range.h) * w.input;
        if (swap ? right : left) to[swap] = narrow<T>(swap ? values[1] : values[0]);
        if (swap ? left : right) to[!swap] = narrow<T>(swap ? values[0] : values[1]);
      };

      float window[kWindow][kWindow];  // of rows i - t
#pragma unroll
      for (int t = 0; t < kAbove; t++) row(first - 1 - t, window[t]);
#pragma unroll 1
      for (int step = 0; step < steps; step++) {
        const int i = first + step;
#pragma unroll
        for (int t = kAbove; t > 0; t--) {
#pragma unroll
          for (int u = 0; u < kWindow; u++) window[t][u] = window[t - 1][u];
        }
        row(i, window[0]);
        float sum[2][2] = {{bias, bias}, {bias, bias}};
#pragma unroll
        for (int r = 0; r < kFilter; r++) {
#pragma unroll
          for (int s = 0; s < kFilter; s++) {
            sum[r % 2][s % 2] = fmaf(window[r / 2][s / 2], tap[r][s], sum[r % 2][s % 2]);
          }
        }
        store(2 * i - h.padding, sum[0]);
        store(2 * i + 1 - h.padding, sum[1]);
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
  launch("transposed_dgrad_nchw_stride2", dgrad_nchw_stride2_kernel<T, kFilter>, nchw_shape<T>(problem), stream,
         make_params<T>(problem, tensors));
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
