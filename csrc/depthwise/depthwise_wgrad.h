// depthwise_wgrad: dw[k,r,s] = sum over n,p,q of dy[n,k,p,q] * x[n,k/multiplier,h,w] and dbias[k] = sum over n,p,q of
// dy, with h = p * stride + r * dilation - padding (w alike), in fp32, rounded once.
//
// Floor: x and dy are read once; the outputs are small. 2 R S FLOPs a position against 4 bytes in fp16: at 3x3 bound by
// memory on every GPU, from 5x5 on by the issue of FMAs on an H100. A thread per filter element (the naive kernel)
// reads x and dy R S times.
//
// Here a block takes one channel (NCHW) or 32 (NHWC) and some of the images. A thread owns one or two columns of dy and
// walks down their rows with all R S sums in registers. At each row of x it loads the S (+ 1) values that its columns
// meet and multiplies them with the last R rows of dy, which it keeps in registers, so that each x costs one load per
// filter column and each dy one load. x and dy come through shared memory in stages of a few rows, by 16-byte cp.async
// in a ring that runs through all images of the block without a pause; the rows of dy outlive the stages, so there is
// no halo of rows. In NCHW whole rows are one run of memory, at any alignment, and there is no halo of columns either:
// x and dy are read exactly once. In NHWC a warp's lanes are 32 channels and its block takes up to 16 columns: x is
// read (16 + S - 1) / 16 times, (for 3x3: 1.06 of compulsory in all, for 7x7 1.19).
//
// At the end the block adds up its threads' sums in shared memory and writes them to an fp32 workspace; a second kernel
// adds up the blocks. Both in a fixed order: results are the same bit by bit in each run. Where one block has all of a
// channel, it writes the result itself.
//
// Larger filters are cut into tiles of taps. In NCHW the warps of a block take a tile each, over the same stages, so
// that x and dy are still read once up to 16 tiles of 8x8; in NHWC a block has one tile, and x and dy come from L2 once
// per tile, which 49 and more FMAs a position outweigh. Strides above 2 and dilations load x for each tap (kPlain); in
// NHWC most dilations go to csrc/dilated/dilated_wgrad_nhwc.cu. One long row (1-D, NCHW) is folded into rows of 128
// columns (kFolded); 1-D in NHWC is a walk down the sequence. A channel multiplier m reads x m times.
//
// Per multiprocessor in flight: blocks x 2 stages of about 6 KB (NCHW 3x3 on sm_80: 8 x 2 x 6 = 96 KB), NHWC 3 x 2
// x 11.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "csrc/common/kernel.h"

namespace convbound::depthwise {

// kFilter: 3, 5 or 7 for that square filter at stride 1 or 2 without dilation, 0 for all others.
constexpr const char* wgrad_tile(int filter) {
  return filter == 0 ? "tiles of 8x8, 5x5, 8x1, 1x8 or 3x3 taps a warp, columns a thread"
                     : "all taps in registers, 1 or 2 columns a thread";
}

template <typename T, Layout kLayout, int kFilter>
bool wgrad_supports(const ConvProblem&);
template <typename T, Layout kLayout, int kFilter>
LaunchShape wgrad_shape(const ConvProblem&);
template <typename T, Layout kLayout, int kFilter>
size_t wgrad_workspace(const ConvProblem&);
template <typename T, Layout kLayout, int kFilter>
void wgrad(const ConvProblem&, const Tensors&, cudaStream_t);

}  // namespace convbound::depthwise
