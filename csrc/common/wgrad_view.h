// A depthwise wgrad as its kernels walk through it: the problem as it stands, and how far apart its elements lie.
#pragma once

#include <utility>

#include "csrc/common/view.h"

namespace convbound {

// Elements from one image, row and column of a tensor to the next.
struct TensorSteps {
  int64_t image, row, column;
};

struct WgradView : ConvView {
  TensorSteps x, dy;
  int64_t results;  // filter and bias
};

// In NHWC rows and columns are alike, so a sequence (NLC) becomes rows, along which the kernels walk.
inline WgradView wgrad_view(const ConvProblem& problem, Layout layout) {
  const bool last = layout == Layout::kChannelsLast;
  const int64_t x_channels = last ? problem.c : 1, dy_channels = last ? problem.k : 1;
  WgradView view{view_of(problem),
                 {problem.c * problem.input_size(), problem.input[2] * x_channels, x_channels},
                 {problem.k * problem.output_size(), problem.output[2] * dy_channels, dy_channels},
                 problem.k * (problem.filter_size() + 1)};
  if (last && problem.input[1] == 1 && problem.filter[1] == 1) {
    std::swap(view.h, view.w);
    std::swap(view.x.row, view.x.column);
    std::swap(view.dy.row, view.dy.column);
  }
  return view;
}

}  // namespace convbound
