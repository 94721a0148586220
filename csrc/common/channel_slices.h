// How the dilated and the strided NHWC kernels share channels out. A block takes a slice of neighbouring channels. A
// thread takes a vector of them: 16 bytes, or one channel where sizes or addresses forbid vectors. The other threads
// of a block are spread over positions. Shared memory holds the filters and biases of the slice as floats, in the order
// in which threads read them.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "csrc/common/integers.h"
#include "csrc/common/kernel.h"
#include "csrc/common/run_copy.h"
#include "csrc/common/vector.h"

namespace convbound {

struct ChannelSlices {
  int channels;  // of the tensor that is written
  int lanes;     // vectors in a slice
  int slices;
  int taps;  // of one channel: multiplier x R x S; one more slot holds the bias
};

// Slices of at most `most_bytes` of one position, all of nearly one size.
inline ChannelSlices make_slices(int64_t channels, int64_t taps, int vector, int element_bytes, int most_bytes) {
  const int64_t vectors = divide_up(channels, vector);
  const int64_t slices = divide_up(vectors, most_bytes / (vector * element_bytes));
  return {static_cast<int>(channels), static_cast<int>(divide_up(vectors, slices)), static_cast<int>(slices),
          static_cast<int>(taps)};
}

// A launch with so many channels to a thread.
template <typename Params>
struct SlicedLaunch {
  void (*kernel)(Params);
  Params params;
  LaunchShape shape;
};

// The plan of a kernel with one channel to a thread, and with 16 bytes of them for tensors at 16-byte boundaries.
template <typename Params>
LaunchPlan plan_sliced(const KernelRow& row, const SlicedLaunch<Params>& single, const SlicedLaunch<Params>& wide) {
  LaunchPlan plan;
  plan.refusal = shared_beyond(static_cast<int64_t>(std::max(single.shape.shared_bytes, wide.shape.shared_bytes)));
  plan.shape = wide.shape;
  plan.launch = [name = row.name, pass = row.pass, single, wide](const Tensors& t, cudaStream_t stream) {
    const SlicedLaunch<Params>& chosen = at_boundary(t.x) && at_boundary(t.y) ? wide : single;
    launch(name, chosen.kernel, chosen.shape, stream, with_tensors(chosen.params, pass, t));
  };
  return plan;
}

inline int64_t filter_bytes(const ChannelSlices& s, int vector) { return (int64_t{s.taps} + 1) * s.lanes * vector * 4; }

// Where the four (or one) floats of one slot and part of a vector begin; parts of neighbouring lanes are neighbours.
template <int kElements>
__device__ __forceinline__ int filter_index(const ChannelSlices& s, int slot, int part, int lane) {
  constexpr int kPart = kElements < 4 ? kElements : 4;
  return ((slot * (kElements / kPart) + part) * s.lanes + lane) * kPart;
}

// The filter's memory is [channels][taps] in this layout too, so the slice is one run of it; `from_end` turns the R x S
// taps of each channel round.
template <typename T, int kElements, int kThreads>
__device__ __forceinline__ void load_slice_filters(const ChannelSlices& s, int first_channel, const T* filter,
                                                   const T* bias, float* shared, int thread, int turned) {
  constexpr int kPart = kElements < 4 ? kElements : 4, kLoaded = kVectorElements<T>;
  const int channels = min(s.lanes * kElements, s.channels - first_channel), count = channels * s.taps;
  const T* const run = filter + static_cast<int64_t>(first_channel) * s.taps;
  const auto put = [&](int index, float value) {
    const int channel = index / s.taps, tap = index - channel * s.taps;
    const int slot = turned > 0 ? tap / turned * turned + (turned - 1 - tap % turned) : tap;
    const int lane = channel / kElements, element = channel % kElements;
    shared[filter_index<kElements>(s, slot, element / kPart, lane) + element % kPart] = value;
  };
  const RunParts<T> parts(run, count, false);
  for_each_of_thread<0>(parts.vectors, kThreads, thread, [&](int i) {
    const int at = parts.head + i * kLoaded;
    float values[kLoaded];
    load_widened(run + at, values);
#pragma unroll
    for (int e = 0; e < kLoaded; e++) put(at + e, values[e]);
  });
  if (thread < parts.scalars) put(parts.scalar(thread), widen(run[parts.scalar(thread)]));
  for (int channel = thread; channel < channels; channel += kThreads) {
    const int lane = channel / kElements, element = channel % kElements;
    const float value = bias != nullptr ? widen(bias[first_channel + channel]) : 0.0f;
    shared[filter_index<kElements>(s, s.taps, element / kPart, lane) + element % kPart] = value;
  }
}

// The slot of the thread's channels.
template <int kElements>
__device__ __forceinline__ void read_slot(const ChannelSlices& s, const float* shared, int slot, int lane,
                                          float (&to)[kElements]) {
  if constexpr (kElements == 1) {
    to[0] = shared[filter_index<1>(s, slot, 0, lane)];
  } else {
    constexpr int kParts = kElements / 4;
#pragma unroll
    for (int part = 0; part < kParts; part++) {
      const float4 four = *reinterpret_cast<const float4*>(shared + filter_index<kElements>(s, slot, part, lane));
      to[4 * part] = four.x;
      to[4 * part + 1] = four.y;
      to[4 * part + 2] = four.z;
      to[4 * part + 3] = four.w;
    }
  }
}

template <int kElements>
__device__ __forceinline__ void add_product(const float (&a)[kElements], const float (&b)[kElements],
                                            float (&sum)[kElements]) {
#pragma unroll
  for (int i = 0; i < kElements; i++) sum[i] = fmaf(a[i], b[i], sum[i]);
}

}  // namespace convbound
