// The CUDA runtime calls of cuda/runtime_api.h.
#include "csrc/simt/cuda/runtime_api.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "csrc/simt/devices.h"
#include "csrc/simt/error.h"
#include "csrc/simt/launch.h"

namespace convbound::simt {

namespace {

std::mutex attributes_mutex;
std::map<std::pair<int, const void*>, size_t> opted_in;  // by device and kernel

cudaError_t check_geometry(const cudaLaunchConfig_t& config, const std::string& kernel) {
  const dim3 grid = config.gridDim, block = config.blockDim;
  const uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
  if (threads == 0 || threads > kMaxThreadsPerBlock || block.z > kMaxBlockZ) {
    return refuse(cudaErrorInvalidConfiguration, kernel + ": block " + to_string(block) + " has " +
                                                     std::to_string(threads) +
                                                     " threads; 1 to 1024 are possible, 64 along z");
  }
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > kMaxGridX || grid.y > kMaxGridYZ || grid.z > kMaxGridYZ) {
    return refuse(cudaErrorInvalidConfiguration,
                  kernel + ": grid " + to_string(grid) + " exceeds (2147483647, 65535, 65535) or is empty");
  }
  return cudaSuccess;
}

cudaError_t check_resources(const cudaLaunchConfig_t& config, const KernelCall& call, const KernelInfo& info,
                            int device) {
  const Profile& profile = profile_of(device);
  if (call.parameter_bytes > kMaxParameterBytes) {
    return refuse(cudaErrorInvalidValue, info.name + ": " + std::to_string(call.parameter_bytes) +
                                             " bytes of parameters; at most 4096 are possible");
  }
  if (info.static_shared_bytes > kSharedWithoutOptin) {
    return refuse(cudaErrorInvalidValue, info.name + ": " + std::to_string(info.static_shared_bytes) +
                                             " bytes of static shared memory; at most 49152 are possible");
  }
  const size_t limit = dynamic_shared_limit(device, call.kernel);
  if (config.dynamicSmemBytes > limit) {
    return refuse(cudaErrorInvalidValue,
                  info.name + ": " + std::to_string(config.dynamicSmemBytes) + " bytes of dynamic shared memory, and " +
                      std::to_string(info.static_shared_bytes) + " static; the kernel may use " +
                      std::to_string(limit) + " dynamic bytes on device " + std::to_string(device) +
                      " (cudaFuncSetAttribute opts in, up to " + std::to_string(profile.shared_per_block_optin) +
                      " in all on " + std::string(profile.name) + ")");
  }
  const Options& options = current_options();
  const dim3 block = config.blockDim;
  const unsigned threads = block.x * block.y * block.z;
  const int registers = options.registers_per_thread;
  const size_t shared = info.static_shared_bytes + config.dynamicSmemBytes;
  if (registers > 0 && resident_blocks(profile, threads, shared, registers) == 0) {
    return refuse(cudaErrorLaunchOutOfResources, info.name + ": " + std::to_string(threads) + " threads of " +
                                                     std::to_string(registers) +
                                                     " registers do not fit into the 65536 of an SM");
  }
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const auto& cluster = config.attrs[i].val.clusterDim;
    if (config.attrs[i].id == cudaLaunchAttributeClusterDimension &&
        (cluster.x > 1 || cluster.y > 1 || cluster.z > 1)) {
      return refuse(cudaErrorNotSupported, info.name + ": thread block clusters are not emulated");
    }
  }
  return cudaSuccess;
}

}  // namespace

size_t dynamic_shared_limit(int device, const void* kernel) {
  const size_t unasked = kSharedWithoutOptin - std::min(kSharedWithoutOptin, kernel_info(kernel).static_shared_bytes);
  const std::lock_guard lock(attributes_mutex);
  const auto found = opted_in.find({device, kernel});
  return found == opted_in.end() ? unasked : std::max(unasked, found->second);
}

void reset_devices() {
  const std::lock_guard lock(attributes_mutex);
  opted_in.clear();
}

