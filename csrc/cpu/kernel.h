// What every native CPU kernel looks like to the dispatcher.
#pragma once

#include "csrc/conv_problem.h"
#include "csrc/cpu/isa.h"

namespace convbound::cpu {

// The tensors of a problem by name, whichever of them the pass writes: fprop reads x, w and bias [k] and writes y;
// dgrad reads y (that is, dy), w and bias [c] and writes x; wgrad reads x and y and writes w and bias [k]. bias may be
// null. All are dense in the problem's layout, with no promise about alignment beyond that of an element.
struct Tensors {
  void* x;
  void* w;
  void* y;
  void* bias;
};

using Supports = bool (*)(const ConvProblem&, DType, Layout, Isa);
using Run = void (*)(const ConvProblem&, DType, Layout, const Tensors&);

struct Kernel {
  const char* name;
  Pass pass;
  bool naive;  // one thread, one output, no tuning: `auto` does not choose it
  Supports supports;
  Run run;
};

}  // namespace convbound::cpu
