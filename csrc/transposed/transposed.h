// Strided depthwise dgrad: the forward of a transposed convolution and the input gradient of a strided one. Algorithms
// are told in the kernels' files, blocks and tiles in transposed_nchw.h.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "csrc/common/kernel.h"

namespace convbound::transposed {

// NCHW, stride 2 in both axes, a square filter of size kFilter, one channel for each.
constexpr const char* kStride2Tile = "128 threads, about 20 KB of whole planes or rows";
bool supports_stride2(const ConvProblem&);
template <typename T>
LaunchShape nchw_shape(const ConvProblem&);
template <typename T, int kFilter>
void dgrad_nchw_stride2(const ConvProblem&, const Tensors&, cudaStream_t);

// NCHW, any stride up to 16, filter, dilation and multiplier.
constexpr const char* kAnyTile = "128 threads, about 20 KB of whole planes, rows or a part of one";
bool supports_nchw_any(const ConvProblem&);
template <typename T>
void dgrad_nchw_any(const ConvProblem&, const Tensors&, cudaStream_t);

// NHWC. kFilter 3 is 3x3 at stride 2, one channel for each; 0 is everything up to stride 16.
constexpr const char* kNhwcTile = "256 threads, 128 blocks of stride x stride, 128 bytes of channels";
template <int kFilter>
bool supports_nhwc(const ConvProblem&);
template <typename T>
LaunchShape nhwc_shape(const ConvProblem&);
template <typename T, int kFilter>
void dgrad_nhwc(const ConvProblem&, const Tensors&, cudaStream_t);

}  // namespace convbound::transposed
