#include "csrc/simt/block.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <exception>
#include <numeric>
#include <random>

#include "csrc/simt/checker.h"
#include "csrc/simt/cuda/builtins.h"
#include "csrc/simt/sanitizer.h"
#include "csrc/simt/tracer.h"

namespace convbound {

// What `extern __shared__` in common/shared.h refers to: each OS thread's dynamic shared memory.
alignas(128) constinit thread_local unsigned char dynamic_shared_bytes[simt::kMaxDynamicShared] = {};

}  // namespace convbound

namespace convbound::simt {

namespace {

// All ones is NaN in every float format, and -1.
constexpr int kPoison = 0xff;

bool same(Site a, Site b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::string_view(a.file_name()) == b.file_name());
}

}  // namespace

Block::Block()
    : fibers_(kMaxThreadsPerBlock, &Block::fiber_main, this),
      checker_(std::make_unique<Checker>(*this)),
      tracer_(std::make_unique<Tracer>()) {}

Block::~Block() = default;

char* Block::dynamic_shared() { return reinterpret_cast<char*>(dynamic_shared_bytes); }

void Block::begin_launch(const Launch& launch) {
  launch_ = &launch;
  const unsigned count = launch.threads();
  threads_.resize(count);
  async_.resize(std::max<size_t>(async_.size(), count));
  indices_.resize(count);
  for (unsigned t = 0; t < count; ++t) {
    indices_[t] = {t % launch.block.x, t / launch.block.x % launch.block.y, t / (launch.block.x * launch.block.y)};
  }
  order_.resize(count);
  std::iota(order_.begin(), order_.end(), 0u);
  if (launch.options.order == ThreadOrder::kReverse) std::ranges::reverse(order_);
  dynamic_shared_bytes[0] = 0;  // makes this thread's copy of the thread-local storage exist
  thread_locals_ = launch.kernel->shared.empty() ? nullptr : thread_local_block(launch.kernel->module_base);
  blockDim = launch.block;
  gridDim = launch.grid;
  observed_ = launch.observed();
  if (observed_) checker_->begin_launch(launch.options.trace ? tracer_.get() : nullptr);
  if (launch.options.trace) tracer_->begin_launch(launch);
}

void Block::end_launch() {
  launch_ = nullptr;
  observed_ = false;
}

bool Block::run(uint64_t index) {
  const Launch& launch = *launch_;
  index_ = index;
  blockIdx = {static_cast<unsigned>(index % launch.grid.x),
              static_cast<unsigned>(index / launch.grid.x % launch.grid.y),
              static_cast<unsigned>(index / launch.grid.x / launch.grid.y)};
  if (launch.options.order == ThreadOrder::kRandom) make_order();
  for (unsigned t = 0; t < threads_.size(); ++t) {
    threads_[t] = {};
    if (!async_[t].empty()) async_[t].reset();
  }
  next_fresh_ = exited_ = arrived_ = 0;
  predicate_count_ = 0;
  failed_ = false;
  poison_shared();
  if (observed_) checker_->begin_block();
  if (launch.options.trace) tracer_->begin_block();
  sanitizer::release(this);

  current_block = this;
  while (next_fresh_ < order_.size() && !failed_) {
    Fiber* fiber = nullptr;
    if constexpr (sanitizer::kThreadSanitizer) {
      fiber = &fibers_[order_[next_fresh_]];
    } else {
      if (idle_.empty()) idle_.push_back(&fibers_[fibers_made_++]);
      fiber = idle_.back();
      idle_.pop_back();
    }
    running_fiber_ = fiber;
    fiber->resume();
  }
  while (exited_ < threads_.size() && !failed_) {
    bool progress = false;
    for (const unsigned t : order_) {
      if (threads_[t].state != State::kReady) continue;
      progress = true;
      resume(t);
      if (failed_) break;
    }
    if (!progress) diagnose();
  }
  current_block = nullptr;
  sanitizer::acquire(&failed_);

  if (failed_) {
    idle_.clear();
    for (size_t i = 0; i < (sanitizer::kThreadSanitizer ? threads_.size() : fibers_made_); ++i) {
      fibers_[i].reset();
      idle_.push_back(&fibers_[i]);
    }
    for (AsyncQueue& queue : async_) queue.reset();
    return false;
  }
  if (launch.options.trace) tracer_->end_block();
  return true;
}

