// naive_dgrad: dx[n,c,d,h,w] = bias[c] + sum over k/g,t,r,s of dy[n,k,o,p,q] * w[k,c,t,r,s]. See naive.h.
//
// A gather: of the taps, those count for which h + padding - r * dilation is a multiple of the stride and the quotient
// is an output row. With a bias this is the forward of a transposed convolution.
#include "csrc/naive/naive_device.h"

namespace convbound::naive {

namespace {

// The output position that a tap connects with position `at` of the input (padding included), or -1.
__device__ __forceinline__ int output_at(const Axis& axis, int at, int tap) {
  const int position = at + axis.padding - tap * axis.dilation;
  if (position < 0 || position % axis.stride != 0 || position / axis.stride >= axis.output) return -1;
  return position / axis.stride;
}

template <typename T, Layout kLayout>
__global__ void __launch_bounds__(kThreads, kBlocks) dgrad_kernel(const __grid_constant__ Params<T> params) {
  const Params<T>& p = params;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const Strides xs = dense_strides<kLayout>(p.c, p.d.input, p.h.input, p.w.input);
  const Strides ws = dense_strides<kLayout>(p.c_per_group, p.d.filter, p.h.filter, p.w.filter);
  const Strides ys = dense_strides<kLayout>(p.k, p.d.output, p.h.output, p.w.output);
  if (index >= p.n * xs.outer) return;
  const Element e = element_at<kLayout>(index, p.written);
  const int group = e.channel / p.c_per_group;
  const int first_k = group * p.k_per_group;
  const T* dy = p.y + e.outer * ys.outer + first_k * ys.channel;
  const T* w = p.filter + first_k * ws.outer + (e.channel - group * p.c_per_group) * ws.channel;

  typename Accumulator<T>::Type sum = 0;
  for (int t = 0; t < p.d.filter; t++) {
    const int o = output_at(p.d, e.d, t);
    if (o < 0) continue;
    for (int r = 0; r < p.h.filter; r++) {
      const int op = output_at(p.h, e.h, r);
      if (op < 0) continue;
      for (int s = 0; s < p.w.filter; s++) {
        const int q = output_at(p.w, e.w, s);
        if (q < 0) continue;
        const T* yk = dy + o * ys.d + op * ys.h + q * ys.w;
        const T* wk = w + t * ws.d + r * ws.h + s * ws.w;
#pragma unroll 1
        for (int k = 0; k < p.k_per_group; k++) {
          sum = fma(widen(wk[k * ws.outer]), widen(yk[k * ys.channel]), sum);
        }
      }
    }
  }
  if (p.bias != nullptr) sum += widen(p.bias[e.channel]);
  p.x[index] = narrow<T>(sum);
}

}  // namespace

LaunchShape dgrad_shape(const ConvProblem& problem) {
  return one_thread_each(problem.n * problem.c * problem.input_size());
}

template <typename T, Layout kLayout>
void dgrad(const ConvProblem& problem, const Tensors& tensors, cudaStream_t stream) {
  launch("naive_dgrad", dgrad_kernel<T, kLayout>, dgrad_shape(problem), stream,
         make_params<T>(problem, tensors, problem.c, problem.input));
}

#define CONVBOUND_NAIVE(dtype, T, layout) \
  template void dgrad<T, layout>(const ConvProblem&, const Tensors&, cudaStream_t);
#include "csrc/naive/instances.inc"
#undef CONVBOUND_NAIVE

}  // namespace convbound::naive
