// Running a CUDA kernel in the emulator from Python, with every access seen.
#include "csrc/python/device.h"

#include <pybind11/stl.h>

#include <cstddef>
#include <tuple>
#include <vector>

#include "csrc/dispatch/simt.h"
#include "csrc/simt/profile.h"

namespace convbound::python {

namespace {

namespace py = pybind11;

const char* name_of(simt::AccessKind kind) {
  switch (kind) {
    case simt::AccessKind::kLoad:
      return "load";
    case simt::AccessKind::kStore:
      return "store";
    case simt::AccessKind::kAsyncLoad:
      return "cp.async.ca";
    case simt::AccessKind::kAsyncLoadBypass:
      return "cp.async.cg";
    case simt::AccessKind::kAsyncStore:
      return "cp.async";
  }
  return "";
}

py::dict describe(const simt::SiteTrace& site) {
  const bool global = site.space == simt::Space::kGlobal;
  py::dict text;
  text["pc"] = site.pc;
  text["location"] = site.location;
  text["frames"] = site.frames;
  text["tensor"] = site.tensor;
  text["space"] = global ? "global" : "shared";
  text["kind"] = name_of(site.kind);
  text["width"] = site.bytes;
  text["accesses"] = site.accesses;
  text["requests"] = site.requests;
  text["transactions"] = global ? site.sectors : site.wavefronts;
  text["ideal"] = global ? site.ideal_sectors : site.ideal_wavefronts;
  return text;
}

py::bytes bytes_of(const std::vector<uint32_t>& counts) {
  return {reinterpret_cast<const char*>(counts.data()), counts.size() * sizeof(uint32_t)};
}

py::dict describe(const simt::LaunchTrace& trace) {
  py::dict text;
  text["kernel"] = trace.kernel;
  text["grid"] = std::tuple(trace.grid.x, trace.grid.y, trace.grid.z);
  text["block"] = std::tuple(trace.block.x, trace.block.y, trace.block.z);
  text["shared_bytes"] = trace.shared_bytes;
  text["resident_blocks"] = trace.resident_blocks;
  text["l1_share"] = trace.l1_share;
  text["blocks"] = trace.blocks;
  text["blocks_in_l1"] = trace.blocks_in_l1;
  text["load_bytes"] = trace.load_bytes;
  text["store_bytes"] = trace.store_bytes;
  text["compulsory_bytes"] = trace.compulsory_bytes;
  text["dram_bytes"] = trace.dram_bytes;
  text["filled_bytes"] = trace.filled_bytes;
  text["loaded_bytes_by_width"] = trace.loaded_bytes_by_width;
  text["stored_bytes_by_width"] = trace.stored_bytes_by_width;
  py::list sites;
  for (const simt::SiteTrace& site : trace.sites) sites.append(describe(site));
  text["sites"] = sites;
  py::dict sectors;  // by tensor: how often each was requested, and moved between SMs and L2
  for (const simt::TensorTrace& tensor : trace.tensors) {
    sectors[tensor.tensor.c_str()] = std::tuple(bytes_of(tensor.requested), bytes_of(tensor.moved));
  }
  text["sectors"] = sectors;
  text["traffic_ratio"] = trace.traffic_ratio();
  text["coalescing"] = trace.coalescing();
  text["bank_conflicts"] = trace.bank_conflicts();
  text["report"] = to_string(trace);
  return text;
}

}  // namespace

void bind_emulator(py::module_& m) {
  m.def(
      "simt_profile",
      [](const std::string& name) {
        const simt::Profile& profile = simt::find_profile(name);
        return std::tuple(10 * profile.major + profile.minor, profile.shared_per_block_optin, profile.sm_count);
      },
      py::arg("name"), "Architecture, shared memory per block and multiprocessors of a profile of the emulator.");
  m.def(
      "simt_run",
      [](Pass pass, const ConvProblem& problem, DType dtype, Layout layout, uintptr_t x, uintptr_t w, uintptr_t y,
         uintptr_t bias, const std::string& options, std::optional<size_t> row) {
        const auto pointer = [](uintptr_t address) { return reinterpret_cast<void*>(address); };
        std::vector<std::byte> workspace;
        const auto allocate = [&](size_t bytes) {
          constexpr uintptr_t kAlignment = 256;  // as cudaMalloc does: sectors are then counted alike each time
          workspace.resize(bytes + kAlignment);
          const auto begin = reinterpret_cast<uintptr_t>(workspace.data());
          return pointer((begin + kAlignment - 1) / kAlignment * kAlignment);
        };
        simt::Call call{pass,     problem, dtype, layout, {pointer(x), pointer(w), pointer(y), pointer(bias)},
                        allocate, nullptr};
        if (row) call.row = &row_at(*row);
        std::vector<simt::LaunchTrace> traces;
        {
          const py::gil_scoped_release released;
          traces = simt::run(call, simt::parse_options(options));
          for (simt::LaunchTrace& trace : traces) trace.locate();
        }
        py::list found;
        for (const simt::LaunchTrace& trace : traces) found.append(describe(trace));
        return found;
      },
      py::arg("pass_"), py::arg("problem"), py::arg("dtype"), py::arg("layout"), py::arg("x"), py::arg("w"),
      py::arg("y"), py::arg("bias"), py::arg("options"), py::arg("row") = py::none(),
      "Runs a pass in the emulator on tensors at these addresses (bias may be 0), which have to be dense in the "
      "layout; "
      "options as in CONVBOUND_SIMT_OPTIONS. One dict for each launch where the options say trace.");
}

}  // namespace convbound::python
