// Stand-in for CUDA's <cuda_runtime_api.h>: the host calls that launchers use.
#pragma once

#include "simt/cuda/runtime_api.h"
#include "simt/cuda/vector_types.h"
