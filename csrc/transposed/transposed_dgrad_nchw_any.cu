// transposed_dgrad, NCHW, depthwise with a channel multiplier, any stride, filter and dilation:
// dx[n,c,h,w] = bias[c] + sum over m,r,s of dy[n,c*M+m,p,q] * w[c*M+m,r,s] with h + padding = p * stride + r * dilation
// (and w alike). See transposed_nchw.h for blocks and tiles, phases.h for the taps of a phase.
//
// Each thread makes one block of stride x stride elements at a time, element by element, each with the taps of its
// phase: every tap of the filter once, none looked for. dy and the filter come from shared memory at every use, so a
// tap costs two shared loads; global memory sees dy and dx once, as in the stride-2 kernel. 1-D problems of any length
// are cut along the row.
//
// Lanes store elements `stride` apart, which is `stride` wavefronts a store in fp32.
#include "csrc/transposed/phases.h"
#include "csrc/transposed/transposed_nchw.h"

namespace convbound::transposed {

namespace {

template <typename T>
struct AnyParams : Params<T> {
  Phases rows, columns;
};

template <typename T>
__global__ void __launch_bounds__(kThreads, 8) dgrad_nchw_any_kernel(const __grid_constant__ AnyParams<T> params) {
  run_tile<T>(params, [&](const Range& range, int planes, T* dx_stage, const Staged<T>& dy_stage,
                          const StagedFilters<T>& filters) {
    const Tile& tile = params.tile;
    const Axis &h = tile.h, &w = tile.w;
    const Phases &rows = params.rows, &columns = params.columns;
    const int width = range.j_end - range.j, height = range.i_end - range.i, items = planes * height * width;
    const int taps = h.filter * w.filter;
    for (int item = static_cast<int>(threadIdx.x); item < items; item += kThreads) {
      const int j = range.j + item % width, rest = item / width;
      const int i = range.i + rest % height, plane = rest / height;
      const T* const taps_of_plane = filters.taps(params, plane);
      for (int fh = 0; fh < h.stride; fh++) {
        const int at_h = i * h.stride + fh - h.padding, row_taps = rows.count[fh];
        for (int fw = 0; fw < w.stride; fw++) {
          const int at_w = j * w.stride + fw - w.padding, column_taps = columns.count[fw];
          if (at_h < range.h || at_h >= range.h_end || at_w < range.w || at_w >= range.w_end) continue;
          float sum = filters.biases[plane];
          for (int m = 0; m < tile.multiplier; m++) {
            const T* const dy = dy_stage(plane * tile.multiplier + m) - range.q;
            for (int t = 0; t < row_taps; t++) {
              const int p = i + rows.offset[fh] - t * rows.move;
              if (p < 0 || p >= h.output) continue;
              const T* const row = dy + (p - range.p) * w.output;
              const T* const filter_row =
                  taps_of_plane + m * taps + (rows.first[fh] + t * rows.step) * w.filter + columns.first[fw];
              for (int u = 0; u < column_taps; u++) {
                const int q = j + columns.offset[fw] - u * columns.move;
                if (q >= 0 && q < w.output) sum = fmaf(widen(row[q]), widen(filter_row[u * columns.step]), sum);
              }
            }
          }
          dx_stage[(plane * h.input + at_h - range.h) * w.input + at_w - range.w] = narrow<T>(sum);
        }
      }
    }
  });
}

}  // namespace

bool supports_nchw_any(const ConvProblem& p) {
  return strided_depthwise_dgrad(p) && p.stride[1] <= kMostStride && p.stride[2] <= kMostStride &&
         nchw_shape<float>(p).shared_bytes <= kMostBytes;
}

template <typename T>
void dgrad_nchw_any(const ConvProblem& problem, const Tensors& tensors, cudaStream_t stream) {
  const AnyParams<T> params{make_params<T>(problem, tensors), make_phases(problem, 1), make_phases(problem, 2)};
  launch("transposed_dgrad_nchw_any", dgrad_nchw_any_kernel<T>, nchw_shape<T>(problem), stream, params);
}

template void dgrad_nchw_any<__half>(const ConvProblem&, const Tensors&, cudaStream_t);
template void dgrad_nchw_any<__nv_bfloat16>(const ConvProblem&, const Tensors&, cudaStream_t);
template void dgrad_nchw_any<float>(const ConvProblem&, const Tensors&, cudaStream_t);

}  // namespace convbound::transposed
