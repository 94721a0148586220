// Stand-in for CUDA's <cuda_runtime_api.h>: the host calls that launchers use.
#pragma once

#include "csrc/simt/cuda/runtime_api.h"
#include "csrc/simt/cuda/vector_types.h"
