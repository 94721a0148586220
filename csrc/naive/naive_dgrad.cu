// naive_dgrad: dx[n,c,d,h,w] = bias[c] + sum over k/g,t,r,s of dy[n,k,o,p,q] * w[k,c,t,r,s]. See naive.h.
//
// A gather: a tap counts where h + padding - r * dilation is a multiple of the stride and the quotient is an output
// row. With a bias this is the forward of a transposed convolution.
#include "csrc/naive/naive.h"

namespace convbound::naive {

namespace {

// The output position that a tap connects with position `at` of the input (padding included), or -1.
__device__ __forceinline__ int output_at(const AxisView& axis, int at, int tap) {
  const int position = at + axis.padding - tap * axis.dilation;
  if (position < 0 || position % axis.stride != 0 || position / axis.stride >= axis.output) return -1;
  return position / axis.stride;
}

template <typename T, Layout kLayout>
__global__ void __launch_bounds__(kThreads, kBlocks) dgrad_kernel(const __grid_constant__ NaiveParams<T> params) {
  const ConvView& v = params.view;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const DenseStrides xs = dense_strides<kLayout>(params.c, v.d.input, v.h.input, v.w.input);
  const DenseStrides ws = dense_strides<kLayout>(v.inputs, v.d.filter, v.h.filter, v.w.filter);
  const DenseStrides ys = dense_strides<kLayout>(params.k, v.d.output, v.h.output, v.w.output);
  if (index >= v.images * xs.outer) return;
  const Element e = element_at<kLayout>(index, params.written);
  const int group = e.channel / v.inputs;
  const int first_k = group * v.outputs;
  const T* dy = params.y + e.outer * ys.outer + first_k * ys.channel;
  const T* w = params.filter + first_k * ws.outer + (e.channel - group * v.inputs) * ws.channel;

  typename Accumulator<T>::Type sum = 0;
  for (int t = 0; t < v.d.filter; t++) {
    const int o = output_at(v.d, e.d, t);
    if (o < 0) continue;
    for (int r = 0; r < v.h.filter; r++) {
      const int op = output_at(v.h, e.h, r);
      if (op < 0) continue;
      for (int s = 0; s < v.w.filter; s++) {
        const int q = output_at(v.w, e.w, s);
        if (q < 0) continue;
        const T* yk = dy + o * ys.d + op * ys.h + q * ys.w;
        const T* wk = w + t * ws.d + r * ws.h + s * ws.w;
#pragma unroll 1
        for (int k = 0; k < v.outputs; k++) {
          sum = fma(widen(wk[k * ws.outer]), widen(yk[k * ys.channel]), sum);
        }
      }
    }
  }
  if (params.bias != nullptr) sum += widen(params.bias[e.channel]);
  params.x[index] = narrow<T>(sum);
}

template <typename T, Layout kLayout>
LaunchPlan plan_dgrad(const KernelRow& row, const ConvProblem& p, const Device&) {
  if (std::string reason = too_large(p); !reason.empty()) return refuse(std::move(reason));
  return plan_outputs(row, dgrad_kernel<T, kLayout>, make_params<T>(p, p.c, p.input), p.n * p.c * p.input_size());
}

}  // namespace

KernelRows dgrad_rows() {
  return rows_of_pass("naive_dgrad", Pass::kDgrad, [&]<typename T, Layout kLayout> { return plan_dgrad<T, kLayout>; });
}

}  // namespace convbound::naive
