// The ops convbound::<backend>_fprop, _dgrad and _wgrad, against torch's stable ABI. Compiled once for each backend,
// with its name in CONVBOUND_BACKEND and torch's dispatch key in CONVBOUND_KEY.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>

#include "csrc/ops/problem.h"
#include "csrc/ops/run.h"
#include "csrc/ops/schema.h"
#include "csrc/ops/workspace.h"

#define CONVBOUND_TEXT_OF(name) #name
#define CONVBOUND_TEXT(name) CONVBOUND_TEXT_OF(name)
#define CONVBOUND_OP(pass) CONVBOUND_TEXT(CONVBOUND_BACKEND) "_" #pass

namespace convbound::ops {

namespace {

using Ints = std::vector<int64_t>;

Layout layout_of(bool channels_last) { return channels_last ? Layout::kChannelsLast : Layout::kChannelsFirst; }

int device_of(const Tensor& tensor) { return int(tensor.get_device_index()); }

void check_alike(const Tensor& a, const Tensor& b) {
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type(), "tensors differ in dtype");
  STD_TORCH_CHECK(device_of(a) == device_of(b), "tensors are on different devices");
}

// A dense bias of the given length, or nothing.
std::optional<Tensor> dense_bias(const std::optional<Tensor>& bias, int64_t length, const Tensor& like) {
  if (!bias) return std::nullopt;
  check_alike(*bias, like);
  STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == length, "bias needs ", length, " elements");
  return torch::stable::contiguous(*bias);
}

void* data(const std::optional<Tensor>& tensor) { return tensor ? tensor->data_ptr() : nullptr; }

Tensor fprop(const Tensor& x, const Tensor& w, const std::optional<Tensor>& bias, Ints stride, Ints padding,
             Ints dilation, int64_t groups, bool channels_last) {
  const Layout layout = layout_of(channels_last);
  const Geometry geometry{stride, padding, dilation, groups};
  check_alike(x, w);
  const Shape y_shape = output_shape(shape_of(x), shape_of(w), geometry);
  const ConvProblem problem = make_problem(shape_of(x), shape_of(w), y_shape, geometry);
  const Tensor xd = dense(x, layout), wd = dense(w, layout);
  const std::optional<Tensor> bd = dense_bias(bias, problem.k, x);
  Tensor y = empty_dense(y_shape, layout, x);
  Workspace workspace(x);
  run(Pass::kFprop, problem, dtype_of(x), layout, device_of(x), {xd.data_ptr(), wd.data_ptr(), y.data_ptr(), data(bd)},
      std::ref(workspace));
  return y;
}

Tensor dgrad(const Tensor& dy, const Tensor& w, const std::optional<Tensor>& bias, Ints input_size, Ints stride,
             Ints padding, Ints dilation, int64_t groups, bool channels_last) {
  const Layout layout = layout_of(channels_last);
  const Geometry geometry{stride, padding, dilation, groups};
  check_alike(dy, w);
  STD_TORCH_CHECK(dy.dim() >= 3 && w.dim() == dy.dim(), "dy and filter differ in dimensions");
  STD_TORCH_CHECK(groups >= 1 && w.size(0) % groups == 0, "groups=", groups, " do not divide ", w.size(0), " filters");
  Shape x_shape = {dy.size(0), w.size(1) * groups};
  x_shape.insert(x_shape.end(), input_size.begin(), input_size.end());
  const ConvProblem problem = make_problem(x_shape, shape_of(w), shape_of(dy), geometry);
  const Tensor yd = dense(dy, layout), wd = dense(w, layout);
  const std::optional<Tensor> bd = dense_bias(bias, problem.c, dy);
  Tensor dx = empty_dense(x_shape, layout, dy);
  Workspace workspace(dy);
  run(Pass::kDgrad, problem, dtype_of(dy), layout, device_of(dy),
      {dx.data_ptr(), wd.data_ptr(), yd.data_ptr(), data(bd)}, std::ref(workspace));
  return dx;
}

std::tuple<Tensor, Tensor> wgrad(const Tensor& dy, const Tensor& x, Ints filter_size, Ints stride, Ints padding,
                                 Ints dilation, int64_t groups, bool bias_grad, bool channels_last) {
  const Layout layout = layout_of(channels_last);
  const Geometry geometry{stride, padding, dilation, groups};
  check_alike(dy, x);
  STD_TORCH_CHECK(x.dim() >= 3 && dy.dim() == x.dim(), "dy and x differ in dimensions");
  STD_TORCH_CHECK(groups >= 1 && x.size(1) % groups == 0, "groups=", groups, " do not divide ", x.size(1), " channels");
  Shape w_shape = {dy.size(1), x.size(1) / groups};
  w_shape.insert(w_shape.end(), filter_size.begin(), filter_size.end());
  const ConvProblem problem = make_problem(shape_of(x), w_shape, shape_of(dy), geometry);
  const Tensor yd = dense(dy, layout), xd = dense(x, layout);
  Tensor dw = empty_dense(w_shape, layout, x);
  Tensor dbias = torch::stable::new_empty(x, Shape{bias_grad ? problem.k : 0});
  Workspace workspace(x);
  run(Pass::kWgrad, problem, dtype_of(x), layout, device_of(x),
      {xd.data_ptr(), dw.data_ptr(), yd.data_ptr(), bias_grad ? dbias.data_ptr() : nullptr}, std::ref(workspace));
  return {dw, dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(convbound, m) {
  m.def(CONVBOUND_OP(fprop) CONVBOUND_FPROP_SCHEMA);
  m.def(CONVBOUND_OP(dgrad) CONVBOUND_DGRAD_SCHEMA);
  m.def(CONVBOUND_OP(wgrad) CONVBOUND_WGRAD_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(convbound, CONVBOUND_KEY, m) {
  m.impl(CONVBOUND_OP(fprop), TORCH_BOX(&fprop));
  m.impl(CONVBOUND_OP(dgrad), TORCH_BOX(&dgrad));
  m.impl(CONVBOUND_OP(wgrad), TORCH_BOX(&wgrad));
}

}  // namespace convbound::ops
