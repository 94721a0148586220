// The depthwise NHWC kernels as the registry sees them: fprop for stride 1 and 2, dgrad for stride 1. See
// depthwise_nhwc.cu (3x3, 5x5, 7x7) and depthwise_nhwc_general.cu (any filter, stride, dilation and multiplier).
#pragma once

#include "csrc/common/kernel.h"

namespace convbound::depthwise {

template <Pass kPass, typename T, int kFilter, int kStride>
struct NhwcKernel {
  static constexpr const char* kTile = "128 threads, patches of 2x7 outputs x 2 channels";
  static bool supports(const ConvProblem& problem);
  static LaunchShape shape(const ConvProblem& problem);
  static void launch(const ConvProblem& problem, const Tensors& tensors, cudaStream_t stream);
};

template <Pass kPass, typename T>
struct NhwcGeneralKernel {
  static constexpr const char* kTile = "128 threads, patches of 1x7 outputs x 2 channels";
  static bool supports(const ConvProblem& problem);
  static LaunchShape shape(const ConvProblem& problem);
  static void launch(const ConvProblem& problem, const Tensors& tensors, cudaStream_t stream);
};

}  // namespace convbound::depthwise
