// What the three naive kernels share: one thread, one output, in 1 to 3 dimensions, for any groups, stride, padding and
// dilation. They are version 0 for readers, the oracle that every other kernel is checked against, and the path for
// what no fast kernel serves.
//
// Traffic: every thread loads its whole receptive field and its whole filter through the caches. So the SM-L2 traffic
// of a k x k depthwise convolution is up to k * k times compulsory where L1 does not catch the overlap. Consecutive
// threads compute consecutive elements of the output, so stores are coalesced and loads nearly so.
#pragma once

#include "csrc/common/divisor.h"
#include "csrc/common/integers.h"
#include "csrc/common/kernel.h"
#include "csrc/common/numeric.h"
#include "csrc/common/view.h"

namespace convbound::naive {

// 256 threads, and 4 blocks of them a multiprocessor: with a target named, ptxas keeps 64 registers and spills nothing;
// left to itself it spills two of them to fit a fifth block or sixth.
constexpr int kThreads = 256;
constexpr int kBlocks = 4;

// Element strides of a dense tensor [outer][channels][depth][height][width] in the layout. Offsets into tensors have 64
// bits, sizes 32: a 64-bit division is a function call on a GPU, and each one inside a loop would cost spills.
struct DenseStrides {
  int64_t outer, channel, d, h, w;
};

template <Layout kLayout>
__device__ __forceinline__ DenseStrides dense_strides(int channels, int depth, int height, int width) {
  const int64_t plane = static_cast<int64_t>(height) * width, volume = plane * depth;
  if (kLayout == Layout::kChannelsLast) {
    return {volume * channels, 1, plane * channels, static_cast<int64_t>(width) * channels, channels};
  }
  return {volume * channels, volume, plane, width, 1};
}

// The sizes of such a tensor, to divide by.
struct DenseSizes {
  Divisor channels, depth, height, width;
};

// Coordinates of element `index` of such a tensor, counted in memory order.
struct Element {
  int64_t outer;
  int channel, d, h, w;
};

template <Layout kLayout>
__device__ __forceinline__ Element element_at(int64_t index, const DenseSizes& sizes) {
  Element e;
  if (kLayout == Layout::kChannelsLast) e.channel = take(index, sizes.channels);
  e.w = take(index, sizes.width);
  e.h = take(index, sizes.height);
  e.d = take(index, sizes.depth);
  if (kLayout == Layout::kChannelsFirst) e.channel = take(index, sizes.channels);
  e.outer = index;
  return e;
}

template <typename T>
struct NaiveParams {
  ConvView view;
  int c, k;            // channels of x and of y
  DenseSizes written;  // of the tensor that the pass writes, one thread an element
  T* x = nullptr;
  T* filter = nullptr;
  T* y = nullptr;
  T* bias = nullptr;

  NaiveParams at(const Tensors& t) const {
    NaiveParams params = *this;
    params.x = static_cast<T*>(t.x);
    params.filter = static_cast<T*>(t.w);
    params.y = static_cast<T*>(t.y);
    params.bias = static_cast<T*>(t.bias);
    return params;
  }
};

// For a pass that writes a tensor of so many channels, of this size.
template <typename T>
NaiveParams<T> make_params(const ConvProblem& p, int64_t channels, const int64_t (&size)[3]) {
  return {view_of(p),
          static_cast<int>(p.c),
          static_cast<int>(p.k),
          {Divisor(channels), Divisor(size[0]), Divisor(size[1]), Divisor(size[2])}};
}

inline std::string too_large(const ConvProblem& p) {
  return size_beyond(p, (1 << 30) - 1);  // leaves room for a sum of two coordinates
}

inline LaunchShape one_thread_each(int64_t outputs) {
  return {.grid_x = divide_up(outputs, kThreads), .block_x = kThreads};
}

template <typename T>
LaunchPlan plan_outputs(const KernelRow& row, void (*kernel)(NaiveParams<T>), const NaiveParams<T>& params,
                        int64_t outputs) {
  return plan_launch_of(row, kernel, one_thread_each(outputs), [params](const Tensors& t) { return params.at(t); });
}

// The rows of a pass: plan_of.template operator()<T, kLayout>() is the plan of one.
template <typename PlanOf>
KernelRows rows_of_pass(const char* name, Pass pass, const PlanOf& plan_of) {
  return rows_of_types<__half, __nv_bfloat16, float, double>([&]<typename T> {
    KernelRow first{.name = name,
                    .family = Family::kAny,
                    .pass = pass,
                    .dtype = kDTypeOf<T>,
                    .layout = Layout::kChannelsFirst,
                    .naive = true,
                    .tile = std::to_string(kThreads) + " threads, one output each",
                    .plan = plan_of.template operator()<T, Layout::kChannelsFirst>()};
    KernelRow last = first;
    last.layout = Layout::kChannelsLast;
    last.plan = plan_of.template operator()<T, Layout::kChannelsLast>();
    return KernelRows{first, last};
  });
}

}  // namespace convbound::naive
