// Depthwise convolutions with a dilation, at stride 1: what the kernels of all passes and layouts share.
//
// Fprop and dgrad are one correlation: out[y,x] = bias + sum over i,r,s of in_i[y + r * dilation_h - padding_h, x + s *
// dilation_w - padding_w] * filter_i[r,s]. For dgrad in is dy, the filter is turned round and the padding is (R - 1) *
// dilation - padding. With a channel multiplier M, fprop has M planes of output for one of input, dgrad the reverse.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "csrc/common/kernel.h"

namespace convbound::dilated {

struct Axis {
  int input, output, filter, padding, dilation;  // as the correlation has them: padding may be negative
};

struct Correlation {
  Axis h, w;
  int64_t groups;                  // batch x channels of x
  int channels;                    // of x
  int inputs, outputs;             // planes of a group
  bool turned;                     // filter
  int taps, tap_row, first_tap;    // of a channel's filter in memory, of a row of it; and the first that is used
  const void *in, *filter, *bias;  // bias may be null
  void* out;
};

Correlation make_correlation(Pass pass, const ConvProblem&, const Tensors&);

// Depthwise, 1-D or 2-D, stride 1, a dilation above 1, sizes within 32 bits.
bool dilated_depthwise(const ConvProblem&);

// NCHW. 3x3 has an instance of its own.
constexpr const char* kNchwTile = "256 threads, whole planes, or rows of one class modulo the dilation";
bool supports_nchw(const ConvProblem&);
template <Pass kPass, typename T>
LaunchShape nchw_shape(const ConvProblem&);
template <Pass kPass, typename T>
void nchw(const ConvProblem&, const Tensors&, cudaStream_t);

// NHWC. 3x3 has an instance of its own.
constexpr const char* kNhwcTile = "320 threads, 32 to 128 bytes of channels, whole classes modulo the dilation";
bool supports_nhwc(const ConvProblem&);
template <Pass kPass, typename T>
LaunchShape nhwc_shape(const ConvProblem&);
template <Pass kPass, typename T>
void nhwc(const ConvProblem&, const Tensors&, cudaStream_t);

// NHWC: the gradient of the filter and the bias, adding up blocks through a workspace.
constexpr const char* kWgradNhwcTile =
    "8 warps, 32 bytes of channels, whole classes modulo the dilation, 3x3 taps a thread";
template <typename T>
bool supports_wgrad_nhwc(const ConvProblem&);
template <typename T>
LaunchShape wgrad_nhwc_shape(const ConvProblem&);
template <typename T>
size_t wgrad_nhwc_workspace(const ConvProblem&);
template <typename T>
void wgrad_nhwc(const ConvProblem&, const Tensors&, cudaStream_t);

}  // namespace convbound::dilated
