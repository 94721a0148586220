// depthwise 3x3 fprop, stride 1, padding 1, NCHW: y[n,c,p,q] = sum over r,s of x[n,c,p+r-1,q+s-1] * w[c,r,s].
//
// One thread, one output. Every x is read up to 9 times, by neighbours that share L1; y is written once. Built by nvcc
// and by the host compiler from this one source.
#include "tests/simt/depthwise3x3.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "csrc/common/launch.h"

namespace convbound::example {

namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kThreads) depthwise3x3_naive(const __grid_constant__ Depthwise3x3Params<T> params) {
  const int64_t plane_size = static_cast<int64_t>(params.height) * params.width;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= params.planes * plane_size) return;
  const int plane = static_cast<int>(index / plane_size);
  const int pixel = static_cast<int>(index % plane_size);
  const int p = pixel / params.width, q = pixel % params.width;
  const T* x = params.x + plane * plane_size;
  const T* w = params.w + plane % params.channels * 9;
  float sum = 0;
#pragma unroll
  for (int r = 0; r < 3; ++r) {
#pragma unroll
    for (int s = 0; s < 3; ++s) {
      const int h = p + r - 1, column = q + s - 1;
      if (h >= 0 && h < params.height && column >= 0 && column < params.width) {
        sum = fmaf(static_cast<float>(x[h * params.width + column]), static_cast<float>(w[r * 3 + s]), sum);
      }
    }
  }
  params.y[index] = static_cast<T>(sum);
}

}  // namespace

template <typename T>
void depthwise3x3(const Depthwise3x3Params<T>& params, cudaStream_t stream) {
  const int64_t outputs = static_cast<int64_t>(params.planes) * params.height * params.width;
  LaunchShape shape;
  shape.grid_x = (outputs + kThreads - 1) / kThreads;
  shape.block_x = kThreads;
  launch("depthwise3x3_naive", depthwise3x3_naive<T>, shape, stream, params);
}

template void depthwise3x3<float>(const Depthwise3x3Params<float>&, cudaStream_t);
template void depthwise3x3<__half>(const Depthwise3x3Params<__half>&, cudaStream_t);
template void depthwise3x3<__nv_bfloat16>(const Depthwise3x3Params<__nv_bfloat16>&, cudaStream_t);

}  // namespace convbound::example
