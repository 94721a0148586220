// From a problem to one row of the registry of CUDA kernels (csrc/registry/kernels.inc). Host code: it runs nothing.
#pragma once

#include <span>
#include <string>

#include "csrc/common/kernel.h"

namespace convbound::device {

// What the choice of a kernel depends on. The shared memory is the device's, not the binary's: an RTX 4090 runs code
// for sm_80 with 99 KB where an A100 has 163.
struct Device {
  int arch;                 // 10 * major + minor of the compute capability
  size_t shared_per_block;  // cudaDevAttrMaxSharedMemoryPerBlockOptin
};

std::span<const KernelRow> rows();

// Whether the row computes this problem on the device.
bool serves(const KernelRow& row, const ConvProblem& problem, const Device& device);

// The first row that serves the problem, or null.
const KernelRow* select(Pass pass, const ConvProblem& problem, DType dtype, Layout layout, const Device& device);

// Launches a row that serves the problem. Throws std::runtime_error that names kernel, problem and launch.
void launch(const KernelRow& row, const ConvProblem& problem, Tensors tensors, const Allocate& allocate,
            cudaStream_t stream);

// Selects and launches. Throws where nothing serves the problem, too.
void run(Pass pass, const ConvProblem& problem, DType dtype, Layout layout, const Tensors& tensors,
         const Allocate& allocate, const Device& device, cudaStream_t stream);

// The device with this number, as the CUDA runtime describes it.
Device describe(int device);

}  // namespace convbound::device
