#include "csrc/dispatch/device.h"

#include "csrc/registry.h"

namespace convbound::device {

namespace {

// An empty batch has a gradient of the filter, and no outputs.
bool writes_nothing(Pass pass, const ConvProblem& problem) { return problem.n == 0 && pass != Pass::kWgrad; }

std::string by(int64_t h, int64_t w) { return std::to_string(h) + "x" + std::to_string(w); }

// What the columns of the row say.
std::string columns_refuse(const KernelRow& row, const ConvProblem& p, const Device& device) {
  const auto differs = [](int wanted, const int64_t (&is)[3]) {
    return wanted != 0 && (is[1] != wanted || is[2] != wanted);
  };
  if (p.n == 0 && !row.naive) return "an empty batch";
  if (device.arch < row.min_arch) {
    return "needs sm_" + std::to_string(row.min_arch) + ", the device is sm_" + std::to_string(device.arch);
  }
  if (differs(row.filter, p.filter)) {
    return "made for a filter of " + by(row.filter, row.filter) + ", this is " + by(p.filter[1], p.filter[2]);
  }
  if (differs(row.stride, p.stride)) {
    return "made for stride " + by(row.stride, row.stride) + ", this is " + by(p.stride[1], p.stride[2]);
  }
  return {};
}

std::string launch_refused(const LaunchShape& shape, const Device& device) {
  if (shape.shared_bytes > device.shared_per_block) {
    return "a block needs " + std::to_string(shape.shared_bytes) + " bytes of shared memory, the device has " +
           std::to_string(device.shared_per_block);
  }
  constexpr int64_t kMostBlocks = 2147483647;
  return shape.grid_x > kMostBlocks ? std::to_string(shape.grid_x) + " blocks are more than a grid has" : "";
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&value, which, device);
  if (error != cudaSuccess) {
    cudaGetLastError();
    throw std::runtime_error("device " + std::to_string(device) + ": " + cudaGetErrorString(error));
  }
  return value;
}

}  // namespace

std::span<const KernelRow> rows() {
  static const KernelRows all = [] {
    KernelRows rows;
    for (RowsOfKernel* const kernel : kKernels) {
      for (KernelRow& row : kernel()) rows.push_back(std::move(row));
    }
    return rows;
  }();
  return all;
}

LaunchPlan plan(const KernelRow& row, const ConvProblem& problem, const Device& device) {
  if (std::string reason = columns_refuse(row, problem, device); !reason.empty()) return refuse(std::move(reason));
  LaunchPlan plan = row.plan(row, problem, device);
  if (plan.refusal.empty()) plan.refusal = launch_refused(plan.shape, device);
  return plan;
}

Choice select(Pass pass, const ConvProblem& problem, DType dtype, Layout layout, const Device& device) {
  Choice choice{};
  for (const KernelRow& row : rows()) {
    if (row.pass != pass || row.dtype != dtype || row.layout != layout) continue;
    choice.plan = plan(row, problem, device);
    if (choice.plan.refusal.empty()) {
      choice.row = &row;
      break;
    }
    choice.refused.push_back({&row, choice.plan.refusal});
  }
  return choice;
}

void launch(const KernelRow& row, const LaunchPlan& plan, const ConvProblem& problem, Tensors tensors,
            const Allocate& allocate, cudaStream_t stream) {
  if (plan.workspace_bytes > 0) tensors.workspace = allocate(plan.workspace_bytes);
  try {
    plan.launch(tensors, stream);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(std::string(error.what()) + "\n  while " + row.name + " served " + to_string(problem));
  }
}

void run(const KernelRow* row, Pass pass, const ConvProblem& problem, DType dtype, Layout layout,
         const Tensors& tensors, const Allocate& allocate, const Device& device, cudaStream_t stream) {
  if (writes_nothing(pass, problem)) return;
  if (row != nullptr) {
    const LaunchPlan own = plan(*row, problem, device);
    if (!own.refusal.empty()) {
      throw std::runtime_error(std::string(row->name) + " does not serve " + to_string(problem) + ": " + own.refusal);
    }
    return launch(*row, own, problem, tensors, allocate, stream);
  }
  const Choice choice = select(pass, problem, dtype, layout, device);
  if (choice.row == nullptr) {
    throw std::runtime_error("no CUDA kernel of convbound serves " + to_string(problem) + ": " +
                             choice.plan.refusal);  // the naive kernel's
  }
  launch(*choice.row, choice.plan, problem, tensors, allocate, stream);
}

Device describe(int device) {
  return {
      10 * attribute(cudaDevAttrComputeCapabilityMajor, device) + attribute(cudaDevAttrComputeCapabilityMinor, device),
      static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device)),
      attribute(cudaDevAttrMultiProcessorCount, device)};
}

}  // namespace convbound::device
