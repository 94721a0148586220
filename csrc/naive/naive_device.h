// The device code that the three naive kernels share: axes, strides, coordinates and rounding. See naive.h.
#pragma once

#include "csrc/common/divisor.h"
#include "csrc/common/numeric.h"
#include "csrc/naive/naive.h"

namespace convbound::naive {

// 256 threads, and 4 blocks of them a multiprocessor: with a target named, ptxas keeps 64 registers and spills nothing;
// left to itself it spills two of them to fit a fifth block or sixth.
constexpr int kThreads = 256;
constexpr int kBlocks = 4;

// One axis of a problem in 32 bits; offsets into tensors stay in 64. A 64-bit division is a function call on a GPU, and
// each one inside a loop would cost spills.
struct Axis {
  int input, filter, output, stride, padding, dilation;
};

// Element strides of a dense tensor [outer][channels][depth][height][width] in the layout.
struct Strides {
  int64_t outer, channel, d, h, w;
};

template <Layout kLayout>
__device__ __forceinline__ Strides dense_strides(int channels, int depth, int height, int width) {
  const int64_t plane = static_cast<int64_t>(height) * width, volume = plane * depth;
  if (kLayout == Layout::kChannelsLast) {
    return {volume * channels, 1, plane * channels, static_cast<int64_t>(width) * channels, channels};
  }
  return {volume * channels, volume, plane, width, 1};
}

// Coordinates of element `index` of such a tensor, counted in memory order.
struct Element {
  int64_t outer;
  int channel, d, h, w;
};

struct Shape {
  Divisor channels, depth, height, width;
};

template <Layout kLayout>
__device__ __forceinline__ Element element_at(int64_t index, const Shape& shape) {
  Element e;
  if (kLayout == Layout::kChannelsLast) e.channel = take(index, shape.channels);
  e.w = take(index, shape.width);
  e.h = take(index, shape.height);
  e.d = take(index, shape.depth);
  if (kLayout == Layout::kChannelsFirst) e.channel = take(index, shape.channels);
  e.outer = index;
  return e;
}

template <typename T>
struct Params {
  int64_t n;
  int c, k, c_per_group, k_per_group;
  Axis d, h, w;
  Shape written;  // of the tensor that the pass writes, one thread an element
  T* x;
  T* filter;
  T* y;
  T* bias;
};

template <typename T>
Params<T> make_params(const ConvProblem& p, const Tensors& t, int64_t channels, const int64_t (&size)[3]) {
  const auto axis = [&](int i) {
    return Axis{static_cast<int>(p.input[i]),  static_cast<int>(p.filter[i]),  static_cast<int>(p.output[i]),
                static_cast<int>(p.stride[i]), static_cast<int>(p.padding[i]), static_cast<int>(p.dilation[i])};
  };
  return {p.n,
          static_cast<int>(p.c),
          static_cast<int>(p.k),
          static_cast<int>(p.c_per_group()),
          static_cast<int>(p.k_per_group()),
          axis(0),
          axis(1),
          axis(2),
          {Divisor(channels), Divisor(size[0]), Divisor(size[1]), Divisor(size[2])},
          static_cast<T*>(t.x),
          static_cast<T*>(t.w),
          static_cast<T*>(t.y),
          static_cast<T*>(t.bias)};
}

inline LaunchShape one_thread_each(int64_t outputs) {
  LaunchShape shape;
  shape.grid_x = (outputs + kThreads - 1) / kThreads;
  shape.block_x = kThreads;
  return shape;
}

}  // namespace convbound::naive
