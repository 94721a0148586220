#include "csrc/dispatch/cpu.h"

#include <cstdlib>

#include "csrc/cpu/depthwise_gather.h"
#include "csrc/cpu/depthwise_wgrad.h"
#include "csrc/cpu/grouped.h"
#include "csrc/cpu/naive.h"

namespace convbound::cpu {

namespace {

constexpr Kernel kKernels[] = {
#define CONVBOUND_CPU_KERNEL(name, pass, naive, supports, run) {#name, Pass::pass, naive, supports, run},
#include "csrc/cpu/kernels.inc"
#undef CONVBOUND_CPU_KERNEL
};

}  // namespace

std::span<const Kernel> kernels() { return kKernels; }

const Kernel& select(Pass pass, const ConvProblem& problem, DType dtype, Layout layout, Isa isa) {
  for (const Kernel& kernel : kKernels) {
    if (kernel.pass == pass && kernel.supports(problem, dtype, layout, isa)) return kernel;
  }
  std::abort();  // the naive rows support everything
}

}  // namespace convbound::cpu
