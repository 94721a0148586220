// Makes the axes of depthwise_axes.h from a problem.
#pragma once

#include <vector>

#include "csrc/conv_problem.h"
#include "csrc/cpu/depthwise_axes.h"

namespace convbound::cpu {

// A window axis (pass: fprop, which serves wgrad too, or dgrad) and what it points to.
struct Window {
  WindowAxis axis;
  std::vector<TapPass> passes;
  std::vector<WindowClass> classes;

  Window(const ConvProblem& problem, Pass pass, int axis);
  Window(const Window&) = delete;
};

struct Cross {
  CrossAxis axis;
  std::vector<CrossClass> classes;

  Cross(const ConvProblem& problem, Pass pass, int axis);
  Cross(const Cross&) = delete;
};

Reach make_reach(const ConvProblem& problem, Pass pass, int axis);

// Whether a problem is depthwise with any channel multiplier, and its sizes, padding and reach are up to 2^29 along
// each axis, its strides up to 2^24: the kernels compare columns in 32 bits, those of a vector's lanes too.
bool depthwise_axes_support(const ConvProblem& problem);

}  // namespace convbound::cpu
