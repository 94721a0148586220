// naive_fprop: y[n,k,o,p,q] = bias[k] + sum over c/g,t,r,s of x[n,c,d,h,w] * w[k,c,t,r,s]. See naive.h.
#include "csrc/naive/naive.h"

namespace convbound::naive {

namespace {

template <typename T, Layout kLayout>
__global__ void __launch_bounds__(kThreads, kBlocks) fprop_kernel(const __grid_constant__ NaiveParams<T> params) {
  const ConvView& v = params.view;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const DenseStrides xs = dense_strides<kLayout>(params.c, v.d.input, v.h.input, v.w.input);
  const DenseStrides ws = dense_strides<kLayout>(v.inputs, v.d.filter, v.h.filter, v.w.filter);
  const DenseStrides ys = dense_strides<kLayout>(params.k, v.d.output, v.h.output, v.w.output);
  if (index >= v.images * ys.outer) return;
  const Element e = element_at<kLayout>(index, params.written);
  const T* x = params.x + e.outer * xs.outer + e.channel / v.outputs * v.inputs * xs.channel;
  const T* w = params.filter + e.channel * ws.outer;

  typename Accumulator<T>::Type sum = 0;
  for (int t = 0; t < v.d.filter; t++) {
    const int d = e.d * v.d.stride + t * v.d.dilation - v.d.padding;
    if (d < 0 || d >= v.d.input) continue;
    for (int r = 0; r < v.h.filter; r++) {
      const int h = e.h * v.h.stride + r * v.h.dilation - v.h.padding;
      if (h < 0 || h >= v.h.input) continue;
      for (int s = 0; s < v.w.filter; s++) {
        const int iw = e.w * v.w.stride + s * v.w.dilation - v.w.padding;
        if (iw < 0 || iw >= v.w.input) continue;
        const T* xc = x + d * xs.d + h * xs.h + iw * xs.w;
        const T* wc = w + t * ws.d + r * ws.h + s * ws.w;
#pragma unroll 1
        for (int c = 0; c < v.inputs; c++) {
          sum = fma(widen(wc[c * ws.channel]), widen(xc[c * xs.channel]), sum);
        }
      }
    }
  }
  if (params.bias != nullptr) sum += widen(params.bias[e.channel]);
  params.y[index] = narrow<T>(sum);
}

template <typename T, Layout kLayout>
LaunchPlan plan_fprop(const KernelRow& row, const ConvProblem& p, const Device&) {
  if (std::string reason = too_large(p); !reason.empty()) return refuse(std::move(reason));
  return plan_outputs(row, fprop_kernel<T, kLayout>, make_params<T>(p, p.k, p.output), p.n * p.k * p.output_size());
}

}  // namespace

KernelRows fprop_rows() {
  return rows_of_pass("naive_fprop", Pass::kFprop, [&]<typename T, Layout kLayout> { return plan_fprop<T, kLayout>; });
}

}  // namespace convbound::naive
