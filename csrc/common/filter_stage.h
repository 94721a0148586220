// The filters of neighbouring planes in shared memory, copied as runs of 16 bytes just as they lie in global memory.
// Planes follow each other by channel, and after the last channel of an image comes the first of the next.
#pragma once

#include "csrc/common/run_copy.h"

namespace convbound {

constexpr int64_t filter_stage_elements(int64_t planes, int64_t channels, int64_t of_channel, int element_bytes) {
  const int64_t count = (planes < channels ? planes : channels) * of_channel;
  return stage_elements(count, element_bytes) + 2 * (16 / element_bytes);  // two runs
}

template <typename T>
struct FilterStage {
  const T* run;      // of the channels from `first` on
  const T* wrapped;  // of the channels from 0 on
  int first, of_channel;

  __device__ __forceinline__ const T* operator()(int channel) const {
    return channel < first ? wrapped + channel * of_channel : run + (channel - first) * of_channel;
  }
};

// Starts the copy of the filters of `planes` planes, of which `channel` is the first's.
template <typename T>
__device__ __forceinline__ FilterStage<T> load_filters(T* stage, const T* filter, int channel, int planes, int channels,
                                                       int of_channel, int thread, int threads) {
  const bool all = planes >= channels;
  const int first = all ? 0 : channel, here = min(planes, channels - first);
  const T* const from = filter + static_cast<int64_t>(first) * of_channel;
  T* const run = stage + elements_after_boundary(from);
  load_run(run, from, here * of_channel, threads, thread);
  T* const second = stage + (elements_after_boundary(from) + here * of_channel + kVectorElements<T> - 1) /
                                kVectorElements<T> * kVectorElements<T>;
  T* const wrapped = second + elements_after_boundary(filter);
  if (!all && here < planes) load_run(wrapped, filter, (planes - here) * of_channel, threads, thread);
  return {run, wrapped, first, of_channel};
}

}  // namespace convbound
