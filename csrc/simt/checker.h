// Looks at every access of the emulated threads of one block: alignment, bounds, roles of tensors, exactly-once, races,
// uninitialised memory, copies in flight. Hands what it lets pass to the tracer.
//
// Races in shared memory: a block barrier starts a new epoch and orders everything; within an epoch two threads are
// ordered only if they are in one warp and a __syncwarp between the accesses named both (vector clocks per warp).
// Shuffles, votes and mma order nothing.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "csrc/simt/access.h"
#include "csrc/simt/error.h"

namespace convbound::simt {

class Block;
class Tracer;
struct Tensor;

class Checker {
 public:
  explicit Checker(Block& block) : block_(block) {}

  void begin_launch(Tracer* tracer);  // nullptr: nothing is traced
  void begin_block();
  void access(const Access& access);
  void range(uintptr_t address, size_t bytes, AccessKind kind, uintptr_t pc);  // an aggregate: in aligned pieces
  void async_completed(uintptr_t shared, unsigned bytes, uintptr_t pc);
  void block_barrier() { ++epoch_; }
  void warp_barrier(unsigned warp, unsigned lanes);

 private:
  // The history of one byte of shared memory. What is older than the block's first epoch is from another block.
  struct Cell {
    uint32_t write_epoch, write_clock;
    uint32_t read_epoch, read_clock, read_lanes;
    uint32_t write_site, read_site;  // program counters relative to the kernel's module
    uint16_t writer, read_warp;
    bool in_flight;  // a cp.async writes it, and its issuer has not waited yet
  };
  struct WarpClocks {
    uint32_t barriers;
    uint32_t known[32][32];  // known[i][j]: up to which clock of lane j lane i is ordered after it
  };
  struct SharedRange {
    uintptr_t begin, end;
    size_t first_cell;
    std::string name;
  };

  bool is_private(uintptr_t address) const;
  const SharedRange* find_shared(uintptr_t address);
  void shared_access(const SharedRange& range, const Access& access);
  void shared_read(Cell& cell, const Access& access, const SharedRange& range);
  void shared_write(Cell& cell, const Access& access, const SharedRange& range);
  void global_access(const Access& access);
  void mark_written(Tensor& tensor, const Access& access);
  void check_written(Tensor& tensor, const Access& access);
  void outside(const Access& access);
  bool ordered(unsigned thread, uint32_t clock) const;
  uint32_t clock_of(unsigned thread) const;
  uint32_t relative(uintptr_t pc) const;
  std::string place(uint32_t site) const;
  [[noreturn]] void race(const Access& access, const SharedRange& range, const char* other, unsigned thread,
                         uint32_t site);

  Block& block_;
  Tracer* tracer_ = nullptr;
  bool check_ = false;
  std::vector<SharedRange> shared_;
  std::vector<Cell> cells_;
  std::vector<WarpClocks> clocks_;
  uint32_t epoch_ = 0;
  uint32_t first_epoch_ = 0;
  Tensor* last_tensor_ = nullptr;
  std::array<uintptr_t, 4> builtins_{};  // addresses of threadIdx and friends
};

}  // namespace convbound::simt
