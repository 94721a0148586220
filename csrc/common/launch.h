// Launches kernels, with the same source for nvcc and for the emulator. The geometry is checked in 64 bits. Shared
// memory is opted in to at every launch, because that attribute belongs to one device and one kernel. Every error names
// the kernel, its grid and its shared memory.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace convbound {

struct LaunchShape {
  int64_t grid_x = 1, grid_y = 1, grid_z = 1;  // batch x channels belongs on x: y and z end at 65535
  int block_x = 1, block_y = 1, block_z = 1;
  size_t shared_bytes = 0;  // dynamic
};

inline std::string to_string(const LaunchShape& shape) {
  return "grid (" + std::to_string(shape.grid_x) + ", " + std::to_string(shape.grid_y) + ", " +
         std::to_string(shape.grid_z) + "), block (" + std::to_string(shape.block_x) + ", " +
         std::to_string(shape.block_y) + ", " + std::to_string(shape.block_z) + "), " +
         std::to_string(shape.shared_bytes) + " bytes of dynamic shared memory";
}

inline void check_launch(cudaError_t error, const char* name, const LaunchShape& shape) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // the error is reported here; it must not be found again by the next launch
  throw std::runtime_error(std::string(name) + ": " + to_string(shape) + ": " + cudaGetErrorString(error));
}

// Throws std::runtime_error where the shape is impossible or the launch is refused.
template <typename Params>
void launch(const char* name, void (*kernel)(Params), const LaunchShape& shape, cudaStream_t stream,
            const Params& params) {
  constexpr int64_t kMaxGridX = 2147483647, kMaxGridYZ = 65535;
  if (shape.grid_x < 1 || shape.grid_y < 1 || shape.grid_z < 1 || shape.grid_x > kMaxGridX ||
      shape.grid_y > kMaxGridYZ || shape.grid_z > kMaxGridYZ) {
    throw std::runtime_error(std::string(name) + ": " + to_string(shape) +
                             ": the grid must lie in (2147483647, 65535, " + "65535)");
  }
  constexpr size_t kSharedWithoutOptin = 48 * 1024;
  if (shape.shared_bytes > kSharedWithoutOptin) {
    check_launch(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes)),
        name, shape);
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(shape.grid_x), static_cast<unsigned>(shape.grid_y),
                        static_cast<unsigned>(shape.grid_z));
  config.blockDim = dim3(static_cast<unsigned>(shape.block_x), static_cast<unsigned>(shape.block_y),
                         static_cast<unsigned>(shape.block_z));
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  check_launch(cudaLaunchKernelEx(&config, kernel, params), name, shape);
}

}  // namespace convbound
