// The depthwise kernels on planes in NCHW as rows of the registry: depthwise_nchw_instances.inc lists them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "csrc/depthwise/depthwise_nchw_problem.h"

namespace convbound::depthwise {

constexpr const char* kBandsTile =
    "whole planes or a band of one; 14 rows of 1 or 2 columns a thread, more on known planes";

template <Pass kPass, typename T, int kFilter>
bool nchw_bands_supports(const ConvProblem&);
template <Pass kPass, typename T, int kFilter>
LaunchShape nchw_bands_shape(const ConvProblem&);
template <Pass kPass, typename T, int kFilter>
void nchw_bands(const ConvProblem&, const Tensors&, cudaStream_t);

constexpr const char* kTiledTile = "128 threads: 4 rows of 16 bytes each at stride 1, of one column at others";

template <Pass kPass, typename T>
bool nchw_tiled_supports(const ConvProblem&);
template <Pass kPass, typename T>
LaunchShape nchw_tiled_shape(const ConvProblem&);
template <Pass kPass, typename T>
void nchw_tiled(const ConvProblem&, const Tensors&, cudaStream_t);

constexpr const char* kToeplitzTile = "4 warps of 16 rows x 56 columns or 32 x 32, for one or several images";

template <Pass kPass>
bool nchw_toeplitz_supports(const ConvProblem&);
template <Pass kPass>
LaunchShape nchw_toeplitz_shape(const ConvProblem&);
template <Pass kPass, typename T>
void nchw_toeplitz(const ConvProblem&, const Tensors&, cudaStream_t);

}  // namespace convbound::depthwise
