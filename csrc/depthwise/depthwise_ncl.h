// The depthwise NCL kernel as the registry sees it: fprop and dgrad of a filter that is one row, stride and dilation 1.
// See depthwise_ncl.cu.
#pragma once

#include "csrc/common/kernel.h"

namespace convbound::depthwise {

template <Pass kPass, typename T>
struct NclKernel {
  static constexpr const char* kTile = "128 threads, up to 512 vectors of 16 bytes in a row, rows together";
  static bool supports(const ConvProblem& problem);
  static LaunchShape shape(const ConvProblem& problem);
  static void launch(const ConvProblem& problem, const Tensors& tensors, cudaStream_t stream);
};

}  // namespace convbound::depthwise
