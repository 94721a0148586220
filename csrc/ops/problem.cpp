#include "csrc/ops/problem.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdio>
#include <stdexcept>
#include <string>

namespace convbound::ops {

namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;

void check_geometry(size_t dims, const Geometry& g) {
  STD_TORCH_CHECK(dims >= 1 && dims <= 3, "expected 1 to 3 spatial dimensions, got ", dims);
  STD_TORCH_CHECK(g.stride.size() == dims, "stride needs ", dims, " entries, got ", g.stride.size());
  STD_TORCH_CHECK(g.dilation.size() == dims, "dilation needs ", dims, " entries, got ", g.dilation.size());
  STD_TORCH_CHECK(g.padding.size() == 2 * dims, "padding needs ", 2 * dims, " entries, got ", g.padding.size());
  STD_TORCH_CHECK(g.groups >= 1, "groups must be at least 1, got ", g.groups);
  for (size_t i = 0; i < dims; i++) {
    STD_TORCH_CHECK(g.stride[i] >= 1, "stride must be at least 1, got ", g.stride[i]);
    STD_TORCH_CHECK(g.dilation[i] >= 1, "dilation must be at least 1, got ", g.dilation[i]);
    // A negative padding at the end crops, as the output_padding of a transposed convolution may ask for.
    STD_TORCH_CHECK(g.padding[2 * i] >= 0, "padding must not begin with a negative number, got ", g.padding[2 * i]);
  }
}

// Output positions along one axis. Kernels compute positions from sums of these products in 64 bits and may go a few
// strides or taps too far, for which limits of 2^61 leave room.
int64_t output_size(int64_t input, int64_t filter, int64_t stride, int64_t begin, int64_t end, int64_t dilation) {
  constexpr int64_t kMost = int64_t{1} << 61;
  STD_TORCH_CHECK(stride <= kMost, "stride=", stride, " is beyond 2^61");
  int64_t padded = 0, reach = 0;
  const bool wide = __builtin_add_overflow(input, begin, &padded) || __builtin_add_overflow(padded, end, &padded);
  STD_TORCH_CHECK(!wide && begin <= kMost && padded <= kMost, "padding=(", begin, ", ", end,
                  ") makes an input of more than 2^61 from one of ", input);
  const bool far = __builtin_mul_overflow(dilation, filter, &reach);
  STD_TORCH_CHECK(!far && reach <= kMost, "dilation=", dilation, " makes a filter of ", filter, " reach beyond 2^61");
  const int64_t span = padded - (reach - dilation) - 1;
  STD_TORCH_CHECK(span >= 0, "the filter is larger than the padded input");
  return span / stride + 1;
}

bool is_dense(const Tensor& tensor, const Shape& order) {
  int64_t expected = 1;
  for (const int64_t dim : order) {
    if (tensor.size(dim) != 1 && tensor.stride(dim) != expected) return false;
    expected *= tensor.size(dim);
  }
  return true;
}

// Dimensions from the innermost to the outermost.
Shape memory_order(int64_t dims, Layout layout) {
  Shape order;
  if (layout == Layout::kChannelsLast) order.push_back(1);
  for (int64_t dim = dims - 1; dim >= 2; dim--) order.push_back(dim);
  if (layout == Layout::kChannelsFirst) order.push_back(1);
  order.push_back(0);
  return order;
}

MemoryFormat memory_format(size_t dims, Layout layout) {
  if (layout == Layout::kChannelsFirst) return MemoryFormat::Contiguous;
  return dims == 5 ? MemoryFormat::ChannelsLast3d : MemoryFormat::ChannelsLast;
}

}  // namespace

Shape shape_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return Shape(sizes.begin(), sizes.end());
}

Shape output_shape(const Shape& x, const Shape& w, const Geometry& g) {
  STD_TORCH_CHECK(x.size() == w.size() && x.size() >= 3, "input and filter differ in dimensions: ", x.size(), " and ",
                  w.size());
  check_geometry(x.size() - 2, g);
  Shape y = {x[0], w[0]};
  for (size_t i = 0; i + 2 < x.size(); i++) {
    y.push_back(output_size(x[i + 2], w[i + 2], g.stride[i], g.padding[2 * i], g.padding[2 * i + 1], g.dilation[i]));
  }
  return y;
}

ConvProblem make_problem(const Shape& x, const Shape& w, const Shape& y, const Geometry& g) {
  STD_TORCH_CHECK(y == output_shape(x, w, g), "the output does not have the size of this convolution");
  STD_TORCH_CHECK(x[1] >= 1 && w[0] >= 1 && w[0] % g.groups == 0 && x[1] == w[1] * g.groups, "groups=", g.groups,
                  " do not fit ", x[1], " input channels and a filter of ", w[0], "x", w[1], " channels");
  ConvProblem p{.n = x[0],
                .c = x[1],
                .k = w[0],
                .groups = g.groups,
                .input = {1, 1, 1},
                .filter = {1, 1, 1},
                .output = {1, 1, 1},
                .stride = {1, 1, 1},
                .padding = {0, 0, 0},
                .dilation = {1, 1, 1}};
  const size_t dims = x.size() - 2;
  for (size_t i = 0; i < dims; i++) {
    const size_t axis = 3 - dims + i;
    STD_TORCH_CHECK(x[i + 2] >= 1 && w[i + 2] >= 1, "spatial sizes must be at least 1");
    p.input[axis] = x[i + 2];
    p.filter[axis] = w[i + 2];
    p.output[axis] = y[i + 2];
    p.stride[axis] = g.stride[i];
    p.padding[axis] = g.padding[2 * i];
    p.dilation[axis] = g.dilation[i];
  }
  return p;
}

DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Half:
      return DType::kFloat16;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Double:
      return DType::kFloat64;
    default:
      STD_TORCH_CHECK(false, "expected a tensor of fp16, bf16, fp32 or fp64");
  }
}

void throw_no_memory(const char* what, const Shape& shape, size_t element_bytes) {
  double bytes = double(element_bytes);  // more than an integer holds, perhaps
  std::string sizes;
  for (const int64_t size : shape) {
    bytes *= double(size);
    if (!sizes.empty()) sizes += 'x';
    sizes += std::to_string(size);
  }
  char text[64];
  std::snprintf(text, sizeof(text), "%.0f", bytes);
  throw std::runtime_error(std::string("out of memory: torch could not allocate ") + text + " bytes for " + what +
                           " of " + sizes);
}

Tensor dense(const Tensor& tensor, Layout layout) {
  if (is_dense(tensor, memory_order(tensor.dim(), layout))) return tensor;
  if (tensor.dim() == 3 && layout == Layout::kChannelsLast) {
    return torch::stable::squeeze(dense(torch::stable::unsqueeze(tensor, 2), layout), 2);
  }
  try {
    return torch::stable::contiguous(tensor, memory_format(tensor.dim(), layout));
  } catch (const std::exception&) {
    throw_no_memory("a dense copy of a tensor", shape_of(tensor), tensor.element_size());
  }
}

Tensor empty_dense(const Shape& shape, Layout layout, const Tensor& like) {
  if (shape.size() == 3 && layout == Layout::kChannelsLast) {
    return torch::stable::squeeze(empty_dense({shape[0], shape[1], 1, shape[2]}, layout, like), 2);
  }
  try {
    return torch::stable::empty(shape, like.scalar_type(), std::nullopt, like.device(), std::nullopt,
                                memory_format(shape.size(), layout));
  } catch (const std::exception&) {
    throw_no_memory("a result", shape, like.element_size());
  }
}

}  // namespace convbound::ops
