// Runs of consecutive elements between global and shared memory, 16 bytes at a time whatever their length and address.
//
// A run is staged as far from a 16-byte boundary as it lies in global memory, so that both sides of the copy are
// aligned for all but the elements before the first boundary and after the last. Planes of 7 or 33 rows, of which no
// row is aligned, are copied like any other memory: (N, C) planes are contiguous.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "csrc/common/ptx.h"

namespace convbound {

template <typename T>
constexpr int kVectorElements = 16 / static_cast<int>(sizeof(T));

// Elements that a stage must hold for a run of `count` at any address: a multiple of 16 bytes.
constexpr int64_t stage_elements(int64_t count, int element_bytes) {
  const int64_t vector = 16 / element_bytes;
  return (count + 2 * (vector - 1)) / vector * vector;
}

// Where in its stage a run begins.
template <typename T>
__device__ __forceinline__ int stage_offset(const T* global) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(global) % 16 / sizeof(T));
}

// Calls vector(offset) for every whole 16 bytes of the run, element(index) for every other element.
template <typename T, typename Vector, typename Element>
__device__ __forceinline__ void for_each_in_run(const T* global, int count, int thread, int threads,
                                                const Vector& vector, const Element& element) {
  constexpr int kElements = kVectorElements<T>;
  const int begin = stage_offset(global), end = begin + count;
  const int first = (begin + kElements - 1) / kElements, last = end / kElements;
  for (int i = first + thread; i < last; i += threads) vector(i * kElements);
  const int head = first * kElements - begin, tail = max(first, last) * kElements - begin;
  if (thread < head && thread < count) element(thread);
  if (thread < kElements && tail + thread < count) element(tail + thread);
}

// Starts the copy of a run into its stage. The elements are there after cp_async_wait_all and a barrier.
template <typename T>
__device__ __forceinline__ void load_run(T* stage, const T* global, int count, int thread, int threads) {
  const int begin = stage_offset(global);
  for_each_in_run(
      global, count, thread, threads, [&](int i) { ptx::cp_async<16>(stage + i, global + (i - begin)); },
      [&](int i) { stage[begin + i] = global[i]; });
}

template <typename T>
__device__ __forceinline__ void store_run(T* global, const T* stage, int count, int thread, int threads) {
  const int begin = stage_offset(global);
  for_each_in_run(
      global, count, thread, threads,
      [&](int i) { *reinterpret_cast<uint4*>(global + (i - begin)) = *reinterpret_cast<const uint4*>(stage + i); },
      [&](int i) { global[i] = stage[begin + i]; });
}

}  // namespace convbound
