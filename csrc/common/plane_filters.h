// The filters and biases of neighbouring NCHW planes in shared memory. Planes follow each other by channel, and after
// the last channel of an image comes the first of the next. So here the first filter follows the last one.
//
// The other kernels arrange filters otherwise, and load them otherwise:
//   channel_slices.h          in the order in which vectors of channels are read
//   depthwise_nhwc_general    some rows of each channel's filter at a time
//   depthwise_nchw_tiled      rows padded to whole vectors of taps
//   depthwise_ncl             with the bias behind the taps of each row
#pragma once

#include "csrc/common/numeric.h"
#include "csrc/common/run_copy.h"

namespace convbound {

// Starts to copy the filters of `planes` planes, of which `channel` is the first's; returns where they will lie, in a
// stage of stage_elements(). Few are copied one by one, for less arithmetic, many as runs.
template <typename T>
__device__ __forceinline__ T* load_plane_filters(T* stage, const T* filter, int channel, int planes, int channels,
                                                 int taps, int threads) {
  const int few = taps < 16 ? 256 : 64;
  const T* const from = filter + static_cast<int64_t>(channel) * taps;
  const int count = planes * taps, until_last = min(planes, channels - channel) * taps;
  T* const shared = stage + elements_after_boundary(from);
  const bool wraps = until_last < count;
  const bool one_address = elements_after_boundary(from + until_last) == elements_after_boundary(filter);
  if (count > few && (!wraps || (planes < channels && one_address))) {
    load_run(shared, from, until_last, threads);
    if (wraps) load_run(shared + until_last, filter, count - until_last, threads);
  } else {
    const int all = min(planes, channels) * taps;  // more than one image if the planes are
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < count; i += threads) {
      shared[i] = i < until_last ? from[i] : filter[(i - until_last) % all];
    }
  }
  return shared;
}

// The biases of `count` planes from number `first` on, of which an image has `all`; zeros where there is no bias.
template <typename T>
__device__ __forceinline__ void load_plane_biases(float* shared, const T* bias, int first, int count, int all,
                                                  int threads) {
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < count; i += threads) {
    shared[i] = bias != nullptr ? widen(bias[(first + i) % all]) : 0.0f;
  }
}

}  // namespace convbound
