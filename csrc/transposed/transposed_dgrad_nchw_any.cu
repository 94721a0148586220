// transposed_dgrad_nchw_any, depthwise with a channel multiplier, any stride, filter and dilation:
// dx[n,c,h,w] = bias[c] + sum over m,r,s of dy[n,c*M+m,p,q] * w[c*M+m,r,s] with h + padding = p * stride + r * dilation
// (and w alike). transposed_nchw_tile.h has the tiles, transposed_blocks.h the blocks and the taps of a phase.
//
// Each thread makes one block of stride x stride elements at a time, element by element, each with the taps of its
// phase: every tap of the filter once, none looked for. dy and the filter come from shared memory at every use, so a
// tap costs two shared loads. Global memory sees dy and dx once, as in the stride-2 kernel. 1-D problems of any length
// are cut along the row.
//
// Lanes store elements `stride` apart, which is `stride` wavefronts a store in fp32.
//
// The stride-2 kernel is no instance of this one. It knows which tap meets which element when it is compiled, and has
// those of dy in registers: 5 instructions a tap at 3x3 (fp16, sm_90), where the tables of phases take 20.
#include "csrc/transposed/transposed_nchw_tile.h"

namespace convbound::transposed {

namespace {

template <typename T>
struct AnyParams : TransposedNchwParams<T> {
  Phases rows, columns;
};

template <typename T>
__global__ void __launch_bounds__(kThreads, 8) dgrad_nchw_any_kernel(const __grid_constant__ AnyParams<T> params) {
  run_tile<T>(params, [&](const TilePart& part, int planes, T* dx_stage, const StagedDy<T>& dy_stage,
                          const StagedFilters<T>& filters) {
    const AxisView &h = params.view.h, &w = params.view.w;
    const Phases &rows = params.rows, &columns = params.columns;
    const int width = part.w.block_end - part.w.block, height = part.h.block_end - part.h.block,
              items = planes * height * width;
    const int taps = h.filter * w.filter;
    for (int item = static_cast<int>(threadIdx.x); item < items; item += kThreads) {
      const int j = part.w.block + item % width, rest = item / width;
      const int i = part.h.block + rest % height, plane = rest / height;
      const T* const taps_of_plane = filters(plane);
      for (int fh = 0; fh < h.stride; fh++) {
        const int at_h = i * h.stride + fh - h.padding, row_taps = rows.count[fh];
        for (int fw = 0; fw < w.stride; fw++) {
          const int at_w = j * w.stride + fw - w.padding, column_taps = columns.count[fw];
          if (at_h < part.h.in || at_h >= part.h.in_end || at_w < part.w.in || at_w >= part.w.in_end) continue;
          float sum = filters.biases[plane];
          for (int m = 0; m < params.view.outputs; m++) {
            const T* const dy = dy_stage(plane * params.view.outputs + m) - part.w.out;
            for (int t = 0; t < row_taps; t++) {
              const int p = i + rows.offset[fh] - t * rows.move;
              if (!within(p, h.output)) continue;
              const T* const row = dy + (p - part.h.out) * w.output;
              const T* const filter_row =
                  taps_of_plane + m * taps + (rows.first[fh] + t * rows.step) * w.filter + columns.first[fw];
              for (int u = 0; u < column_taps; u++) {
                const int q = j + columns.offset[fw] - u * columns.move;
                if (within(q, w.output)) sum = fmaf(widen(row[q]), widen(filter_row[u * columns.step]), sum);
              }
            }
          }
          dx_stage[(plane * h.input + at_h - part.h.in) * w.input + at_w - part.w.in] = narrow<T>(sum);
        }
      }
    }
  });
}

template <typename T>
LaunchPlan plan_any(const KernelRow& row, const ConvProblem& p, const Device&) {
  std::string reason = first_of({problem_refused(p), stride_refused(p)});
  if (!reason.empty()) return refuse(std::move(reason));
  const ConvView v = view_of(p);
  const AnyParams<T> params{make_params<T>(v), make_phases(v.h), make_phases(v.w)};
  return plan_launch(row, dgrad_nchw_any_kernel<T>, tile_shape<T>(params), params);
}

}  // namespace

KernelRows dgrad_nchw_any_rows() {
  return rows_of_fast_types([&]<typename T> {
    return KernelRows{{.name = "transposed_dgrad_nchw_any",
                       .family = Family::kTransposed,
                       .pass = Pass::kDgrad,
                       .dtype = kDTypeOf<T>,
                       .layout = Layout::kChannelsFirst,
                       .tile = tile_text() + " of whole planes, rows or a part of one",
                       .plan = plan_any<T>}};
  });
}

}  // namespace convbound::transposed
