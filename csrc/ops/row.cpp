// The op convbound::<backend>_run_row, for tests: one row of the registry, by its index, into tensors of the caller.
// Compiled once for each backend that has CUDA kernels, as passes.cpp is.
#include <torch/csrc/stable/library.h>

#include <optional>

#include "csrc/dispatch/device.h"
#include "csrc/ops/problem.h"
#include "csrc/ops/run_row.h"
#include "csrc/ops/workspace.h"

#define CONVBOUND_TEXT_OF(name) #name
#define CONVBOUND_TEXT(name) CONVBOUND_TEXT_OF(name)
#define CONVBOUND_RUN_ROW CONVBOUND_TEXT(CONVBOUND_BACKEND) "_run_row"

namespace convbound::ops {

namespace {

using Ints = std::vector<int64_t>;

// Any of the tensors may be the one that the row writes. Nothing is copied: a row reads and writes where it is told.
void run_row_op(int64_t index, Tensor x, Tensor w, Tensor y, std::optional<Tensor> bias, Ints stride, Ints padding,
                Ints dilation, int64_t groups) {
  const std::span<const KernelRow> rows = device::rows();
  STD_TORCH_CHECK(index >= 0 && index < int64_t(rows.size()), "there is no row ", index, ", only ", rows.size());
  const KernelRow& row = rows[size_t(index)];
  const ConvProblem problem = make_problem(shape_of(x), shape_of(w), shape_of(y), {stride, padding, dilation, groups});
  const int32_t device = x.get_device_index();
  for (const Tensor& tensor : {x, w, y}) {
    STD_TORCH_CHECK(dtype_of(tensor) == row.dtype, row.name, " takes another dtype");
    STD_TORCH_CHECK(tensor.get_device_index() == device, "tensors are on different devices");
    STD_TORCH_CHECK(dense(tensor, row.layout).data_ptr() == tensor.data_ptr(), row.name, " takes another layout");
  }
  if (bias) {
    const int64_t length = row.pass == Pass::kDgrad ? problem.c : problem.k;
    STD_TORCH_CHECK(dtype_of(*bias) == row.dtype && bias->get_device_index() == device && bias->dim() == 1 &&
                        bias->size(0) == length && bias->is_contiguous(),
                    "bias needs ", length, " elements in a row, with dtype and device of x");
  }
  Workspace workspace(x);
  run_row(row, problem, device, {x.data_ptr(), w.data_ptr(), y.data_ptr(), bias ? bias->data_ptr() : nullptr},
          std::ref(workspace));
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(convbound, m) {
  m.def(CONVBOUND_RUN_ROW
        "(int row, Tensor(a!) x, Tensor(b!) w, Tensor(c!) y, Tensor(d!)? bias, SymInt[] stride, SymInt[] padding, "
        "SymInt[] dilation, SymInt groups) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(convbound, CONVBOUND_KEY, m) { m.impl(CONVBOUND_RUN_ROW, TORCH_BOX(&run_row_op)); }

}  // namespace convbound::ops
