// The registry of CUDA kernels for Python: which row would serve a problem on a device. Nothing is run.
#include <pybind11/stl.h>

#include <tuple>

#include "csrc/dispatch/device.h"
#include "csrc/python/device.h"

namespace convbound::python {

namespace {

namespace py = pybind11;

py::dict describe(const KernelRow& row) {
  constexpr const char* kFamilies[] = {"depthwise", "grouped", "dilated", "transposed", "any"};
  py::dict text;
  text["index"] = &row - device::rows().data();
  text["name"] = row.name;
  text["family"] = kFamilies[static_cast<int>(row.family)];
  text["pass"] = row.pass;
  text["dtype"] = row.dtype;
  text["layout"] = row.layout;
  text["filter"] = row.filter;
  text["stride"] = row.stride;
  text["min_arch"] = row.min_arch;
  text["naive"] = row.naive;
  text["tensor_cores"] = row.tensor_cores;
  text["tile"] = row.tile;
  return text;
}

py::dict describe(const KernelRow& row, const LaunchPlan& plan) {
  py::dict text = describe(row);
  text["grid"] = std::tuple(plan.shape.grid_x, plan.shape.grid_y, plan.shape.grid_z);
  text["block"] = std::tuple(plan.shape.block_x, plan.shape.block_y, plan.shape.block_z);
  text["shared_bytes"] = plan.shape.shared_bytes;
  text["workspace_bytes"] = plan.workspace_bytes;
  return text;
}

}  // namespace

const KernelRow& row_at(size_t index) {
  if (index >= device::rows().size()) throw py::index_error("there is no row " + std::to_string(index));
  return device::rows()[index];
}

void bind_registry(py::module_& m) {
  m.def(
      "device_kernels",
      [] {
        py::list rows;
        for (const KernelRow& row : device::rows()) rows.append(describe(row));
        return rows;
      },
      "The rows of the registry of CUDA kernels, the preferred first.");
  m.def(
      "device_select",
      [](Pass pass, const ConvProblem& problem, DType dtype, Layout layout, int arch, size_t shared,
         int sms) -> py::object {
        const device::Choice choice = device::select(pass, problem, dtype, layout, {arch, shared, sms});
        if (choice.row == nullptr) return py::none();
        py::dict text = describe(*choice.row, choice.plan);
        py::list refused;
        for (const auto& [row, reason] : choice.refused) refused.append(std::tuple(row->name, reason));
        text["refused"] = refused;
        return text;
      },
      py::arg("pass_"), py::arg("problem"), py::arg("dtype"), py::arg("layout"), py::arg("arch"),
      py::arg("shared_per_block"), py::arg("sms"),
      "The row that would serve the problem on such a device, its launch, and the rows above it with the reasons why "
      "they do not; or None.");
  m.def(
      "device_plan",
      [](size_t row, const ConvProblem& problem, int arch, size_t shared, int sms) -> py::object {
        const LaunchPlan plan = device::plan(row_at(row), problem, {arch, shared, sms});
        return plan.refusal.empty() ? py::object(describe(row_at(row), plan)) : py::str(plan.refusal);
      },
      py::arg("row"), py::arg("problem"), py::arg("arch"), py::arg("shared_per_block"), py::arg("sms"),
      "The launch of the row with this index for the problem on such a device, or the reason why it does not serve "
      "it.");
}

}  // namespace convbound::python
