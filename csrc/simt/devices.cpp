#include "csrc/simt/devices.h"

#include <algorithm>
#include <cstring>

#include "csrc/simt/session.h"

namespace convbound::simt {

HostThread& host_thread() {
  static thread_local HostThread state;
  return state;
}

const Profile& profile_of(int device) { return find_profile(device_profile(device)); }

cudaError_t refuse(cudaError_t error, const std::string& why) {
  HostThread& state = host_thread();
  state.last_error = state.detailed_error = error;
  state.detail = why;
  return error;
}

}  // namespace convbound::simt

using convbound::simt::host_thread;
using convbound::simt::kDevices;
using convbound::simt::profile_of;
using convbound::simt::refuse;

cudaError_t cudaGetDeviceCount(int* count) {
  *count = kDevices;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = host_thread().device;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= kDevices) {
    return refuse(cudaErrorInvalidDevice, "device " + std::to_string(device) + " of " + std::to_string(kDevices));
  }
  host_thread().device = device;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= kDevices) return refuse(cudaErrorInvalidDevice, "device " + std::to_string(device));
  const auto& profile = profile_of(device);
  *properties = {};
  const std::string name = "emulated " + std::string(profile.gpu) + " (" + std::string(profile.name) + ")";
  std::strncpy(properties->name, name.c_str(), sizeof(properties->name) - 1);
  properties->sharedMemPerBlock = convbound::simt::kSharedWithoutOptin;
  properties->regsPerBlock = convbound::simt::kRegistersPerSm;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = static_cast<int>(convbound::simt::kMaxThreadsPerBlock);
  const int threads[] = {1024, 1024, 64}, grid[] = {2147483647, 65535, 65535};
  std::copy_n(threads, 3, properties->maxThreadsDim);
  std::copy_n(grid, 3, properties->maxGridSize);
  properties->major = profile.major;
  properties->minor = profile.minor;
  properties->multiProcessorCount = convbound::simt::sm_count(profile);
  properties->l2CacheSize = static_cast<int>(profile.l2_bytes);
  properties->maxThreadsPerMultiProcessor = profile.max_threads_per_sm;
  properties->sharedMemPerMultiprocessor = profile.shared_per_sm;
  properties->regsPerMultiprocessor = convbound::simt::kRegistersPerSm;
  properties->sharedMemPerBlockOptin = profile.shared_per_block_optin;
  properties->maxBlocksPerMultiProcessor = profile.max_blocks_per_sm;
  properties->reservedSharedMemPerBlock = profile.reserved_shared_per_block;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, device);
  if (error != cudaSuccess) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = properties.maxThreadsPerBlock;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(properties.sharedMemPerBlock);
      break;
    case cudaDevAttrWarpSize:
      *value = properties.warpSize;
      break;
    case cudaDevAttrMaxRegistersPerBlock:
      *value = properties.regsPerBlock;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      break;
    case cudaDevAttrL2CacheSize:
      *value = properties.l2CacheSize;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = properties.maxThreadsPerMultiProcessor;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(properties.sharedMemPerMultiprocessor);
      break;
    case cudaDevAttrMaxRegistersPerMultiprocessor:
      *value = properties.regsPerMultiprocessor;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      break;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
      *value = properties.maxBlocksPerMultiProcessor;
      break;
    case cudaDevAttrReservedSharedMemoryPerBlock:
      *value = static_cast<int>(properties.reservedSharedMemPerBlock);
      break;
    default:
      return refuse(cudaErrorInvalidValue, "cudaDeviceGetAttribute: attribute " + std::to_string(attribute));
  }
  return cudaSuccess;
}
