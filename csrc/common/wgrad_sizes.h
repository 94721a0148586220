// The sizes of a depthwise wgrad as its kernels walk through it: rows and columns instead of axes. Host code.
#pragma once

#include <cstdint>

#include "csrc/conv_problem.h"

namespace convbound {

constexpr int divide_up(int64_t value, int64_t by) { return static_cast<int>((value + by - 1) / by); }

struct WgradSizes {
  int channels, multiplier;  // of dy; of them per channel of x
  int h, w, p, q, r, s;
  int stride_h, stride_w, dilation_h, dilation_w, padding_h, padding_w;
  int64_t x_image, x_row, x_column, dy_image, dy_row, dy_column;  // strides in elements
  int64_t outputs;                                                // filter and bias
};

// In NHWC rows and columns are alike, so a sequence (NLC) becomes rows, along which the kernels walk.
inline WgradSizes wgrad_sizes(const ConvProblem& problem, Layout layout) {
  const bool last = layout == Layout::kChannelsLast, swap = last && problem.input[1] == 1 && problem.filter[1] == 1;
  const int a = swap ? 2 : 1, b = swap ? 1 : 2;
  const auto at = [](const int64_t (&values)[3], int axis) { return static_cast<int>(values[axis]); };
  const int64_t x_channels = last ? problem.c : 1, dy_channels = last ? problem.k : 1;
  const int64_t x_strides[3] = {0, problem.input[2] * x_channels, x_channels};
  const int64_t dy_strides[3] = {0, problem.output[2] * dy_channels, dy_channels};
  WgradSizes sizes{};
  sizes.channels = static_cast<int>(problem.k), sizes.multiplier = static_cast<int>(problem.k_per_group());
  sizes.h = at(problem.input, a), sizes.w = at(problem.input, b);
  sizes.p = at(problem.output, a), sizes.q = at(problem.output, b);
  sizes.r = at(problem.filter, a), sizes.s = at(problem.filter, b);
  sizes.stride_h = at(problem.stride, a), sizes.stride_w = at(problem.stride, b);
  sizes.dilation_h = at(problem.dilation, a), sizes.dilation_w = at(problem.dilation, b);
  sizes.padding_h = at(problem.padding, a), sizes.padding_w = at(problem.padding, b);
  sizes.x_row = x_strides[a], sizes.x_column = x_strides[b], sizes.x_image = problem.c * problem.input_size();
  sizes.dy_row = dy_strides[a], sizes.dy_column = dy_strides[b], sizes.dy_image = problem.k * problem.output_size();
  sizes.outputs = problem.k * (problem.filter_size() + 1);
  return sizes;
}

}  // namespace convbound
