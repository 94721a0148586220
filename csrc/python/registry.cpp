// The registry of CUDA kernels for Python: which row would serve a problem on a device. Nothing is run.
#include <pybind11/stl.h>

#include <tuple>

#include "csrc/dispatch/device.h"
#include "csrc/python/device.h"

namespace convbound::python {

namespace {

namespace py = pybind11;

py::dict describe(const KernelRow& row) {
  constexpr const char* kFamilies[] = {"depthwise", "grouped", "dilated", "transposed", "naive"};
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
  text["tile"] = row.tile;
  return text;
}

py::dict describe(const KernelRow& row, const ConvProblem& problem) {
  const LaunchShape shape = row.shape(problem);
  py::dict text = describe(row);
  text["grid"] = std::tuple(shape.grid_x, shape.grid_y, shape.grid_z);
  text["block"] = std::tuple(shape.block_x, shape.block_y, shape.block_z);
  text["shared_bytes"] = shape.shared_bytes;
  text["workspace_bytes"] = row.workspace(problem);
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
      [](Pass pass, const ConvProblem& problem, DType dtype, Layout layout, int arch, size_t shared) -> py::object {
        const KernelRow* row = device::select(pass, problem, dtype, layout, {arch, shared});
        return row == nullptr ? py::object(py::none()) : describe(*row, problem);
      },
      py::arg("pass_"), py::arg("problem"), py::arg("dtype"), py::arg("layout"), py::arg("arch"),
      py::arg("shared_per_block"), "The row that would serve the problem on such a device and its launch, or None.");
  m.def(
      "device_serves",
      [](size_t row, const ConvProblem& problem, int arch, size_t shared) {
        return device::serves(row_at(row), problem, {arch, shared});
      },
      py::arg("row"), py::arg("problem"), py::arg("arch"), py::arg("shared_per_block"),
      "Whether the row with this index could compute the problem on such a device.");
  m.def(
      "device_launch", [](size_t row, const ConvProblem& problem) { return describe(row_at(row), problem); },
      py::arg("row"), py::arg("problem"), "The row with this index and its launch for a problem that it serves.");
}

}  // namespace convbound::python
