// What every CUDA C++ kernel instance looks like to the dispatcher: one row of csrc/registry/kernels.inc.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "csrc/common/launch.h"
#include "csrc/conv_problem.h"

namespace convbound {

enum class Family : int { kDepthwise, kGrouped, kDilated, kTransposed, kNaive };

// The tensors of a problem by name, whichever of them the pass writes: fprop reads x, w and bias [k] and writes y;
// dgrad reads y (that is, dy), w and bias [c] and writes x; wgrad reads x and y and writes w and bias [k]. bias may be
// null. All are dense in the problem's layout, with no promise about alignment beyond that of an element.
struct DeviceTensors {
  void* x;
  void* w;
  void* y;
  void* bias;
};

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
  void (*launch)(const ConvProblem&, const DeviceTensors&, cudaStream_t);
};

}  // namespace convbound
