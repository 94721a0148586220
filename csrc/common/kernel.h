// What every CUDA C++ kernel instance looks like to the dispatcher: one row of csrc/registry/kernels.inc.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "csrc/common/launch.h"
#include "csrc/conv_problem.h"

namespace convbound {

enum class Family : int { kDepthwise, kGrouped, kDilated, kTransposed, kNaive };

struct KernelRow {
  const char* name;
  Family family;
  Pass pass;
  DType dtype;
  Layout layout;
  int filter;    // r == s that it is specialised for, 0 for any
  int stride;    // likewise
  int min_arch;  // 75, 80, 90, ...
  const char* tile;
  // What depends on the problem only; alignment is looked at in `launch`.
  bool (*supports)(const ConvProblem&);
  LaunchShape (*shape)(const ConvProblem&);
  size_t (*workspace)(const ConvProblem&);  // bytes of Tensors::workspace that the launch needs
  void (*launch)(const ConvProblem&, const Tensors&, cudaStream_t);
};

inline size_t no_workspace(const ConvProblem&) { return 0; }

}  // namespace convbound
