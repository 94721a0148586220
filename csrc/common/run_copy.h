// Copies of contiguous elements ("runs") between global and shared memory, by all threads of a block or by a part of
// them that counts from 0 and has 16 at least. The shared copy keeps the run's address modulo 16, so that it moves by
// 16 bytes wherever the run lies. Planes of 7 or 33 rows, of which no row is aligned, are copied like any other memory.
//
// depthwise_wgrad has a copy of its own (depthwise_wgrad_copy.h): its pipeline may not wait for the elements at the
// ends of a run, so it copies the whole 16 bytes that they lie in.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "csrc/common/ptx.h"
#include "csrc/common/vector.h"

namespace convbound {

// Elements that shared memory must hold for a run of `count` at any address: a multiple of 16 bytes.
constexpr int64_t stage_elements(int64_t count, int element_bytes) {
  const int64_t vector = kVectorBytes / element_bytes;
  return (count + 2 * (vector - 1)) / vector * vector;
}

// Elements between the 16-byte boundary before an address and the address.
template <typename T>
__device__ __forceinline__ int elements_after_boundary(const T* address) {
  return static_cast<int>((reinterpret_cast<uintptr_t>(address) % kVectorBytes) / sizeof(T));
}

// A run cut at 16-byte boundaries: `head` elements, `vectors` times 16 bytes, the rest.
template <typename T>
struct RunParts {
  static constexpr int kElements = kVectorElements<T>;
  int head, vectors, scalars;

  // `aligned`: the run is known to begin at a boundary.
  __device__ __forceinline__ RunParts(const T* global, int count, bool aligned) {
    const int to_boundary = aligned ? 0 : (kElements - elements_after_boundary(global)) % kElements;
    head = to_boundary < count ? to_boundary : count;
    vectors = (count - head) / kElements;
    scalars = count - vectors * kElements;
  }

  // Where the i-th element lies that is not part of a vector.
  __device__ __forceinline__ int scalar(int i) const { return i < head ? i : i + vectors * kElements; }
};

// Calls body(i) for i = thread, thread + threads, … below count. With kSteps, the most steps that there can be, the
// loop has no branch; with 0 it is a loop.
template <int kSteps, typename Body>
__device__ __forceinline__ void for_each_of_thread(int count, int threads, int thread, const Body& body) {
  if constexpr (kSteps > 0) {
#pragma unroll
    for (int step = 0; step < kSteps; step++) {
      if (thread + step * threads < count) body(thread + step * threads);
    }
  } else {
    for (int i = thread; i < count; i += threads) body(i);
  }
}

// Starts to copy global[0, count) to shared[0, count), both of one address modulo 16. Complete for the whole block
// after cp_async_wait_all() and a barrier. kSteps as above; a run of known steps begins at a 16-byte boundary.
template <int kSteps = 0, typename T>
__device__ __forceinline__ void load_run(T* shared, const T* global, int count, int threads,
                                         int thread = static_cast<int>(threadIdx.x)) {
  const RunParts<T> parts(global, count, kSteps > 0);
  for_each_of_thread<kSteps>(parts.vectors, threads, thread, [&](int i) {
    const int at = parts.head + i * RunParts<T>::kElements;
    ptx::cp_async<kVectorBytes>(shared + at, global + at);
  });
  if (thread < parts.scalars) shared[parts.scalar(thread)] = global[parts.scalar(thread)];
}

// Starts to copy global[0, count) to a 16-byte boundary, wherever it lies, and zeros behind it: `vectors` times 16
// bytes in all. By 16 bytes where global is `aligned` to them, else by elements.
template <typename T>
__device__ __forceinline__ void load_padded_run(T* shared, const T* global, int count, int vectors, bool aligned,
                                                int threads) {
  constexpr int kElements = kVectorElements<T>;
  for (int i = static_cast<int>(threadIdx.x); i < vectors; i += threads) {
    const int at = i * kElements, left = min(max(count - at, 0), kElements);
    if (aligned) {
      ptx::cp_async<kVectorBytes>(shared + at, left > 0 ? global + at : global, left * static_cast<int>(sizeof(T)));
    } else {
#pragma unroll
      for (int e = 0; e < kElements; e++) shared[at + e] = e < left ? global[at + e] : narrow<T>(0.0f);
    }
  }
}

// Copies shared[0, count) to global[0, count) in the same way as load_run().
template <int kSteps = 0, typename T>
__device__ __forceinline__ void store_run(T* global, const T* shared, int count, int threads,
                                          int thread = static_cast<int>(threadIdx.x)) {
  const RunParts<T> parts(global, count, kSteps > 0);
  for_each_of_thread<kSteps>(parts.vectors, threads, thread, [&](int i) {
    const int at = parts.head + i * RunParts<T>::kElements;
    *reinterpret_cast<uint4*>(global + at) = *reinterpret_cast<const uint4*>(shared + at);
  });
  if (thread < parts.scalars) global[parts.scalar(thread)] = shared[parts.scalar(thread)];
}

}  // namespace convbound
