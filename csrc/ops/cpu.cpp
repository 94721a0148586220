// The backend cpu: native kernels, chosen by the instruction set.
#include "csrc/dispatch/cpu.h"

#include "csrc/ops/run.h"

namespace convbound::ops {

void run(Pass pass, const ConvProblem& problem, DType dtype, Layout layout, int /*device*/, const Tensors& tensors,
         const Allocate& /*allocate*/) {
  cpu::select(pass, problem, dtype, layout, cpu::isa()).run(problem, dtype, layout, tensors);
}

}  // namespace convbound::ops
