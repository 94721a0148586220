// What every native CPU kernel looks like to the dispatcher.
#pragma once

#include "csrc/conv_problem.h"
#include "csrc/cpu/isa.h"

namespace convbound::cpu {

using convbound::Tensors;

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
