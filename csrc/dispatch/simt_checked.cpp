// What the library of checked kernels exports. No torch here: the ops find it by name when checks are asked for.
#include "csrc/dispatch/simt.h"

extern "C" __attribute__((visibility("default"))) std::vector<convbound::simt::LaunchTrace> convbound_simt_run_checked(
    const convbound::simt::Call& call, const convbound::simt::Options& options) {
  return convbound::simt::run(call, options);
}
