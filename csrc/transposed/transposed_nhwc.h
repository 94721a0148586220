// Strided depthwise dgrad for NHWC and NLC; the algorithm is told in transposed_dgrad_nhwc.cu.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "csrc/common/kernel.h"

namespace convbound::transposed {

constexpr const char* kNhwcTile = "256 threads, 128 blocks of stride x stride, 128 bytes of channels";

// kFilter 3 is 3x3 at stride 2, one channel for each; 0 is everything up to stride 16.
template <int kFilter>
bool supports_nhwc(const ConvProblem&);
template <typename T>
LaunchShape nhwc_shape(const ConvProblem&);
template <typename T, int kFilter>
void dgrad_nhwc(const ConvProblem&, const Tensors&, cudaStream_t);

}  // namespace convbound::transposed