cudaError_t set_function_attribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) {
    return refuse(cudaErrorInvalidValue, "cudaFuncSetAttribute: attribute " + std::to_string(attribute));
  }
  const int device = host_thread().device;
  const KernelInfo& info = kernel_info(kernel);
  const size_t limit = profile_of(device).shared_per_block_optin - info.static_shared_bytes;
  if (value < 0 || static_cast<size_t>(value) > limit) {
    return refuse(cudaErrorInvalidValue, info.name + ": " + std::to_string(value) +
                                             " bytes of dynamic shared memory; at most " + std::to_string(limit) +
                                             " are possible on " + device_profile(device));
  }
  const std::lock_guard lock(attributes_mutex);
  opted_in[{device, kernel}] = static_cast<size_t>(value);
  return cudaSuccess;
}

cudaError_t get_function_attributes(cudaFuncAttributes* attributes, const void* kernel) {
  *attributes = {};
  attributes->sharedSizeBytes = kernel_info(kernel).static_shared_bytes;
  attributes->maxThreadsPerBlock = static_cast<int>(kMaxThreadsPerBlock);
  attributes->numRegs = current_options().registers_per_thread;
  attributes->maxDynamicSharedSizeBytes = static_cast<int>(dynamic_shared_limit(host_thread().device, kernel));
  return cudaSuccess;
}

cudaError_t max_active_blocks(int* blocks, const void* kernel, int threads, size_t dynamic_shared) {
  *blocks =
      resident_blocks(profile_of(host_thread().device), static_cast<unsigned>(threads),
                      kernel_info(kernel).static_shared_bytes + dynamic_shared, current_options().registers_per_thread);
  return cudaSuccess;
}

cudaError_t launch_kernel(const cudaLaunchConfig_t& config, const KernelCall& call) {
  static std::atomic<uint32_t> launches{0};
  const int device = host_thread().device;
  const KernelInfo& info = kernel_info(call.kernel);
  cudaError_t error = check_geometry(config, info.name);
  if (error == cudaSuccess) error = check_resources(config, call, info, device);
  if (error != cudaSuccess) return error;

  Launch launch{};
  launch.call = call;
  launch.kernel = &info;
  launch.profile = &profile_of(device);
  launch.options = current_options();
  launch.memory = launch.observed() ? &current_session()->memory() : nullptr;
  launch.grid = config.gridDim;
  launch.block = config.blockDim;
  launch.dynamic_shared = config.dynamicSmemBytes;
  launch.serial = ++launches;
  const Profile& profile = *launch.profile;
  const int fitting = std::max(
      1, resident_blocks(profile, launch.threads(), launch.shared_bytes(), launch.options.registers_per_thread));
  const auto sms = static_cast<uint64_t>(sm_count(profile));
  const uint64_t per_sm = (launch.blocks() + sms - 1) / sms;
  launch.resident_blocks = static_cast<int>(std::min<uint64_t>(static_cast<uint64_t>(fitting), per_sm));
  const auto resident = static_cast<size_t>(launch.resident_blocks);
  launch.l1_share = (profile.l1_and_shared - resident * launch.shared_bytes()) / resident;
  run_launch(launch);
  return cudaSuccess;
}

}  // namespace convbound::simt

using convbound::simt::host_thread;

cudaError_t cudaGetLastError() {
  const cudaError_t error = host_thread().last_error;
  host_thread().last_error = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() { return host_thread().last_error; }

const char* cudaGetErrorString(cudaError_t error) {
  if (error != cudaSuccess && error == host_thread().detailed_error) return host_thread().detail.c_str();
  return cudaGetErrorName(error);
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDeviceFunction:
      return "cudaErrorInvalidDeviceFunction";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorLaunchOutOfResources:
      return "cudaErrorLaunchOutOfResources";
    case cudaErrorNotSupported:
      return "cudaErrorNotSupported";
  }
  return "unknown error";
}

cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
