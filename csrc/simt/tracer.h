// Counts the traffic of the blocks that one OS thread runs, by the terms of trace.h; merged when the launch ends.
//
// Lanes of a warp run one after the other here, so a request is put together from its lanes' accesses with the same
// site and the same ordinal, and counted when its block has ended.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "csrc/simt/access.h"
#include "csrc/simt/memory_table.h"
#include "csrc/simt/trace.h"

namespace convbound::simt {

struct Launch;

// A set of 32-byte sectors with 32 bits for each. clear() is cheap.
class SectorMap {
 public:
  SectorMap() : entries_(1024) {}
  uint32_t& operator[](uint64_t sector);
  void clear();
  size_t size() const { return size_; }
  template <typename Visit>
  void for_each(Visit&& visit) const {
    for (const Entry& entry : entries_) {
      if (entry.generation == generation_) visit(entry.sector, entry.bits);
    }
  }

 private:
  struct Entry {
    uint64_t sector = 0;
    uint32_t bits = 0;
    uint32_t generation = 0;
  };
  Entry& slot(uint64_t sector);
  void grow();

  std::vector<Entry> entries_;
  size_t size_ = 0;
  uint32_t generation_ = 1;
};

// The sectors of a launch.
struct LaunchSectors {
  SectorMap written;           // all that are used; the bits are the bytes that are written
  SectorMap requested, moved;  // how often, as in TensorTrace; only with Options::sectors

  void clear();
  void merge_into(LaunchSectors& total) const;
  std::vector<TensorTrace> by_tensor(const MemoryTable& memory);
};

class Tracer {
 public:
  void begin_launch(const Launch& launch);
  void begin_block();
  void record(Space space, const Access& access, unsigned thread);
  void end_block();

  // Adds this tracer's counts to a launch's.
  void merge_into(LaunchTrace& total, std::map<std::pair<uintptr_t, int>, SiteTrace>& sites,
                  LaunchSectors& sectors) const;

 private:
  struct Request {
    std::array<uintptr_t, 32> address;
    uint32_t lanes;
  };
  struct Stream {  // of one warp at one site
    std::array<uint32_t, 32> count{};
    std::vector<Request> requests;
  };
  struct Site {
    SiteTrace counts;
    std::vector<Stream> warps;
  };

  Site& site_of(Space space, const Access& access);
  void count_global(Site& site, const Request& request);
  void count_shared(Site& site, const Request& request);

  unsigned warps_ = 0;
  uint64_t l1_share_ = 0;
  bool count_sectors_ = false;
  MemoryTable* memory_ = nullptr;
  std::map<std::pair<uintptr_t, int>, Site> sites_;  // by program counter and kind
  Site* last_site_ = nullptr;
  std::pair<uintptr_t, int> last_key_{};
  LaunchTrace totals_;
  LaunchSectors launch_sectors_;
  SectorMap block_sectors_;            // loaded through L1 by the running block: requests of each
  uint64_t block_cached_sectors_ = 0;  // sum over requests of what block_sectors_ holds distinct
};

}  // namespace convbound::simt
