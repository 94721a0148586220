// From a launch call to its blocks: what CUDA would refuse, the workers, the first failure, the trace.
#include "csrc/simt/launch.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "csrc/simt/block.h"
#include "csrc/simt/devices.h"
#include "csrc/simt/tracer.h"

namespace convbound::simt {

namespace {

// OS threads that wait for work. One launch uses them at a time; another host thread's launch meanwhile runs its blocks
// alone. After a fork the threads are gone and the pool is made anew.
class WorkerPool {
 public:
  static WorkerPool& get() {
    static std::mutex mutex;
    static WorkerPool* pool = nullptr;  // never destroyed: its threads may outlive static destructors
    const std::lock_guard lock(mutex);
    if (pool == nullptr || pool->process_ != getpid()) pool = new WorkerPool();
    return *pool;
  }

  // Runs `work` on this thread and on up to helpers others; returns when all have finished.
  void run(int helpers, const std::function<void()>& work) {
    std::unique_lock in_use(in_use_, std::try_to_lock);
    if (!in_use.owns_lock() || helpers <= 0) return work();
    {
      const std::lock_guard lock(mutex_);
      while (threads_ < helpers) {
        std::thread([this, number = threads_] { loop(number); }).detach();
        ++threads_;
      }
      work_ = &work;
      helpers_ = unfinished_ = helpers;
      ++round_;
    }
    start_.notify_all();
    work();
    std::unique_lock lock(mutex_);
    finished_.wait(lock, [&] { return unfinished_ == 0; });
  }

 private:
  void loop(int number) {
    uint64_t seen = 0;
    for (;;) {
      const std::function<void()>* work = nullptr;
      {
        std::unique_lock lock(mutex_);
        start_.wait(lock, [&] { return round_ != seen; });
        seen = round_;
        if (number < helpers_) work = work_;
      }
      if (work == nullptr) continue;
      (*work)();
      const std::lock_guard lock(mutex_);
      if (--unfinished_ == 0) finished_.notify_all();
    }
  }

  const pid_t process_ = getpid();
  std::mutex in_use_, mutex_;
  std::condition_variable start_, finished_;
  const std::function<void()>* work_ = nullptr;
  int threads_ = 0, helpers_ = 0, unfinished_ = 0;
  uint64_t round_ = 0;
};

Block& this_threads_block() {
  static thread_local const std::unique_ptr<Block> block = std::make_unique<Block>();
  return *block;
}

// Blocks are handed out in order, and only those before a failed one still run: of several failures the one in the
// first block is found, whatever the number of workers.
class Grid {
 public:
  explicit Grid(const Launch& launch)
      : launch_(launch), next_(launch.options.first_block), last_(launch.last_block()) {}

  void work() {
    Block& block = this_threads_block();
    block.begin_launch(launch_);
    for (uint64_t index = next_++; index < last_ && index < first_failed_; index = next_++) {
      if (!block.run(index)) keep(block.failure());
    }
    if (launch_.options.trace) {
      const std::lock_guard lock(mutex_);
      block.tracer().merge_into(trace_, sites_, sectors_);
    }
    block.end_launch();
  }

  const Failure* failure() const { return first_failed_ != kNone ? &failure_ : nullptr; }

  LaunchTrace trace() {
    trace_.kernel = launch_.kernel->name;
    trace_.profile = launch_.profile->name;
    trace_.grid = launch_.grid;
    trace_.block = launch_.block;
    trace_.shared_bytes = launch_.shared_bytes();
    trace_.resident_blocks = launch_.resident_blocks;
    trace_.l1_share = launch_.l1_share;
    trace_.compulsory_bytes = launch_.memory->compulsory_bytes();
    uint64_t filled = 0;
    sectors_.written.for_each([&](uint64_t, uint32_t written) { filled += written != 0 && written != 0xffffffffu; });
    trace_.filled_bytes = 32 * filled;
    trace_.dram_bytes = 32 * sectors_.written.size() + trace_.filled_bytes;
    for (const auto& [key, site] : sites_) trace_.sites.push_back(site);
    if (launch_.options.sectors) trace_.tensors = sectors_.by_tensor(*launch_.memory);
    return std::move(trace_);
  }

 private:
  void keep(const Failure& failure) {
    const std::lock_guard lock(mutex_);
    if (failure.block >= first_failed_) return;
    failure_ = failure;
    first_failed_ = failure.block;
  }

  static constexpr uint64_t kNone = UINT64_MAX;

  const Launch& launch_;
  std::atomic<uint64_t> next_;
  const uint64_t last_;  // and none from here on
  std::atomic<uint64_t> first_failed_{kNone};
  std::mutex mutex_;
  Failure failure_{};
  LaunchTrace trace_;
  std::map<std::pair<uintptr_t, int>, SiteTrace> sites_;
  LaunchSectors sectors_;
};

// The checker leaves " {pc 1234}" where the source line of another access belongs.
std::string with_places(const std::string& text) {
  const size_t open = text.find(" {pc ");
  if (open == std::string::npos) return text;
  const size_t close = text.find('}', open);
  const std::string line = source_line(std::stoull(text.substr(open + 5, close - open - 5), nullptr, 16));
  return text.substr(0, open) + (line.empty() ? "" : " (" + line + ")") + with_places(text.substr(close + 1));
}

[[noreturn]] void raise(const Launch& launch, const Failure& failure) {
  const uint64_t b = failure.block;
  const unsigned t = failure.thread;
  const dim3 block(static_cast<unsigned>(b % launch.grid.x), static_cast<unsigned>(b / launch.grid.x % launch.grid.y),
                   static_cast<unsigned>(b / launch.grid.x / launch.grid.y));
  const dim3 thread(t % launch.block.x, t / launch.block.x % launch.block.y, t / (launch.block.x * launch.block.y));
  const std::string site = failure.pc != 0 ? source_line(failure.pc) : failure.site;
  throw Error(failure.kind, launch.kernel->name, block, thread, site, with_places(failure.what));
}

int worker_count(const Launch& launch) {
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const int wanted = launch.options.workers > 0 ? launch.options.workers : cores;
  return static_cast<int>(std::min<uint64_t>(static_cast<uint64_t>(wanted), launch.last_block()));
}

}  // namespace

void run_launch(const Launch& launch) {
  if (current_block != nullptr) throw std::logic_error("a kernel cannot launch a kernel");
  Grid grid(launch);
  WorkerPool::get().run(worker_count(launch) - 1, [&] { grid.work(); });
  if (const Failure* failure = grid.failure()) raise(launch, *failure);
  if (launch.options.trace) current_session()->add_trace(grid.trace());
}

}  // namespace convbound::simt
