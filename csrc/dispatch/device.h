// From a problem to one row of the registry of CUDA kernels (csrc/registry.h), and to its launch.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "csrc/common/kernel.h"

namespace convbound::device {

std::span<const KernelRow> rows();

// What the row does for the problem on the device, or why it does not serve it. Host code: it runs nothing.
LaunchPlan plan(const KernelRow& row, const ConvProblem& problem, const Device& device);

// A row that does not serve a problem.
struct Refusal {
  const KernelRow* row;
  std::string reason;
};

struct Choice {
  const KernelRow* row;  // null where none serves the problem
  LaunchPlan plan;
  std::vector<Refusal> refused;  // the rows above it that have its pass, dtype and layout
};

// The first row that serves the problem.
Choice select(Pass pass, const ConvProblem& problem, DType dtype, Layout layout, const Device& device);

// Launches a row that serves the problem, by its plan for it. Throws std::runtime_error that names kernel, problem and
// launch.
void launch(const KernelRow& row, const LaunchPlan& plan, const ConvProblem& problem, Tensors tensors,
            const Allocate& allocate, cudaStream_t stream);

// Plans and launches the row; with no row, the selected one. Throws where it does not serve the problem, too.
void run(const KernelRow* row, Pass pass, const ConvProblem& problem, DType dtype, Layout layout,
         const Tensors& tensors, const Allocate& allocate, const Device& device, cudaStream_t stream);

// The device with this number, as the CUDA runtime describes it.
Device describe(int device);

}  // namespace convbound::device
