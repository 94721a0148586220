// convbound._introspect: which kernel would serve a problem, without torch and without running anything.
#include <pybind11/native_enum.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>

#include "csrc/cpu/parallel.h"
#include "csrc/dispatch/cpu.h"
#include "csrc/python/device.h"

namespace {
int64_t threads = 1;  // that cpu_run stands for
}

// No thread pool: what torch's would give to so many threads is done one after another.
void convbound::cpu::run_parallel(int64_t count, int64_t grain, RangeBody body, void* context) {
  if (count <= 0) return;
  const int64_t ranges = std::min(threads, (count + grain - 1) / std::max<int64_t>(grain, 1));
  const int64_t length = (count + ranges - 1) / ranges;
  for (int64_t begin = 0; begin < count; begin += length) body(context, begin, std::min(begin + length, count));
}
int convbound::cpu::max_threads() { return int(threads); }

extern "C" const char* convbound_source_hash();  // ops/build_hash.cpp

namespace {

namespace py = pybind11;
using namespace convbound;
using Triple = std::array<int64_t, 3>;

ConvProblem make_problem(int64_t n, int64_t c, int64_t k, int64_t groups, const Triple& input, const Triple& filter,
                         const Triple& output, const Triple& stride, const Triple& padding, const Triple& dilation) {
  ConvProblem p{};
  p.n = n, p.c = c, p.k = k, p.groups = groups;
  const auto copy = [](const Triple& from, int64_t (&to)[3]) { std::copy(from.begin(), from.end(), to); };
  copy(input, p.input);
  copy(filter, p.filter);
  copy(output, p.output);
  copy(stride, p.stride);
  copy(padding, p.padding);
  copy(dilation, p.dilation);
  return p;
}

py::dict describe(const cpu::Kernel& kernel) {
  constexpr const char* kPasses[] = {"fprop", "dgrad", "wgrad"};
  py::dict row;
  row["name"] = kernel.name;
  row["pass"] = kPasses[int(kernel.pass)];
  row["naive"] = kernel.naive;
  return row;
}

const cpu::Kernel& kernel_at(size_t index) {
  if (index >= cpu::kernels().size()) throw py::index_error("there is no row " + std::to_string(index));
  return cpu::kernels()[index];
}

}  // namespace

PYBIND11_MODULE(_introspect, m) {
  m.doc() = "Which kernel would serve a problem; see convbound.explain.";
  py::native_enum<Pass>(m, "Pass", "enum.Enum")
      .value("fprop", Pass::kFprop)
      .value("dgrad", Pass::kDgrad)
      .value("wgrad", Pass::kWgrad)
      .finalize();
  py::native_enum<DType>(m, "DType", "enum.Enum")
      .value("fp16", DType::kFloat16)
      .value("bf16", DType::kBFloat16)
      .value("fp32", DType::kFloat32)
      .value("fp64", DType::kFloat64)
      .finalize();
  py::native_enum<Layout>(m, "Layout", "enum.Enum")
      .value("NCHW", Layout::kChannelsFirst)
      .value("NHWC", Layout::kChannelsLast)
      .finalize();
  py::class_<ConvProblem>(m, "ConvProblem")
      .def(py::init(&make_problem), py::kw_only(), py::arg("n"), py::arg("c"), py::arg("k"), py::arg("groups"),
           py::arg("input"), py::arg("filter"), py::arg("output"), py::arg("stride"), py::arg("padding"),
           py::arg("dilation"))
      .def("__str__", [](const ConvProblem& problem) { return to_string(problem); });
  m.def("source_hash", &convbound_source_hash, "The hash of the sources that this module was built from.");
  m.def(
      "cpu_isa", [] { return cpu::isa_name(cpu::isa()); },
      "The instruction set that the CPU kernels use now: generic, avx2 or avx512 (lowered by CONVBOUND_CPU_ISA).");
  m.def(
      "cpu_kernels",
      [] {
        py::list rows;
        for (const cpu::Kernel& kernel : cpu::kernels()) rows.append(describe(kernel));
        return rows;
      },
      "The rows of the CPU kernel table, the preferred first: name, pass, naive.");
  m.def(
      "cpu_select",
      [](Pass pass, const ConvProblem& problem, DType dtype, Layout layout) {
        return describe(cpu::select(pass, problem, dtype, layout, cpu::isa()));
      },
      py::arg("pass_"), py::arg("problem"), py::arg("dtype"), py::arg("layout"),
      "The row that would serve the problem on this CPU.");
  m.def(
      "cpu_serves",
      [](size_t row, const ConvProblem& problem, DType dtype, Layout layout) {
        return kernel_at(row).supports(problem, dtype, layout, cpu::isa());
      },
      py::arg("row"), py::arg("problem"), py::arg("dtype"), py::arg("layout"),
      "Whether the row with this index could compute the problem on this CPU.");
  m.def(
      "cpu_run",
      [](size_t row, const ConvProblem& problem, DType dtype, Layout layout, uintptr_t x, uintptr_t w, uintptr_t y,
         uintptr_t bias, int64_t as_threads) {
        const auto pointer = [](uintptr_t address) { return reinterpret_cast<void*>(address); };
        threads = std::max<int64_t>(as_threads, 1);
        kernel_at(row).run(problem, dtype, layout, {pointer(x), pointer(w), pointer(y), pointer(bias)});
      },
      py::arg("row"), py::arg("problem"), py::arg("dtype"), py::arg("layout"), py::arg("x"), py::arg("w"), py::arg("y"),
      py::arg("bias"), py::arg("threads") = 1,
      "Runs the row with this index on tensors at these addresses (bias may be 0), which have to be dense in the "
      "layout, in as many parts as so many threads would.");
#if CONVBOUND_SIMT
  python::bind_emulator(m);
#endif
#if CONVBOUND_REGISTRY
  python::bind_registry(m);
#endif
}
