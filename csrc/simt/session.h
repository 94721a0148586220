// How launches run: the settings of one host thread while a Session lives, and what was found and counted.
//
//   simt::Session session({.profile = "sm_80", .order = simt::ThreadOrder::kReverse, .check = true});
//   session.add_tensor("x", x, x_bytes, simt::Role::kInput);
//   session.add_tensor("y", y, y_bytes, simt::Role::kOutput);
//   launch(...);         // throws simt::Error
//   session.finish();    // throws simt::Error if a byte of y was not written
//
// Without a session a launch runs with the default options. `check` and `trace` need kernels compiled with
// -fsanitize=thread and the emulator's own callbacks linked (tsan_callbacks.cpp); instrumented() tells.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "csrc/simt/memory_table.h"
#include "csrc/simt/trace.h"

namespace convbound::simt {

struct Profile;

enum class ThreadOrder { kForward, kReverse, kRandom };

// When the copy of a cp.async happens: at once (finds a stage that is overwritten while it is read), or in the last
// moment, the wait that covers it (finds a missing wait).
enum class AsyncCopy { kEager, kLate };

inline constexpr int kDevices = 2;

struct Options {
  std::string profile = "sm_90";
  std::string second_profile = {};  // of device 1; empty: the same as device 0
  ThreadOrder order = ThreadOrder::kForward;
  uint64_t seed = 0;  // of the random order; each block is shuffled anew
  AsyncCopy async_copy = AsyncCopy::kEager;
  bool check = false;               // alignment, bounds, races, exactly-once
  bool check_uninitialized = true;  // with check: reads of shared memory, outputs and workspaces not yet written
  bool trace = false;               // count traffic
  bool sectors = false;             // with trace: of each sector of each tensor, too
  uint64_t first_block = 0;         // only the blocks from this one on run,
  uint64_t blocks = UINT64_MAX;     // and this many: of a grid too large to emulate, on tensors too large to fill
  int sm_count = 0;                 // multiprocessors; 0: as many as the profile's GPU has
  int workers = 0;                  // OS threads; 0: one per core
  int registers_per_thread = 0;     // as ptxas reports them, for resident blocks and launch limits; 0: not known
};

class Session {
 public:
  explicit Session(Options options);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void add_tensor(std::string name, const void* base, size_t bytes, Role role);
  void finish() const;  // with check: every byte of every output was written, unless only some blocks ran

  const Options& options() const { return options_; }
  const std::vector<LaunchTrace>& traces() const { return traces_; }
  MemoryTable& memory() { return memory_; }
  void add_trace(LaunchTrace trace) { traces_.push_back(std::move(trace)); }

 private:
  Options options_;
  MemoryTable memory_;
  std::vector<LaunchTrace> traces_;
  Session* outer_;
};

Session* current_session();        // of this host thread, or nullptr
const Options& current_options();  // of the current session, or the defaults
const std::string& device_profile(int device);
int sm_count(const Profile& profile);  // as the current options say
bool instrumented();                   // whether `check` and `trace` are possible in this build

}  // namespace convbound::simt
