// What a launch may ask for: geometry, parameters, shared memory and opt-in, devices, profiles, occupancy.
#include <cuda_runtime.h>

#include <thread>

#include "csrc/common/launch.h"
#include "csrc/common/ptx.h"
#include "csrc/common/shared.h"
#include "csrc/simt/devices.h"
#include "tests/simt/harness.h"

namespace convbound::test {

namespace {

struct Nothing {
  int unused;
};

struct Large {
  char bytes[4097];
};

__global__ void __launch_bounds__(1024) nothing(const __grid_constant__ Nothing) {}
__global__ void __launch_bounds__(32) large_parameters(const __grid_constant__ Large) {}

__global__ void __launch_bounds__(32) with_static_shared(const __grid_constant__ Nothing p) {
  __shared__ float tile[1024];
  tile[threadIdx.x] = static_cast<float>(p.unused);
  __syncthreads();
  if (tile[31 - threadIdx.x] != static_cast<float>(p.unused)) __trap();
}

__global__ void __launch_bounds__(32) reductions(const __grid_constant__ Nothing) {
  __reduce_add_sync(~0u, threadIdx.x);
}

__global__ void __launch_bounds__(32) tensor_cores(const __grid_constant__ Nothing) {
  const uint32_t a[4] = {}, b[2] = {};
  float c[4] = {};
  ptx::mma_m16n8k8_tf32(c, a, b, c);
}

cudaError_t try_launch(dim3 grid, dim3 block, size_t shared = 0, void (*kernel)(Nothing) = nothing) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  return cudaLaunchKernelEx(&config, kernel, Nothing{3});
}

void geometry() {
  check_equal(try_launch(1, 1024), cudaSuccess, "1024 threads");
  check_equal(try_launch(1, 1025), cudaErrorInvalidConfiguration, "1025 threads");
  check_equal(try_launch(1, dim3(1, 1, 65)), cudaErrorInvalidConfiguration, "65 threads along z");
  check_equal(try_launch(0, 32), cudaErrorInvalidConfiguration, "an empty grid");
  check_equal(try_launch(dim3(1, 65535), 1), cudaSuccess, "grid.y of 65535");
  check_equal(try_launch(dim3(1, 65536), 1), cudaErrorInvalidConfiguration, "grid.y of 65536");
  check_equal(try_launch(dim3(1, 1, 65536), 1), cudaErrorInvalidConfiguration, "grid.z of 65536");
  check_equal(try_launch(2147483648u, 1), cudaErrorInvalidConfiguration, "grid.x of 2^31");
  check_text(cudaGetErrorString(cudaPeekAtLastError()), "grid (2147483648, 1, 1) exceeds");
  check_equal(cudaGetLastError(), cudaErrorInvalidConfiguration, "the last error");
  check_equal(cudaGetLastError(), cudaSuccess, "the last error, read once");
}

void parameters() {
  cudaLaunchConfig_t config{};
  config.gridDim = config.blockDim = 1;
  check_equal(cudaLaunchKernelEx(&config, large_parameters, Large{}), cudaErrorInvalidValue,
              "4097 bytes of parameters");
  check_text(cudaGetErrorString(cudaGetLastError()), "4097 bytes of parameters");
}

void shared_memory_of(const char* profile, int optin_kib) {
  simt::reset_devices();
  simt::Session session({.profile = profile});
  const int limit = optin_kib * 1024;
  int value = 0;
  check_equal(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0), cudaSuccess, "attribute");
  check_equal(value, limit, "opt-in limit");
  check_equal(try_launch(1, 32, 48 << 10), cudaSuccess, "48 KB");
  check_equal(try_launch(1, 32, (48 << 10) + 1), cudaErrorInvalidValue, "over 48 KB without opt-in");
  check_equal(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, limit + 1),
              cudaErrorInvalidValue, "opt-in over the limit");
  check_equal(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, limit), cudaSuccess, "opt-in");
  check_equal(try_launch(1, 32, static_cast<size_t>(limit)), cudaSuccess, "all of it");
  cudaGetLastError();
}

void static_shared_memory() {
  simt::reset_devices();
  cudaFuncAttributes attributes;
  cudaFuncGetAttributes(&attributes, with_static_shared);
  check_equal(attributes.sharedSizeBytes, size_t{4096}, "static shared memory");
  check_equal(attributes.maxDynamicSharedSizeBytes, 44 << 10, "what is left of 48 KB");
  check_equal(try_launch(1, 32, 44 << 10, with_static_shared), cudaSuccess, "44 KB");
  check_equal(try_launch(1, 32, (44 << 10) + 4, with_static_shared), cudaErrorInvalidValue, "44 KB and 4 bytes");
  cudaGetLastError();
}

