// naive_fprop: y[n,k,o,p,q] = bias[k] + sum over c/g,t,r,s of x[n,c,d,h,w] * w[k,c,t,r,s]. See naive.h.
#include "csrc/common/within.h"
#include "csrc/naive/naive_device.h"

namespace convbound::naive {

namespace {

template <typename T, Layout kLayout>
__global__ void __launch_bounds__(kThreads, kBlocks) fprop_kernel(const __grid_constant__ Params<T> params) {
  const Params<T>& p = params;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const Strides xs = dense_strides<kLayout>(p.c, p.d.input, p.h.input, p.w.input);
  const Strides ws = dense_strides<kLayout>(p.c_per_group, p.d.filter, p.h.filter, p.w.filter);
  const Strides ys = dense_strides<kLayout>(p.k, p.d.output, p.h.output, p.w.output);
  if (index >= p.n * ys.outer) return;
  const Element e = element_at<kLayout>(index, p.written);
  const T* x = p.x + e.outer * xs.outer + e.channel / p.k_per_group * p.c_per_group * xs.channel;
  const T* w = p.filter + e.channel * ws.outer;

  typename Accumulator<T>::Type sum = 0;
  for (int t = 0; t < p.d.filter; t++) {
    const int d = e.d * p.d.stride + t * p.d.dilation - p.d.padding;
    if (d < 0 || d >= p.d.input) continue;
    for (int r = 0; r < p.h.filter; r++) {
      const int h = e.h * p.h.stride + r * p.h.dilation - p.h.padding;
      if (h < 0 || h >= p.h.input) continue;
      for (int s = 0; s < p.w.filter; s++) {
        const int iw = e.w * p.w.stride + s * p.w.dilation - p.w.padding;
        if (iw < 0 || iw >= p.w.input) continue;
        const T* xc = x + d * xs.d + h * xs.h + iw * xs.w;
        const T* wc = w + t * ws.d + r * ws.h + s * ws.w;
#pragma unroll 1
        for (int c = 0; c < p.c_per_group; c++) {
          sum = fma(widen(wc[c * ws.channel]), widen(xc[c * xs.channel]), sum);
        }
      }
    }
  }
  if (p.bias != nullptr) sum += widen(p.bias[e.channel]);
  p.y[index] = narrow<T>(sum);
}

}  // namespace

bool supports(const ConvProblem& p) {
  constexpr int64_t kMost = (1 << 30) - 1;  // leaves room for a sum of two coordinates
  return axes_within(p, kMost) && p.c <= kMost && p.k <= kMost;
}

LaunchShape fprop_shape(const ConvProblem& problem) {
  return one_thread_each(problem.n * problem.k * problem.output_size());
}

template <typename T, Layout kLayout>
void fprop(const ConvProblem& problem, const Tensors& tensors, cudaStream_t stream) {
  launch("naive_fprop", fprop_kernel<T, kLayout>, fprop_shape(problem), stream,
         make_params<T>(problem, tensors, problem.k, problem.output));
}

#define CONVBOUND_NAIVE(dtype, T, layout) \
  template void fprop<T, layout>(const ConvProblem&, const Tensors&, cudaStream_t);
#include "csrc/naive/instances.inc"
#undef CONVBOUND_NAIVE

}  // namespace convbound::naive
