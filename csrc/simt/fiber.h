// Fibers: a stack each, made once with makecontext, switched with _setjmp and _longjmp.
//
// A worker resumes a fiber, the fiber suspends itself back to the worker; no fiber switches to another one, and none
// moves to another OS thread. An emulated thread that fails is abandoned: its stack is forgotten, not unwound, for a
// failure may be found in a place that cannot throw (an instrumented access) and device code owns nothing.
//
// Compile without _FORTIFY_SOURCE, whose longjmp refuses to change stacks.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstddef>
#include <memory>
#include <vector>

namespace convbound::simt {

class Fiber {
 public:
  using Entry = void (*)(void* argument);  // must never return

  Fiber(char* stack, size_t bytes, Entry entry, void* argument);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  void resume();                // from the worker; returns when the fiber suspends or is abandoned
  void suspend();               // from the fiber; returns when it is resumed
  [[noreturn]] void abandon();  // from the fiber
  void reset();                 // from the worker: the next resume starts the entry function anew

 private:
  static void start(unsigned low, unsigned high);
  void leave();

  char* stack_;
  size_t bytes_;
  Entry entry_;
  void* argument_;
  bool started_ = false;
  ucontext_t context_;
  jmp_buf self_, worker_;
  // AddressSanitizer's and ThreadSanitizer's names for this fiber and its worker.
  void* fake_stack_ = nullptr;
  const void* worker_stack_ = nullptr;
  size_t worker_stack_bytes_ = 0;
  void* tsan_fiber_ = nullptr;
  void* tsan_worker_ = nullptr;
};

// Fibers of equal stack size with a guard page below each stack, all in one mapping; grows, never shrinks.
class FiberPool {
 public:
  FiberPool(size_t capacity, Fiber::Entry entry, void* argument);
  ~FiberPool();
  FiberPool(const FiberPool&) = delete;
  FiberPool& operator=(const FiberPool&) = delete;

  Fiber& operator[](size_t index);  // made at first use
  bool on_stack(const void* address) const { return address >= memory_ && address < memory_ + bytes_; }

 private:
  Fiber::Entry entry_;
  void* argument_;
  char* memory_;
  size_t bytes_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
};

}  // namespace convbound::simt
