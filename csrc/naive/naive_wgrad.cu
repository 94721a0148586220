// naive_wgrad: dw[k,c,t,r,s] = sum over n,o,p,q of dy[n,k,o,p,q] * x[n,c,d,h,w], and dbias[k] = sum over n,o,p,q of dy.
// See naive.h.
//
// One thread per filter element, so x and dy are read once per tap, and a depthwise 3x3 has only 9 threads per channel.
// fp32 sums over n,o,p,q grow long; each image is summed apart, which keeps the rounding error near that of one image.
#include "csrc/naive/naive_device.h"

namespace convbound::naive {

namespace {

template <typename T, Layout kLayout>
__global__ void __launch_bounds__(kThreads, kBlocks) wgrad_kernel(const __grid_constant__ Params<T> params) {
  const Params<T>& p = params;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const Strides xs = dense_strides<kLayout>(p.c, p.d.input, p.h.input, p.w.input);
  const Strides ws = dense_strides<kLayout>(p.c_per_group, p.d.filter, p.h.filter, p.w.filter);
  const Strides ys = dense_strides<kLayout>(p.k, p.d.output, p.h.output, p.w.output);
  if (index >= p.k * ws.outer) return;
  const Element e = element_at<kLayout>(index, p.written);
  const int k = static_cast<int>(e.outer);
  const T* x = p.x + (k / p.k_per_group * p.c_per_group + e.channel) * xs.channel;
  const T* dy = p.y + k * ys.channel;

  typename Accumulator<T>::Type total = 0;
  for (int64_t n = 0; n < p.n; n++, x += xs.outer, dy += ys.outer) {
    typename Accumulator<T>::Type sum = 0;
    for (int o = 0; o < p.d.output; o++) {
      const int d = o * p.d.stride + e.d * p.d.dilation - p.d.padding;
      if (d < 0 || d >= p.d.input) continue;
      for (int op = 0; op < p.h.output; op++) {
        const int h = op * p.h.stride + e.h * p.h.dilation - p.h.padding;
        if (h < 0 || h >= p.h.input) continue;
        for (int q = 0; q < p.w.output; q++) {
          const int iw = q * p.w.stride + e.w * p.w.dilation - p.w.padding;
          if (iw < 0 || iw >= p.w.input) continue;
          sum = fma(widen(dy[o * ys.d + op * ys.h + q * ys.w]), widen(x[d * xs.d + h * xs.h + iw * xs.w]), sum);
        }
      }
    }
    total += sum;
  }
  p.filter[index] = narrow<T>(total);
}

template <typename T, Layout kLayout>
__global__ void __launch_bounds__(kThreads, kBlocks) bias_grad_kernel(const __grid_constant__ Params<T> params) {
  const Params<T>& p = params;
  const int k = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (k >= p.k) return;
  const Strides ys = dense_strides<kLayout>(p.k, p.d.output, p.h.output, p.w.output);
  const int64_t positions = ys.outer / p.k;
  typename Accumulator<T>::Type total = 0;
  for (int64_t n = 0; n < p.n; n++) {
    // The spatial positions of one channel lie a constant stride apart in both layouts.
    const T* plane = p.y + n * ys.outer + k * ys.channel;
    typename Accumulator<T>::Type sum = 0;
    for (int64_t i = 0; i < positions; i++) sum += widen(plane[i * ys.w]);
    total += sum;
  }
  p.bias[k] = narrow<T>(total);
}

}  // namespace

LaunchShape wgrad_shape(const ConvProblem& problem) {
  return one_thread_each(problem.k * problem.c_per_group() * problem.filter_size());
}

template <typename T, Layout kLayout>
void wgrad(const ConvProblem& problem, const Tensors& tensors, cudaStream_t stream) {
  const Params<T> params = make_params<T>(problem, tensors, problem.c_per_group(), problem.filter);
  launch("naive_wgrad", wgrad_kernel<T, kLayout>, wgrad_shape(problem), stream, params);
  if (params.bias != nullptr) {
    launch("naive_bias_grad", bias_grad_kernel<T, kLayout>, one_thread_each(problem.k), stream, params);
  }
}

#define CONVBOUND_NAIVE(dtype, T, layout) \
  template void wgrad<T, layout>(const ConvProblem&, const Tensors&, cudaStream_t);
#include "csrc/naive/instances.inc"
#undef CONVBOUND_NAIVE

}  // namespace convbound::naive
