// The emulated devices: which one a host thread uses, its last error, and what CUDA's device queries answer.
#pragma once

#include <string>

#include "csrc/simt/cuda/runtime_api.h"
#include "csrc/simt/profile.h"

namespace convbound::simt {

struct HostThread {
  int device = 0;
  cudaError_t last_error = cudaSuccess;
  cudaError_t detailed_error = cudaSuccess;  // the code that `detail` explains
  std::string detail;
};

HostThread& host_thread();
const Profile& profile_of(int device);

// Keeps the error as the host thread's last one, with what cudaGetErrorString will say about it.
cudaError_t refuse(cudaError_t error, const std::string& why);

// The dynamic shared memory that a kernel was opted in to on a device; the default without opt-in.
size_t dynamic_shared_limit(int device, const void* kernel);

// Forgets all function attributes of all devices, as a new process would start.
void reset_devices();

}  // namespace convbound::simt
