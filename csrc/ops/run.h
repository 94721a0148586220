// What a backend does for its ops: each library of ops defines this one function.
#pragma once

#include "csrc/conv_problem.h"

namespace convbound::ops {

// Computes the pass. The tensors are dense in the layout, on the device with this index (-1 for the CPU), and what the
// pass writes is allocated; a workspace comes from `allocate`. Throws std::runtime_error.
void run(Pass pass, const ConvProblem& problem, DType dtype, Layout layout, int device, const Tensors& tensors,
         const Allocate& allocate);

}  // namespace convbound::ops
