// One given row of the registry of CUDA kernels, whatever the dispatcher would choose. Each library of ops that has
// CUDA kernels defines this one function.
#pragma once

#include "csrc/common/kernel.h"

namespace convbound::ops {

// Launches the row. The tensors are dense in its layout, and what the pass writes is allocated; a workspace comes from
// `allocate`. Throws std::runtime_error, also where the row does not serve the problem on that device.
void run_row(const KernelRow& row, const ConvProblem& problem, int device, const Tensors& tensors,
             const Allocate& allocate);

}  // namespace convbound::ops
