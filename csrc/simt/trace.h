// What the tracer counts, as plain data. The terms are those of the traffic model:
//
// request       one warp's active-lane accesses with equal site and per-lane ordinal
// sectors       distinct 32-byte segments of a request
// SM-L2 loads   per block 32 x distinct sectors loaded, if that fits in the block's share of L1, else 32 x the sum of
//               request sectors; cp.async of 16 bytes bypasses L1, so it always counts by request
// stores        32 x request sectors
// compulsory    32 x distinct sectors of all inputs and outputs
// DRAM          32 x (distinct sectors of the launch + one fill for each partially written sector)
// coalescing    sum of sectors / sum of ceil(distinct bytes of a request / 32)
// shared        wavefronts: most distinct words on one bank, per half-warp at 8 bytes, per quarter-warp at 16; against
//               the sum of ceil(distinct bytes of a request / 128)
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "csrc/simt/access.h"
#include "csrc/simt/cuda/vector_types.h"

namespace convbound::simt {

inline constexpr int kWidths = 5;  // accesses of 1, 2, 4, 8 and 16 bytes

struct SiteTrace {
  uintptr_t pc = 0;
  std::string location;  // "kernel.cu:41", filled by locate()
  std::string frames;    // the lines it is inlined from, innermost first; likewise
  std::string tensor;    // that its first access lies in; empty in shared memory
  Space space = Space::kGlobal;
  AccessKind kind = AccessKind::kLoad;
  unsigned bytes = 0;     // of one lane's access
  uint64_t accesses = 0;  // lanes
  uint64_t requests = 0;
  uint64_t sectors = 0;           // global
  uint64_t ideal_sectors = 0;     // global
  uint64_t wavefronts = 0;        // shared
  uint64_t ideal_wavefronts = 0;  // shared
};

// How often each 32-byte sector of a tensor was used; their sums over all tensors are those of a launch.
struct TensorTrace {
  std::string tensor;
  std::vector<uint32_t> requested;  // by requests that touch the sector
  std::vector<uint32_t> moved;      // between SMs and L2: SM-L2 loads, and stores
};

struct LaunchTrace {
  std::string kernel;
  std::string profile;
  dim3 grid, block;
  size_t shared_bytes = 0;  // static and dynamic, per block
  int resident_blocks = 0;  // per SM, no more than the grid gives
  uint64_t l1_share = 0;    // bytes of L1 for one block
  uint64_t blocks = 0;
  uint64_t blocks_in_l1 = 0;  // whose distinct sectors fit in their share

  uint64_t load_bytes = 0;           // SM-L2
  uint64_t store_bytes = 0;          // SM-L2
  uint64_t request_load_bytes = 0;   // 32 x request sectors, as if there were no L1
  uint64_t distinct_load_bytes = 0;  // 32 x distinct sectors per block, as if L1 were endless
  uint64_t compulsory_bytes = 0;
  uint64_t dram_bytes = 0;
  uint64_t filled_bytes = 0;  // of them, of sectors that are written in part
  uint64_t requests = 0;      // global
  uint64_t sectors = 0, ideal_sectors = 0;
  uint64_t shared_requests = 0;
  uint64_t wavefronts = 0, ideal_wavefronts = 0;
  std::array<uint64_t, kWidths> loaded_bytes_by_width{};  // bytes asked for by lanes
  std::array<uint64_t, kWidths> stored_bytes_by_width{};
  std::vector<SiteTrace> sites;      // by address
  std::vector<TensorTrace> tensors;  // by address; only with Options::sectors

  double traffic_ratio() const;   // (loads + stores) / compulsory
  double coalescing() const;      // 1 is ideal; 1 when there is no global access
  double bank_conflicts() const;  // 1 is ideal; 1 when there is no shared access
  void locate();                  // fills the sites' locations and frames; slow (addr2line)
};

// The report of one launch, several lines of text.
std::string to_string(const LaunchTrace& trace);

}  // namespace convbound::simt
