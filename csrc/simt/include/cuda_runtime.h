// Stand-in for CUDA's <cuda_runtime.h> in the host build: kernel sources include it by its usual name and stay plain
// CUDA C++. Put this folder on the include path only where no CUDA toolkit is (csrc/simt/include, and the root for
// "csrc/...").
#pragma once

#include "csrc/simt/cuda/builtins.h"
#include "csrc/simt/cuda/intrinsics.h"
#include "csrc/simt/cuda/qualifiers.h"
#include "csrc/simt/cuda/runtime_api.h"
#include "csrc/simt/cuda/vector_types.h"
#include "csrc/simt/cuda/warp_intrinsics.h"
