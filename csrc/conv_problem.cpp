#include "csrc/conv_problem.h"

namespace convbound {

std::string to_string(const ConvProblem& p) {
  const auto trivial = [&](int axis) {
    return p.input[axis] == 1 && p.filter[axis] == 1 && p.output[axis] == 1 && p.stride[axis] == 1 &&
           p.padding[axis] == 0 && p.dilation[axis] == 1;
  };
  const int first = !trivial(0) ? 0 : !trivial(1) ? 1 : 2;
  std::string text = "mb" + std::to_string(p.n) + "g" + std::to_string(p.groups);
  const auto add = [&](const char* letter, const int64_t (&values)[3]) {
    for (int axis = first; axis < 3; axis++)
      text += letter + std::string(1, "dhw"[axis]) + std::to_string(values[axis]);
  };
  int64_t end[3];
  for (int axis = 0; axis < 3; axis++) {
    const int64_t reach = (p.output[axis] - 1) * p.stride[axis] + (p.filter[axis] - 1) * p.dilation[axis] + 1;
    end[axis] = reach - p.input[axis] - p.padding[axis];
  }
  text += "ic" + std::to_string(p.c);
  add("i", p.input);
  text += "oc" + std::to_string(p.k);
  add("k", p.filter);
  add("s", p.stride);
  add("p", p.padding);
  add("e", end);
  add("d", p.dilation);
  return text;
}

}  // namespace convbound