void Block::fiber_main(void* argument) {
  auto* block = static_cast<Block*>(argument);
  for (;;) {
    Fiber* fiber = block->running_fiber_;
    block->run_fresh_threads(fiber);
    if constexpr (!sanitizer::kThreadSanitizer) block->idle_.push_back(fiber);
    fiber->suspend();
  }
}

void Block::run_fresh_threads(Fiber*& fiber) {
  while (next_fresh_ < order_.size()) {
    const unsigned thread = order_[next_fresh_++];
    threads_[thread].fiber = fiber;
    run_thread(thread);
    if constexpr (sanitizer::kThreadSanitizer) return;
  }
}

void Block::run_thread(unsigned thread) {
  running_ = thread;
  threads_[thread].state = State::kRunning;
  threadIdx = indices_[thread];
  sanitizer::acquire(this);
  try {
    launch_->call.invoke(launch_->call.kernel, launch_->call.arguments);
  } catch (const std::exception& exception) {
    failed_ = true;
    record(ErrorKind::kTrap, std::string("the kernel threw: ") + exception.what(), running_, "", 0);
  }
  if (failed_) threads_[running_].fiber->abandon();
  sanitizer::release(&failed_);
  threads_[running_].state = State::kExited;
  ++exited_;
}

void Block::resume(unsigned thread) {
  running_ = thread;
  threads_[thread].state = State::kRunning;
  threadIdx = indices_[thread];
  running_fiber_ = threads_[thread].fiber;
  running_fiber_->resume();
}

void Block::wait() {
  sanitizer::release(&failed_);  // a block that fails never resumes this thread
  threads_[running_].fiber->suspend();
}

void Block::make_order() {
  std::iota(order_.begin(), order_.end(), 0u);  // a block's order depends on seed and index, not on who ran before
  std::mt19937_64 generator(launch_->options.seed * 0x9e3779b97f4a7c15ull + index_);
  std::shuffle(order_.begin(), order_.end(), generator);
}

void Block::poison_shared() {
  for (const SharedVariable& variable : launch_->kernel->shared) {
    std::memset(static_shared(variable), kPoison, variable.bytes);
  }
  if (launch_->dynamic_shared > 0) std::memset(dynamic_shared_bytes, kPoison, launch_->dynamic_shared);
}

int Block::barrier(BarrierKind kind, int predicate, Site site) {
  Thread& self = threads_[running_];
  self.barrier_site = site;
  if (arrived_ == 0) {
    first_arrived_ = running_;
    barrier_kind_ = kind;
    predicate_count_ = 0;
  } else if (kind != barrier_kind_ || !same(site, threads_[first_arrived_].barrier_site)) {
    fail(ErrorKind::kBarrierDivergence, site, [&] {
      return "waits at the barrier at " + to_string(site) + ", but " + name_of(first_arrived_) + " at the one at " +
             to_string(threads_[first_arrived_].barrier_site);
    });
  }
  predicate_count_ += predicate != 0;
  // Two markers in turn: a thread may reach the next barrier before another one leaves this.
  const char* marker = &barrier_markers_[self.barriers++ % 2];
  sanitizer::release(marker);
  if (++arrived_ == threads_.size()) {
    release_barrier();
  } else {
    self.state = State::kAtBarrier;
    wait();
  }
  sanitizer::acquire(marker);
  return barrier_result_;
}