// An attribute set once, behind a static flag, belongs to the device that was current then.
void attributes_are_per_device() {
  simt::reset_devices();
  simt::Session session({.profile = "sm_80", .second_profile = "sm_86"});
  int count = 0;
  cudaGetDeviceCount(&count);
  check_equal(count, 2, "devices");
  cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 96 << 10);
  check_equal(try_launch(1, 32, 96 << 10), cudaSuccess, "device 0, opted in");
  cudaSetDevice(1);
  check_equal(try_launch(1, 32, 96 << 10), cudaErrorInvalidValue, "device 1, not opted in");
  check_equal(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 128 << 10),
              cudaErrorInvalidValue, "128 KB on sm_86");
  cudaDeviceProp properties;
  cudaGetDeviceProperties(&properties, 1);
  check_equal(properties.major * 10 + properties.minor, 86, "compute capability of device 1");
  int device_of_another_thread = -1;
  std::thread([&] { cudaGetDevice(&device_of_another_thread); }).join();
  check_equal(device_of_another_thread, 0, "the current device belongs to a thread");
  check_equal(cudaSetDevice(2), cudaErrorInvalidDevice, "device 2");
  cudaSetDevice(0);
  cudaGetLastError();
}

void typed_launch_reports() {
  simt::reset_devices();
  simt::Session session({.profile = "sm_86"});
  launch("nothing", nothing, {.block_x = 32, .shared_bytes = 99 << 10}, nullptr, {0});  // opts in by itself
  const auto message_of = [](const LaunchShape& shape) -> std::string {
    try {
      launch("nothing", nothing, shape, nullptr, {0});
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "";
  };
  const std::string shared = message_of({.grid_x = 7, .block_x = 32, .shared_bytes = 100 << 10});
  check_text(shared, "nothing: grid (7, 1, 1), block (32, 1, 1), 102400 bytes of dynamic shared memory: ");
  check_text(shared, "at most 101376 are possible on sm_86");
  check_text(message_of({.grid_x = int64_t{1} << 33, .block_x = 32}), "grid (8589934592, 1, 1)");
  check_text(message_of({.block_x = 2048}), "2048 threads");
  check_equal(cudaGetLastError(), cudaSuccess, "a reported error is not found again");
}

void registers_and_occupancy() {
  simt::Session session({.profile = "sm_80", .registers_per_thread = 80});
  check_equal(try_launch(1, 1024), cudaErrorLaunchOutOfResources, "1024 threads of 80 registers");
  check_equal(try_launch(1, 512), cudaSuccess, "512 threads of 80 registers");
  int blocks = 0;
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, nothing, 256, 0);
  check_equal(blocks, 3, "resident blocks by registers");
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, nothing, 256, 81 << 10);
  check_equal(blocks, 2, "resident blocks by shared memory, 1 KB of each reserved");
  cudaGetLastError();
}

void architectures() {
  simt::Session session({.profile = "sm_75"});
  check_text(expect_error(simt::ErrorKind::kUnsupported, [] { try_launch(1, 32, 0, reductions); }).what(), "sm_80");
  check_text(expect_error(simt::ErrorKind::kUnsupported, [] { try_launch(1, 32, 0, tensor_cores); }).what(), "sm_75");
  try {
    simt::Session unknown({.profile = "sm_99"});
    check(false, "sm_99 is no profile");
  } catch (const std::invalid_argument& error) {
    check_text(error.what(), "'sm_99' is not one of sm_75, sm_80");
  }
}

// Launches from several host threads at once: one has the workers, the others run their blocks alone.
void concurrent_launches() {
  std::vector<std::thread> threads;
  std::vector<int> errors(4, -1);
  for (size_t i = 0; i < errors.size(); ++i) {
    threads.emplace_back([&errors, i] {
      for (int round = 0; round < 5; ++round) errors[i] = try_launch(200, 32, 0, with_static_shared);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const int error : errors) check_equal(error, 0, "launch");
}

const Register kCases[] = {
    {"geometry", geometry},
    {"parameters", parameters},
    {"shared_memory_limit-sm_75", [] { shared_memory_of("sm_75", 64); }},
    {"shared_memory_limit-sm_80", [] { shared_memory_of("sm_80", 163); }},
    {"shared_memory_limit-sm_86", [] { shared_memory_of("sm_86", 99); }},
    {"shared_memory_limit-sm_89", [] { shared_memory_of("sm_89", 99); }},
    {"shared_memory_limit-sm_90", [] { shared_memory_of("sm_90", 227); }},
    {"shared_memory_limit-sm_100", [] { shared_memory_of("sm_100", 227); }},
    {"shared_memory_limit-sm_120", [] { shared_memory_of("sm_120", 99); }},
    {"static_shared_memory", static_shared_memory},
    {"attributes_are_per_device", attributes_are_per_device},
    {"typed_launch_reports", typed_launch_reports},
    {"registers_and_occupancy", registers_and_occupancy},
    {"architectures", architectures},
    {"concurrent_launches", concurrent_launches},
};

}  // namespace

}  // namespace convbound::test
