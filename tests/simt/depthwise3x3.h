// The example kernel of the emulator's tests: a naive depthwise 3x3 fprop.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace convbound::example {

template <typename T>
struct Depthwise3x3Params {
  const T* x;  // [planes, height, width]
  const T* w;  // [channels, 3, 3]
  T* y;        // [planes, height, width], padding 1
  int planes, channels, height, width;
};

template <typename T>
void depthwise3x3(const Depthwise3x3Params<T>& params, cudaStream_t stream);

}  // namespace convbound::example
