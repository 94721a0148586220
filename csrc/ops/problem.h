// From an op's arguments to a ConvProblem. Python validates for users and words its errors for them; the checks here
// keep a direct call of an op from reading outside its tensors.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "csrc/conv_problem.h"

namespace convbound::ops {

using torch::stable::Tensor;

struct Geometry {
  const std::vector<int64_t>& stride;
  const std::vector<int64_t>& padding;  // begin, end per axis
  const std::vector<int64_t>& dilation;
  int64_t groups;
};

// Shapes are [n, c, *input], [k, c / groups, *filter] and [n, k, *output], with one to three spatial sizes.
using Shape = std::vector<int64_t>;

Shape shape_of(const Tensor& tensor);

// [n, k, *output] for an input and a filter of the given shapes.
Shape output_shape(const Shape& x, const Shape& w, const Geometry& geometry);

// The problem of the three shapes; throws where they do not belong together.
ConvProblem make_problem(const Shape& x, const Shape& w, const Shape& y, const Geometry& geometry);

DType dtype_of(const Tensor& tensor);

// Throws what a caller of ours reads where torch could not allocate: torch's stable interface drops its own words.
[[noreturn]] void throw_no_memory(const char* what, const Shape& shape, size_t element_bytes);

// The tensor, dense in the layout; a copy unless it is so already. One spatial dimension has the layouts NCL and NLC.
Tensor dense(const Tensor& tensor, Layout layout);

// An uninitialised tensor of the shape, dense in the layout, with dtype and device of `like`.
Tensor empty_dense(const Shape& shape, Layout layout, const Tensor& like);

}  // namespace convbound::ops
