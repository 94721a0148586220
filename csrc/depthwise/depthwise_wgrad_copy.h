// Copies from global to shared memory for depthwise wgrad: runs and tiles at any alignment, 16 bytes at a time.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "csrc/common/ptx.h"

namespace convbound::depthwise {

// A tensor as bytes, so that the 16-byte granule around its first or last element is not read outside of it.
template <typename T>
struct WgradTensor {
  const T* data;
  int64_t elements;

  __device__ __forceinline__ unsigned misalignment(int64_t element) const {
    return (static_cast<unsigned>(reinterpret_cast<uintptr_t>(data)) +
            static_cast<unsigned>(element) * static_cast<unsigned>(sizeof(T))) &
           31u;
  }
};

// `count` elements from `begin` on to `to`, by `lanes` threads of which this is number `lane`. `to` has the source's
// offset from a multiple of 16 bytes. Copied is from the sector of 32 bytes that the run starts in, so that requests
// cover whole sectors, to the end of its last granule of 16: what lies there in the tensor goes up to 31 bytes before
// `to`.
template <typename T>
__device__ __forceinline__ void copy_sectors(unsigned char* to, const WgradTensor<T>& source, int64_t begin, int count,
                                             int lane, int lanes) {
  constexpr int kSize = sizeof(T);
  if (count < 1) return;
  const T* const first = source.data + begin;
  const int offset = static_cast<int>(reinterpret_cast<uintptr_t>(first) & 31u);  // from its sector
  const int bytes = offset + count * kSize;
  // What lies inside the tensor, as offsets from that sector.
  const int lower = begin * kSize < 32 ? offset - static_cast<int>(begin) * kSize : 0;
  const int64_t rest = (source.elements - begin) * kSize + offset;
  const int upper = rest < bytes + 16 ? static_cast<int>(rest) : bytes + 16;
  const unsigned char* const from = reinterpret_cast<const unsigned char*>(first) - offset;
  const int granules = (bytes + 15) / 16;
  for (int i = lane; i < granules; i += lanes) {
    const int at = 16 * i;
    if (at >= lower && at + 16 <= upper) {
      ptx::cp_async<16>(to + (at - offset), from + at);
    } else {
#pragma unroll
      for (int e = 0; e < 16; e += kSize) {
        if (at + e < offset || at + e >= bytes) continue;
        *reinterpret_cast<T*>(to + (at + e - offset)) = *reinterpret_cast<const T*>(from + at + e);
      }
    }
  }
}

// The same, element by element, to any address.
template <typename T>
__device__ __forceinline__ void copy_elements(unsigned char* to, const WgradTensor<T>& source, int64_t begin, int count,
                                              int lane, int lanes) {
  for (int i = lane; i < count; i += lanes) reinterpret_cast<T*>(to)[i] = source.data[begin + i];
}

}  // namespace convbound::depthwise
