// One block at a time: its threads on fibers, their order, barriers, warp collectives, shared memory and failures.
//
// An OS thread owns one Block. A fiber takes one fresh emulated thread after the other as long as they return without
// waiting, so a kernel without barriers never switches; a thread that must wait keeps its fiber and another fiber goes
// on. Ready threads then run in waves, in the order that the options ask for. Under ThreadSanitizer every emulated
// thread has a fiber of its own, or two threads on one fiber would look ordered.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "csrc/simt/access.h"
#include "csrc/simt/async_copy.h"
#include "csrc/simt/cuda/vector_types.h"
#include "csrc/simt/cuda/warp_intrinsics.h"
#include "csrc/simt/error.h"
#include "csrc/simt/fiber.h"
#include "csrc/simt/launch.h"

namespace convbound::simt {

class Checker;
class Tracer;

// What a thread brings to a warp collective, and takes from it. Lives on the thread's own stack while it waits.
struct WarpCall {
  WarpOp op;
  unsigned mask;
  uint64_t value;
  int operand;  // source lane, delta or lane mask of a shuffle
  int width;
  uint64_t result;
  Site site;
  void* payload;  // fragments of a matrix operation
};

// The first failure of a launch, before it is a message: formatted by the caller of the launch, not on a fiber.
struct Failure {
  ErrorKind kind;
  std::string what;
  uint64_t block;
  unsigned thread;
  std::string site;
  uintptr_t pc;  // where the site is not known: looked up when the error is thrown
};

class Block {
 public:
  Block();
  ~Block();

  void begin_launch(const Launch& launch);
  bool run(uint64_t index);  // one block of the grid; false when it failed
  void end_launch();
  const Failure& failure() const { return failure_; }
  Tracer& tracer() { return *tracer_; }

  // For emulated threads of this block.
  const Launch& launch() const { return *launch_; }
  unsigned running() const { return running_; }
  uint64_t index() const { return index_; }
  int barrier(BarrierKind kind, int predicate, Site site);
  void collective(WarpCall& call);
  unsigned live_lanes() const;  // of the running thread's warp
  AsyncQueue& async_queue() { return async_[running_]; }
  void observe(const Access& access);  // what the emulator does on the thread's behalf
  // what() gives the message, when the checker looks no more: the linker may have taken the strings' code from a
  // kernel's file, where every access is reported.
  template <typename Where, typename What>
  [[noreturn]] void fail(ErrorKind kind, Where where, const What& what) {
    failed_ = true;
    stop(kind, what(), where);
  }
  Checker* checker() { return observed_ && !failed_ ? checker_.get() : nullptr; }

  dim3 thread_index(unsigned thread) const;
  std::string name_of(unsigned thread) const { return "thread " + to_string(thread_index(thread)); }
  bool on_stack(const void* address) const { return fibers_.on_stack(address); }
  char* static_shared(const SharedVariable& variable) const { return thread_locals_ + variable.offset; }
  static char* dynamic_shared();

 private:
  enum class State : uint8_t { kFresh, kReady, kRunning, kAtBarrier, kInCollective, kExited };
  struct Thread {
    State state = State::kFresh;
    Fiber* fiber = nullptr;
    WarpCall* call = nullptr;
    Site barrier_site;
    uint32_t barriers = 0, warp_barriers = 0;
    char markers[2] = {};  // addresses that mean this thread's last warp barriers to ThreadSanitizer
  };

  static void fiber_main(void* block);
  void run_fresh_threads(Fiber*& fiber);
  void run_thread(unsigned thread);
  void resume(unsigned thread);
  void wait();
  void release_barrier();
  void release_collective(unsigned first_lane, unsigned mask);
  void poison_shared();
  void make_order();
  void diagnose();
  [[noreturn]] void stop(ErrorKind kind, std::string what, Site site);
  [[noreturn]] void stop(ErrorKind kind, std::string what, uintptr_t pc);
  void record(ErrorKind kind, std::string what, unsigned thread, std::string site, uintptr_t pc);
  std::string whereabouts(unsigned thread) const;
  unsigned warp_lanes(unsigned warp) const;

  const Launch* launch_ = nullptr;
  FiberPool fibers_;
  std::vector<Fiber*> idle_;
  size_t fibers_made_ = 0;
  std::vector<Thread> threads_;
  std::vector<uint3> indices_;
  std::vector<unsigned> order_;
  std::vector<AsyncQueue> async_;
  std::unique_ptr<Checker> checker_;
  std::unique_ptr<Tracer> tracer_;
  bool observed_ = false;
  char* thread_locals_ = nullptr;
  uint64_t index_ = 0;
  unsigned running_ = 0;
  Fiber* running_fiber_ = nullptr;
  size_t next_fresh_ = 0;
  unsigned exited_ = 0;
  unsigned arrived_ = 0;
  unsigned first_arrived_ = 0;
  BarrierKind barrier_kind_ = BarrierKind::kPlain;
  int predicate_count_ = 0;
  int barrier_result_ = 0;
  char barrier_markers_[2] = {};
  bool failed_ = false;
  Failure failure_{};
};

// The block that this OS thread is running, or nullptr outside kernels.
__attribute__((visibility("hidden"))) inline constinit thread_local Block* current_block = nullptr;

// Runs the collective for all lanes of the mask; calls[i] is lane i's (warp.cpp).
void complete_collective(WarpCall* const* calls, unsigned mask);
const char* op_name(WarpOp op);
std::string to_string(Site site);  // "file:line"

}  // namespace convbound::simt
