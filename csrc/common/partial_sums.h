// How wgrad kernels add up over blocks without atomics. Each block writes its sums to a workspace in fp32. A second
// kernel adds them in the order of the blocks, so that every run gives the same bits. Where one block has all of a
// channel, it writes the result itself.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "csrc/common/integers.h"
#include "csrc/common/kernel.h"
#include "csrc/common/numeric.h"

namespace convbound {

template <typename T>
struct PartialSums {
  T* dw;
  T* dbias;         // or null
  float* partial;   // [splits][outputs], null where there is one split
  int64_t outputs;  // filter and bias
  int channels;
  int splits;

  // Output number `at`: the filter, then the bias.
  __device__ __forceinline__ void write_output(int64_t at, float sum) const {
    const int64_t filter = outputs - channels;
    if (at < filter) {
      dw[at] = narrow<T>(sum);
    } else if (dbias != nullptr) {
      dbias[at - filter] = narrow<T>(sum);
    }
  }

  __device__ __forceinline__ void write(int split, int64_t at, float sum) const {
    if (partial != nullptr) {
      partial[split * outputs + at] = sum;
    } else {
      write_output(at, sum);
    }
  }
};

constexpr int64_t kMultiprocessors = 132;

// Blocks that share a channel: enough to fill the GPU several times, as long as writing and reading their sums is 1/50
// of what they read, and the workspace 1/8 of the input or 4 MB. `parallel`: blocks that there are anyway; `most`:
// units of work to share out; `many`: blocks beyond which there is nothing to gain.
inline int64_t split_count(int64_t parallel, int64_t most, int64_t many, int64_t outputs, int64_t read_bytes,
                           int64_t input_bytes) {
  const int64_t cheap = std::max<int64_t>(2 * kMultiprocessors / parallel, read_bytes / (50 * 8 * outputs));
  const int64_t workspace = std::max<int64_t>(input_bytes / 8, 4 << 20);
  const int64_t splits = std::clamp<int64_t>(std::min(cheap, many / parallel), 1, most);
  return std::clamp<int64_t>(workspace / (outputs * 4), 1, splits);
}

constexpr int kAddThreads = 256;

// One thread per output.
template <typename T>
__global__ void __launch_bounds__(kAddThreads, 4) add_partial_sums_kernel(const __grid_constant__ PartialSums<T> sums) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kAddThreads + threadIdx.x;
  if (at >= sums.outputs) return;
  float sum = 0;
#pragma unroll 4
  for (int split = 0; split < sums.splits; split++) sum += sums.partial[split * sums.outputs + at];
  sums.write_output(at, sum);
}

// The plan of a kernel with the parameters params_of(tensors, sums), and of the addition where there are splits.
// `wgrad` says how many there are, of so many results and channels; it keeps its stages within the shared memory.
template <typename T, typename Params, typename Plan, typename ParamsOf>
LaunchPlan plan_with_sums(const KernelRow& row, void (*kernel)(Params), const LaunchShape& shape, const Plan& wgrad,
                          const ParamsOf& params_of) {
  LaunchPlan plan;
  plan.shape = shape;
  plan.workspace_bytes = wgrad.splits > 1 ? static_cast<size_t>(wgrad.splits * wgrad.results) * sizeof(float) : 0;
  plan.launch = [=, name = row.name](const Tensors& t, cudaStream_t stream) {
    float* const partial = wgrad.splits > 1 ? static_cast<float*>(t.workspace) : nullptr;
    const PartialSums<T> sums{static_cast<T*>(t.w), static_cast<T*>(t.bias), partial,
                              wgrad.results,        wgrad.channels,          wgrad.splits};
    launch(name, kernel, shape, stream, params_of(t, sums));
    if (sums.splits == 1) return;
    const LaunchShape threads{.grid_x = divide_up(sums.outputs, kAddThreads), .block_x = kAddThreads};
    launch((std::string(name) + "_add").c_str(), add_partial_sums_kernel<T>, threads, stream, sums);
  };
  return plan;
}

}  // namespace convbound
