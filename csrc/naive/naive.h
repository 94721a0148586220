// What the three naive kernels share: one thread, one output, in 1 to 3 dimensions, for any groups, stride, padding and
// dilation. They are version 0 for readers, the rival that every other kernel is checked against, and the path for what
// no fast kernel covers.
//
// Traffic: every thread loads its whole receptive field and its whole filter through the caches, so the SM-L2 traffic
// of a k x k depthwise convolution is up to k * k times compulsory where L1 does not catch the overlap. Consecutive
// threads compute consecutive elements of the output, so stores are coalesced and loads nearly so.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "csrc/common/kernel.h"

namespace convbound::naive {

constexpr const char* kTile = "256 threads, one output each";

bool supports(const ConvProblem&);

LaunchShape fprop_shape(const ConvProblem&);
LaunchShape dgrad_shape(const ConvProblem&);
LaunchShape wgrad_shape(const ConvProblem&);

template <typename T, Layout kLayout>
void fprop(const ConvProblem&, const Tensors&, cudaStream_t);
template <typename T, Layout kLayout>
void dgrad(const ConvProblem&, const Tensors&, cudaStream_t);
template <typename T, Layout kLayout>
void wgrad(const ConvProblem&, const Tensors&, cudaStream_t);

}  // namespace convbound::naive
