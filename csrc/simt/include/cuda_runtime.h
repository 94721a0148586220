// Stand-in for CUDA's <cuda_runtime.h> in the host build: kernel sources include it by its usual name and stay plain
// CUDA C++. Put this folder on the include path only where no CUDA toolkit is (csrc/simt/include, and csrc for
// "simt/...").
#pragma once

#include "simt/cuda/builtins.h"
#include "simt/cuda/intrinsics.h"
#include "simt/cuda/qualifiers.h"
#include "simt/cuda/runtime_api.h"
#include "simt/cuda/vector_types.h"
#include "simt/cuda/warp_intrinsics.h"
