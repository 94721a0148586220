// cp.async of one emulated thread: copies issued, committed to groups, waited for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace convbound::simt {

struct CopyInFlight {
  void* shared;
  const void* global;
  unsigned bytes;         // written to shared memory: 4, 8 or 16
  unsigned source_bytes;  // read; the rest is zero
  uint32_t group;
  bool done;
  uintptr_t pc;

  void perform() {
    if (done) return;
    unsigned char value[16] = {};
    std::memcpy(value, global, source_bytes);
    std::memcpy(shared, value, bytes);
    done = true;
  }
};

class AsyncQueue {
 public:
  void reset() {
    copies_.clear();
    open_group_ = 0;
  }
  bool empty() const { return copies_.empty(); }
  CopyInFlight& issue(void* shared, const void* global, unsigned bytes, unsigned source_bytes, uintptr_t pc) {
    return copies_.emplace_back(CopyInFlight{shared, global, bytes, source_bytes, open_group_, false, pc});
  }
  void commit() { ++open_group_; }

  // Completes all committed groups but the latest `allowed`, in the order of issue, and hands each copy to `completed`.
  template <typename Completed>
  void wait(uint32_t allowed, Completed&& completed) {
    size_t count = 0;
    while (count < copies_.size() && copies_[count].group + allowed < open_group_) ++count;
    complete(count, completed);
  }
  template <typename Completed>
  void wait_all(Completed&& completed) {
    complete(copies_.size(), completed);
  }

 private:
  template <typename Completed>
  void complete(size_t count, Completed&& completed) {
    for (size_t i = 0; i < count; ++i) {
      copies_[i].perform();
      completed(copies_[i]);
    }
    copies_.erase(copies_.begin(), copies_.begin() + static_cast<std::ptrdiff_t>(count));
  }

  std::vector<CopyInFlight> copies_;
  uint32_t open_group_ = 0;
};

}  // namespace convbound::simt
