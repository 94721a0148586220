#include "csrc/dispatch/device.h"

#include "csrc/depthwise/depthwise_nchw.h"
#include "csrc/depthwise/depthwise_ncl.h"
#include "csrc/depthwise/depthwise_nhwc.h"
#include "csrc/depthwise/depthwise_wgrad.h"
#include "csrc/dilated/dilated.h"
#include "csrc/naive/naive.h"
#include "csrc/transposed/transposed.h"

namespace convbound::device {

namespace {

constexpr KernelRow kRows[] = {
#define CONVBOUND_KERNEL(name, family, pass, dtype, layout, filter, stride, min_arch, tile, supports, shape, \
                         workspace, launch)                                                                  \
  {#name,    Family::family, Pass::pass, dtype, layout,    filter, stride,                                   \
   min_arch, tile,           supports,   shape, workspace, launch},
#include "csrc/registry/kernels.inc"
#undef CONVBOUND_KERNEL
};

bool fits(int specialised, int64_t h, int64_t w) { return specialised == 0 || (h == specialised && w == specialised); }

// An empty batch has a gradient of the filter, and no outputs.
bool writes_nothing(Pass pass, const ConvProblem& problem) { return problem.n == 0 && pass != Pass::kWgrad; }

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

std::span<const KernelRow> rows() { return kRows; }

bool serves(const KernelRow& row, const ConvProblem& problem, const Device& device) {
  if (problem.n == 0 && row.family != Family::kNaive) return false;
  return device.arch >= row.min_arch && fits(row.filter, problem.filter[1], problem.filter[2]) &&
         fits(row.stride, problem.stride[1], problem.stride[2]) && row.supports(problem) &&
         row.shape(problem).shared_bytes <= device.shared_per_block;
}

const KernelRow* select(Pass pass, const ConvProblem& problem, DType dtype, Layout layout, const Device& device) {
  for (const KernelRow& row : kRows) {
    if (row.pass == pass && row.dtype == dtype && row.layout == layout && serves(row, problem, device)) return &row;
  }
  return nullptr;
}

void launch(const KernelRow& row, const ConvProblem& problem, Tensors tensors, const Allocate& allocate,
            cudaStream_t stream) {
  if (writes_nothing(row.pass, problem)) return;
  if (const size_t bytes = row.workspace(problem)) tensors.workspace = allocate(bytes);
  try {
    row.launch(problem, tensors, stream);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(std::string(error.what()) + "\n  while " + row.name + " served " + to_string(problem));
  }
}

void run(Pass pass, const ConvProblem& problem, DType dtype, Layout layout, const Tensors& tensors,
         const Allocate& allocate, const Device& device, cudaStream_t stream) {
  if (writes_nothing(pass, problem)) return;
  const KernelRow* row = select(pass, problem, dtype, layout, device);
  if (row == nullptr) {
    throw std::runtime_error("no CUDA kernel of convbound serves " + to_string(problem) +
                             ": along some axis the padded input, outputs times stride or taps times dilation are "
                             "beyond 2^30");
  }
  launch(*row, problem, tensors, allocate, stream);
}

Device describe(int device) {
  return {
      10 * attribute(cudaDevAttrComputeCapabilityMajor, device) + attribute(cudaDevAttrComputeCapabilityMinor, device),
      static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device))};
}

}  // namespace convbound::device
