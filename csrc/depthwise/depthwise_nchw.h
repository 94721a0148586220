// The depthwise kernels on planes in NCHW as rows of the registry: depthwise_nchw_instances.inc lists them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "csrc/depthwise/depthwise_nchw_problem.h"

namespace convbound::depthwise {

constexpr const char* kBandsTile = "whole planes or a band of one; 14 rows (7x7: 7) of 1, 2 or 7 columns a thread";

template <Pass kPass, typename T, int kFilter, int kStride>
bool nchw_bands_supports(const ConvProblem&);
template <Pass kPass, typename T, int kFilter, int kStride>
LaunchShape nchw_bands_shape(const ConvProblem&);
template <Pass kPass, typename T, int kFilter, int kStride>
void nchw_bands(const ConvProblem&, const Tensors&, cudaStream_t);

}  // namespace convbound::depthwise
