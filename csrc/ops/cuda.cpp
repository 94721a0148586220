// The backend cuda: the tensors' device becomes the current one, and work goes to its current stream.
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include "csrc/dispatch/device.h"
#include "csrc/ops/run.h"
#include "csrc/ops/run_row.h"

namespace convbound::ops {

namespace {

// torch's function for it, looked up in the library of a CUDA torch: this one has to load without such a torch, so it
// cannot link to it.
cudaStream_t current_stream(int device) {
  using GetStream = int32_t (*)(int32_t device, void** stream);
  static const auto get_stream = [] {
    void* torch = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return torch == nullptr ? nullptr : reinterpret_cast<GetStream>(dlsym(torch, "aoti_torch_get_current_cuda_stream"));
  }();
  if (get_stream == nullptr) throw std::runtime_error("this torch has no CUDA: libtorch_cuda.so is not loaded");
  void* stream = nullptr;
  if (get_stream(device, &stream) != 0) {
    throw std::runtime_error("torch did not give the current stream of cuda:" + std::to_string(device));
  }
  return static_cast<cudaStream_t>(stream);
}

}  // namespace

void run(Pass pass, const ConvProblem& problem, DType dtype, Layout layout, int device, const Tensors& tensors,
         const Allocate& allocate) {
  const torch::stable::accelerator::DeviceGuard guard(device);
  device::run(nullptr, pass, problem, dtype, layout, tensors, allocate, device::describe(device),
              current_stream(device));
}

void run_row(const KernelRow& row, const ConvProblem& problem, int device, const Tensors& tensors,
             const Allocate& allocate) {
  const torch::stable::accelerator::DeviceGuard guard(device);
  device::run(&row, row.pass, problem, row.dtype, row.layout, tensors, allocate, device::describe(device),
              current_stream(device));
}

}  // namespace convbound::ops
