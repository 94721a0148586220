// From a problem to one row of the CPU kernel table (csrc/cpu/kernels.inc).
#pragma once

#include <span>

#include "csrc/cpu/kernel.h"

namespace convbound::cpu {

std::span<const Kernel> kernels();

// The first row that supports the problem; never null, for the naive rows support everything.

const Kernel& select(Pass pass, const ConvProblem& problem, DType dtype, Layout layout, Isa isa);

}  // namespace convbound::cpu