void Block::release_barrier() {
  const int count = static_cast<int>(threads_.size());
  switch (barrier_kind_) {
    case BarrierKind::kPlain:
      barrier_result_ = 0;
      break;
    case BarrierKind::kCount:
      barrier_result_ = predicate_count_;
      break;
    case BarrierKind::kAnd:
      barrier_result_ = predicate_count_ == count;
      break;
    case BarrierKind::kOr:
      barrier_result_ = predicate_count_ > 0;
      break;
  }
  for (Thread& thread : threads_) {
    if (thread.state == State::kAtBarrier) thread.state = State::kReady;
  }
  arrived_ = 0;
  if (observed_) checker_->block_barrier();
}

unsigned Block::warp_lanes(unsigned warp) const {
  const unsigned lanes = std::min<unsigned>(32, static_cast<unsigned>(threads_.size()) - warp * 32);
  return lanes == 32 ? 0xffffffffu : (1u << lanes) - 1;
}

unsigned Block::live_lanes() const {
  const unsigned first = running_ / 32 * 32;
  unsigned lanes = 0;
  for (unsigned lane = 0; lane < 32 && first + lane < threads_.size(); ++lane) {
    if (threads_[first + lane].state != State::kExited) lanes |= 1u << lane;
  }
  return lanes;
}

void Block::collective(WarpCall& call) {
  const unsigned warp = running_ / 32, first = warp * 32;
  if (((call.mask >> (running_ % 32)) & 1) == 0) {
    fail(ErrorKind::kWarpMask, call.site,
         [&] { return std::string(op_name(call.op)) + " with a mask that does not name the calling lane"; });
  }
  if (call.payload != nullptr && warp_lanes(warp) != 0xffffffffu) {
    fail(ErrorKind::kWarpMask, call.site,
         [&] { return std::string(op_name(call.op)) + " in a warp of fewer than 32 threads"; });
  }
  call.mask &= warp_lanes(warp);
  Thread& self = threads_[running_];
  self.call = &call;
  self.state = State::kInCollective;
  if (call.op == WarpOp::kSync) sanitizer::release(&self.markers[self.warp_barriers++ % 2]);
  bool complete = true;
  for (unsigned rest = call.mask; rest != 0 && complete; rest &= rest - 1) {
    const Thread& other = threads_[first + static_cast<unsigned>(std::countr_zero(rest))];
    complete = other.state == State::kInCollective && other.call->op == call.op && other.call->mask == call.mask;
  }
  if (complete) {
    release_collective(first, call.mask);
    self.state = State::kRunning;
  } else {
    wait();
  }
  if (!sanitizer::kThreadSanitizer || call.op != WarpOp::kSync) return;
  for (unsigned rest = call.mask; rest != 0; rest &= rest - 1) {
    const auto lane = static_cast<unsigned>(std::countr_zero(rest));
    sanitizer::acquire(&threads_[first + lane].markers[(call.result >> lane) & 1]);
  }
}

void Block::release_collective(unsigned first_lane, unsigned mask) {
  WarpCall* calls[32] = {};
  for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
    const auto lane = static_cast<unsigned>(std::countr_zero(rest));
    calls[lane] = threads_[first_lane + lane].call;
    threads_[first_lane + lane].state = State::kReady;
  }
  complete_collective(calls, mask);
  if (calls[std::countr_zero(mask)]->op != WarpOp::kSync) return;
  if (observed_) checker_->warp_barrier(first_lane / 32, mask);
  if constexpr (sanitizer::kThreadSanitizer) {  // tells every lane which marker each of the others released
    uint64_t markers = 0;
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
      const auto lane = static_cast<unsigned>(std::countr_zero(rest));
      markers |= static_cast<uint64_t>((threads_[first_lane + lane].warp_barriers - 1) % 2) << lane;
    }
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) calls[std::countr_zero(rest)]->result = markers;
  }
}

void Block::observe(const Access& access) {
  if (observed_) checker_->access(access);
  if (is_store(access.kind)) {
    sanitizer::write_range(reinterpret_cast<void*>(access.address), access.bytes);
  } else {
    sanitizer::read_range(reinterpret_cast<const void*>(access.address), access.bytes);
  }
}

}  // namespace convbound::simt
