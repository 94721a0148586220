// Where the sums of the filter gradient's matrix products go.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "csrc/common/divisor.h"
#include "csrc/common/numeric.h"
#include "csrc/common/partial_sums.h"
#include "csrc/common/view.h"

namespace convbound::grouped {

// A vector of columns: one tap, neighbouring channels of x from `channel` on.
struct ColumnVector {
  int tap, channel;  // tap: beyond the filter where there is none
};

// Calls write(index in the filter, sum(i, j)) for a thread's columns column_of(i) and filters filter_of(j), as far as
// their channels meet. A column's `channel` is one channel of its vector.
template <int kColumns, int kFilters, typename ColumnOf, typename FilterOf, typename SumOf, typename Write>
__device__ __forceinline__ void write_results(const ConvView& view, const IndexDivisor& by_outputs,
                                              const ColumnOf& column_of, const FilterOf& filter_of, const SumOf& sum,
                                              const Write& write) {
  constexpr int kBeyond = 0x7fffffff;
  const int taps = view.taps(), of_filter = taps * view.inputs;
  int group_channel[kFilters];  // the first of the filter's group; beyond all where there is no filter
#pragma unroll
  for (int j = 0; j < kFilters; j++) {
    const int filter = filter_of(j), channel = divide(filter, by_outputs).quotient * view.inputs;
    group_channel[j] = filter < view.out_channels() ? channel : kBeyond;
  }
#pragma unroll
  for (int i = 0; i < kColumns; i++) {
    const ColumnVector column = column_of(i);
    if (column.tap >= taps) continue;
#pragma unroll
    for (int j = 0; j < kFilters; j++) {
      const int after = column.channel - group_channel[j];
      const int64_t at = static_cast<int64_t>(filter_of(j)) * of_filter + column.tap * view.inputs + after;
      if (within(after, view.inputs)) write(at, sum(i, j));
    }
  }
}

// Calls sums.write(block, write, write_bias), for write(index in the filter, sum) and write_bias(filter, sum).
template <typename T, typename Sums, typename Block>
__device__ __forceinline__ void write_sums(const Sums& sums, const Block& block, int split, const PartialSums<T>& to) {
  if (to.partial != nullptr) {
    float* const partial = to.partial + split * to.outputs;
    float* const bias = partial + to.outputs - to.channels;
    sums.write(block, [&](int64_t at, float sum) { partial[at] = sum; }, [&](int at, float sum) { bias[at] = sum; });
  } else {
    sums.write(
        block, [&](int64_t at, float sum) { to.dw[at] = narrow<T>(sum); },
        [&](int at, float sum) { to.dbias[at] = narrow<T>(sum); });
  }
}

}  // namespace convbound::grouped
