// What every CUDA C++ kernel instance looks like to the dispatcher: one row of the registry (csrc/registry.h). The rows
// of a kernel stand at the end of its file.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "csrc/common/launch.h"
#include "csrc/common/view.h"
#include "csrc/conv_problem.h"

namespace convbound {

enum class Family : int { kDepthwise, kGrouped, kDilated, kTransposed, kAny };

// What the choice of a kernel depends on. The shared memory is the device's, not the binary's: an RTX 4090 runs code
// for sm_80 with 99 KB where an A100 has 163.
struct Device {
  int arch;                 // 10 * major + minor of the compute capability
  size_t shared_per_block;  // cudaDevAttrMaxSharedMemoryPerBlockOptin
  int sms;                  // multiprocessors: blocks that share a sum fill whole waves of them
};

// What a row does for a problem, or why it does not serve it. A call makes one and launches it.
struct LaunchPlan {
  std::string refusal;         // in words; empty where the row serves the problem
  LaunchShape shape;           // for tensors at 16-byte boundaries; the launch looks at where they lie
  size_t workspace_bytes = 0;  // of Tensors::workspace
  std::function<void(const Tensors&, cudaStream_t)> launch;
};

inline LaunchPlan refuse(std::string reason) {
  LaunchPlan plan;
  plan.refusal = std::move(reason);
  return plan;
}

struct KernelRow {
  const char* name;  // that its launches have too
  Family family;
  Pass pass;
  DType dtype;
  Layout layout;
  int filter = 0;      // r == s that it is specialised for, 0 for any
  int stride = 0;      // likewise
  int min_arch = 75;   // 75, 80, 90, ...
  bool naive = false;  // one thread, one output: for what no fast kernel covers
  bool tensor_cores = false;
  std::string tile;
  // The dispatcher has compared the columns above with the problem and the device.
  LaunchPlan (*plan)(const KernelRow&, const ConvProblem&, const Device&);
};

using KernelRows = std::vector<KernelRow>;

template <typename T>
constexpr DType kDTypeOf = std::is_same_v<T, __half>          ? DType::kFloat16
                           : std::is_same_v<T, __nv_bfloat16> ? DType::kBFloat16
                           : std::is_same_v<T, float>         ? DType::kFloat32
                                                              : DType::kFloat64;

// The rows of a kernel for several types of element: rows_of.operator()<T>() returns those for one. It captures [&]:
// nvcc warns of lambdas of types that could become a pointer to a function.
template <typename... Ts, typename RowsOf>
KernelRows rows_of_types(const RowsOf& rows_of) {
  KernelRows rows;
  const auto add = [&](const KernelRows& more) { rows.insert(rows.end(), more.begin(), more.end()); };
  (add(rows_of.template operator()<Ts>()), ...);
  return rows;
}

template <typename RowsOf>
KernelRows rows_of_fast_types(const RowsOf& rows_of) {
  return rows_of_types<__half, __nv_bfloat16, float>(rows_of);
}

// A row for fprop, and the same kernel as a row for dgrad under a name of its own.
inline KernelRows with_dgrad(const KernelRow& fprop, const char* name) {
  KernelRow dgrad = fprop;
  dgrad.name = name;
  dgrad.pass = Pass::kDgrad;
  return {fprop, dgrad};
}

// The most shared memory that a block of any kernel takes: every device that runs code for sm_80 has it.
constexpr int64_t kMostSharedBytes = 96 * 1024;

// The reason why a block of so many bytes is refused, or nothing.
inline std::string shared_beyond(int64_t bytes) {
  if (bytes <= kMostSharedBytes) return {};
  return "a block would need " + std::to_string(bytes) + " bytes of shared memory, at most " +
         std::to_string(kMostSharedBytes);
}

inline bool at_boundary(const void* pointer, uintptr_t bytes = 16) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// Whether all rows of a tensor begin at 16-byte boundaries, if each has so many elements.
template <typename T>
bool rows_at_boundaries(const void* tensor, int64_t row_elements) {
  return at_boundary(tensor) && row_elements * static_cast<int64_t>(sizeof(T)) % 16 == 0;
}

// The plan that is one launch of a kernel, with the parameters params_of(tensors).
template <typename Params, typename ParamsOf>
LaunchPlan plan_launch_of(const KernelRow& row, void (*kernel)(Params), const LaunchShape& shape,
                          const ParamsOf& params_of) {
  LaunchPlan plan;
  plan.refusal = shared_beyond(static_cast<int64_t>(shape.shared_bytes));
  plan.shape = shape;
  plan.launch = [name = row.name, kernel, shape, params_of](const Tensors& tensors, cudaStream_t stream) {
    launch(name, kernel, shape, stream, params_of(tensors));
  };
  return plan;
}

// The same with parameters that only lack their tensors.
template <typename T, template <typename> class Params>
LaunchPlan plan_launch(const KernelRow& row, void (*kernel)(Params<T>), const LaunchShape& shape,
                       const Params<T>& params) {
  return plan_launch_of(row, kernel, shape,
                        [pass = row.pass, params](const Tensors& t) { return with_tensors(params, pass, t); });
}

}  // namespace convbound
