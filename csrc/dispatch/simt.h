// A pass of a problem by the emulated CUDA kernels: the dispatcher and the launchers of the real ones, in a session of
// the emulator. Two libraries contain it: one with kernels built to run fast, one with every access seen.
#pragma once

#include <string_view>
#include <vector>

#include "csrc/dispatch/device.h"
#include "csrc/simt/session.h"

namespace convbound::simt {

struct Call {
  Pass pass;
  ConvProblem problem;
  DType dtype;
  Layout layout;
  Tensors tensors;
  Allocate allocate;
  // The row that computes it; null: the one that the dispatcher chooses for the profile.
  const KernelRow* row = nullptr;
};

// Options as text: "check profile=sm_80 order=reverse", words apart by spaces or commas, in any order:
//   check          every access is judged (needs the checked library)
//   trace          every access is counted (likewise)
//   sectors        with trace: each sector of each tensor, too
//   profile=sm_90  the architecture, sm_75 to sm_120
//   sms=0          multiprocessors; 0 is as many as the profile's GPU has
//   order=forward  of the threads of a block: forward, reverse or random
//   seed=0         of the random order
//   cp_async=eager when a cp.async copies: eager (at once) or late (when it is waited for)
//   blocks=0:100   only so many blocks of each grid, from the first number on
//   workers=0      OS threads; 0 is one per core
// Throws std::runtime_error for anything else.
Options parse_options(std::string_view text);

// Throws std::runtime_error that says what a GPU would refuse, or what a kernel did wrong. With options.trace, one
// trace for each launch.
std::vector<LaunchTrace> run(const Call& call, const Options& options);

// The function that the library of checked kernels exports, under this name.
using Run = std::vector<LaunchTrace>(const Call&, const Options&);
inline constexpr const char* kCheckedRun = "convbound_simt_run_checked";

}  // namespace convbound::simt
