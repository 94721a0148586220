// The backend simt: the CUDA kernels on a CPU. CONVBOUND_SIMT_OPTIONS (see dispatch/simt.h), read at every call, says
// how.
#include <dlfcn.h>

#include <cstdlib>

#include "csrc/dispatch/simt.h"
#include "csrc/ops/run.h"
#include "csrc/ops/run_row.h"

namespace convbound::ops {

namespace {

// The library of checked kernels lies beside this one.
simt::Run* load_checked_run() {
  Dl_info here{};
  dladdr(reinterpret_cast<const void*>(&load_checked_run), &here);
  const std::string path(here.dli_fname);
  const std::string beside = path.substr(0, path.rfind('/') + 1) + "libconvbound_simt_checked.so";
  void* library = dlopen(beside.c_str(), RTLD_LAZY | RTLD_LOCAL);
  if (library == nullptr) throw std::runtime_error(std::string("CONVBOUND_SIMT_OPTIONS: ") + dlerror());
  void* found = dlsym(library, simt::kCheckedRun);
  if (found == nullptr) throw std::runtime_error(std::string("CONVBOUND_SIMT_OPTIONS: ") + dlerror());
  return reinterpret_cast<simt::Run*>(found);
}

simt::Options options_of_environment() {
  const char* text = std::getenv("CONVBOUND_SIMT_OPTIONS");
  try {
    return simt::parse_options(text == nullptr ? "" : text);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(std::string("CONVBOUND_SIMT_OPTIONS: ") + error.what());
  }
}

}  // namespace

void run(Pass pass, const ConvProblem& problem, DType dtype, Layout layout, int /*device*/, const Tensors& tensors,
         const Allocate& allocate) {
  const simt::Options options = options_of_environment();
  const simt::Call call{pass, problem, dtype, layout, tensors, allocate};
  if (options.check || options.trace) {
    static simt::Run* const checked = load_checked_run();
    checked(call, options);
  } else {
    simt::run(call, options);
  }
}

void run_row(const KernelRow& row, const ConvProblem& problem, int /*device*/, const Tensors& tensors,
             const Allocate& allocate) {
  const simt::Options options = options_of_environment();
  // The row is one of this library's kernels, which the checker cannot see into.
  if (options.check || options.trace) throw std::runtime_error("simt_run_row neither checks nor traces");
  simt::run({row.pass, problem, row.dtype, row.layout, tensors, allocate, &row}, options);
}

}  // namespace convbound::ops
