// threadIdx and friends: ordinary objects, so that a debugger prints them. The emulator writes them whenever it
// switches to another emulated thread. Unsigned, as on the GPU: subtract a padding from one and the result is a large
// number.
//
// Hidden, so that one shared library, which holds kernels and emulator together, has one copy of each.
#pragma once

#include "csrc/simt/cuda/vector_types.h"

__attribute__((visibility("hidden"))) inline constinit thread_local uint3 threadIdx{};
__attribute__((visibility("hidden"))) inline constinit thread_local uint3 blockIdx{};
__attribute__((visibility("hidden"))) inline constinit thread_local uint3 blockDim{};
__attribute__((visibility("hidden"))) inline constinit thread_local uint3 gridDim{};

inline constexpr int warpSize = 32;
