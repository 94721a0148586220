// naive_wgrad: dw[k,c,t,r,s] = sum over n,o,p,q of dy[n,k,o,p,q] * x[n,c,d,h,w], and dbias[k] = sum over n,o,p,q of dy.
// See naive.h.
//
// One thread has one filter element. So x and dy are read once per tap, and a depthwise 3x3 has only 9 threads per
// channel. fp32 sums over n,o,p,q grow long: each image is summed apart, which keeps the rounding error near that of
// one image.
#include "csrc/naive/naive.h"

namespace convbound::naive {

namespace {

// 40 registers. With kBlocks ptxas takes up to 56, for 5 % fewer instructions and a third fewer warps.
constexpr int kWgradBlocks = 6;

template <typename T, Layout kLayout>
__global__ void __launch_bounds__(kThreads, kWgradBlocks) wgrad_kernel(const __grid_constant__ NaiveParams<T> params) {
  const ConvView& v = params.view;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const DenseStrides xs = dense_strides<kLayout>(params.c, v.d.input, v.h.input, v.w.input);
  const DenseStrides ws = dense_strides<kLayout>(v.inputs, v.d.filter, v.h.filter, v.w.filter);
  const DenseStrides ys = dense_strides<kLayout>(params.k, v.d.output, v.h.output, v.w.output);
  if (index >= params.k * ws.outer) return;
  const Element e = element_at<kLayout>(index, params.written);
  const int k = static_cast<int>(e.outer);
  const T* x = params.x + (k / v.outputs * v.inputs + e.channel) * xs.channel;
  const T* dy = params.y + k * ys.channel;

  typename Accumulator<T>::Type total = 0;
  for (int64_t n = 0; n < v.images; n++, x += xs.outer, dy += ys.outer) {
    typename Accumulator<T>::Type sum = 0;
    for (int o = 0; o < v.d.output; o++) {
      const int d = o * v.d.stride + e.d * v.d.dilation - v.d.padding;
      if (d < 0 || d >= v.d.input) continue;
      for (int op = 0; op < v.h.output; op++) {
        const int h = op * v.h.stride + e.h * v.h.dilation - v.h.padding;
        if (h < 0 || h >= v.h.input) continue;
        for (int q = 0; q < v.w.output; q++) {
          const int iw = q * v.w.stride + e.w * v.w.dilation - v.w.padding;
          if (iw < 0 || iw >= v.w.input) continue;
          sum = fma(widen(dy[o * ys.d + op * ys.h + q * ys.w]), widen(x[d * xs.d + h * xs.h + iw * xs.w]), sum);
        }
      }
    }
    total += sum;
  }
  params.filter[index] = narrow<T>(total);
}

template <typename T, Layout kLayout>
__global__ void __launch_bounds__(kThreads, kBlocks) bias_grad_kernel(const __grid_constant__ NaiveParams<T> params) {
  const ConvView& v = params.view;
  const int k = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (k >= params.k) return;
  const DenseStrides ys = dense_strides<kLayout>(params.k, v.d.output, v.h.output, v.w.output);
  const int64_t positions = ys.outer / params.k;
  typename Accumulator<T>::Type total = 0;
  for (int64_t n = 0; n < v.images; n++) {
    // The spatial positions of one channel lie a constant stride apart in both layouts.
    const T* plane = params.y + n * ys.outer + k * ys.channel;
    typename Accumulator<T>::Type sum = 0;
    for (int64_t i = 0; i < positions; i++) sum += widen(plane[i * ys.w]);
    total += sum;
  }
  params.bias[k] = narrow<T>(total);
}

template <typename T, Layout kLayout>
LaunchPlan plan_wgrad(const KernelRow& row, const ConvProblem& p, const Device&) {
  if (std::string reason = too_large(p); !reason.empty()) return refuse(std::move(reason));
  const auto params = make_params<T>(p, p.c_per_group(), p.filter);
  LaunchPlan plan = plan_outputs(row, wgrad_kernel<T, kLayout>, params, p.k * p.c_per_group() * p.filter_size());
  plan.launch = [name = row.name, params, filter = plan.launch](const Tensors& tensors, cudaStream_t stream) {
    filter(tensors, stream);
    if (tensors.bias == nullptr) return;
    const std::string bias = std::string(name) + "_bias";
    launch(bias.c_str(), bias_grad_kernel<T, kLayout>, one_thread_each(params.k), stream, params.at(tensors));
  };
  return plan;
}

}  // namespace

KernelRows wgrad_rows() {
  return rows_of_pass("naive_wgrad", Pass::kWgrad, [&]<typename T, Layout kLayout> { return plan_wgrad<T, kLayout>; });
}

}  // namespace convbound::naive
