#include "csrc/simt/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>

#include "csrc/simt/sanitizer.h"

namespace convbound::simt {

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(CONVBOUND_SIMT_TSAN)
constexpr size_t kStackBytes = 256 << 10;
#else
constexpr size_t kStackBytes = 64 << 10;
#endif

// Stacks of equal alignment would put the hot ends of all of them into the same few cache sets.
size_t stack_color(size_t index) { return index * 832 % 4096 / 64 * 64; }

size_t page_bytes() {
  static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

}  // namespace

Fiber::Fiber(char* stack, size_t bytes, Entry entry, void* argument)
    : stack_(stack), bytes_(bytes), entry_(entry), argument_(argument) {
#if defined(CONVBOUND_SIMT_TSAN)
  tsan_fiber_ = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
#if defined(CONVBOUND_SIMT_TSAN)
  __tsan_destroy_fiber(tsan_fiber_);
#endif
}

void Fiber::start(unsigned low, unsigned high) {
  auto* fiber = reinterpret_cast<Fiber*>((static_cast<uintptr_t>(high) << 32) | low);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &fiber->worker_stack_, &fiber->worker_stack_bytes_);
#endif
  fiber->entry_(fiber->argument_);
}

void Fiber::resume() {
#if defined(__SANITIZE_ADDRESS__)
  void* worker_fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&worker_fake_stack, stack_, bytes_);
#endif
  if (_setjmp(worker_) == 0) {
#if defined(CONVBOUND_SIMT_TSAN)
    tsan_worker_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(tsan_fiber_, 1);
#endif
    if (started_) _longjmp(self_, 1);
    started_ = true;
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_;
    context_.uc_stack.ss_size = bytes_;
    context_.uc_link = nullptr;
    const auto address = reinterpret_cast<uintptr_t>(this);
    makecontext(&context_, reinterpret_cast<void (*)()>(&Fiber::start), 2, static_cast<unsigned>(address),
                static_cast<unsigned>(address >> 32));
    setcontext(&context_);
  }
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(worker_fake_stack, nullptr, nullptr);
#endif
}

void Fiber::leave() {
#if defined(CONVBOUND_SIMT_TSAN)
  __tsan_switch_to_fiber(tsan_worker_, 1);
#endif
  _longjmp(worker_, 1);
}

void Fiber::suspend() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&fake_stack_, worker_stack_, worker_stack_bytes_);
#endif
  if (_setjmp(self_) == 0) leave();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack_, &worker_stack_, &worker_stack_bytes_);
#endif
}

void Fiber::abandon() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(nullptr, worker_stack_, worker_stack_bytes_);
#endif
  leave();
  __builtin_unreachable();
}

void Fiber::reset() {
  started_ = false;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack_, bytes_);
#endif
#if defined(CONVBOUND_SIMT_TSAN)
  __tsan_destroy_fiber(tsan_fiber_);
  tsan_fiber_ = __tsan_create_fiber(0);
#endif
}

FiberPool::FiberPool(size_t capacity, Fiber::Entry entry, void* argument)
    : entry_(entry), argument_(argument), bytes_(capacity * (kStackBytes + page_bytes())), fibers_(capacity) {
  void* memory = mmap(nullptr, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<char*>(memory);
}

FiberPool::~FiberPool() { munmap(memory_, bytes_); }

Fiber& FiberPool::operator[](size_t index) {
  std::unique_ptr<Fiber>& fiber = fibers_[index];
  if (!fiber) {
    char* stack = memory_ + index * (kStackBytes + page_bytes()) + page_bytes();
    if (mprotect(stack, kStackBytes, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
    fiber = std::make_unique<Fiber>(stack, kStackBytes - stack_color(index), entry_, argument_);
  }
  return *fiber;
}

}  // namespace convbound::simt
