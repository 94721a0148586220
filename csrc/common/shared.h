// The dynamic shared memory of the running block, in one spelling for nvcc and for the emulator.
#pragma once

#include <cuda_runtime.h>

namespace convbound {

// Declared here and not in the function: g++ calls a missing initialiser of a block-scope `extern thread_local`.
extern __shared__ __align__(128) unsigned char dynamic_shared_bytes[];

// The bytes that the launch asked for, aligned to 128. All types share them: a kernel that needs several arrays
// computes their offsets itself.
template <typename T>
__device__ __forceinline__ T* dynamic_shared() {
  return reinterpret_cast<T*>(dynamic_shared_bytes);
}

}  // namespace convbound
