// One launch, as the workers see it: read-only while it runs.
#pragma once

#include <algorithm>
#include <cstdint>

#include "csrc/simt/cuda/runtime_api.h"
#include "csrc/simt/memory_table.h"
#include "csrc/simt/profile.h"
#include "csrc/simt/session.h"
#include "csrc/simt/symbols.h"

namespace convbound::simt {

struct Launch {
  KernelCall call;
  const KernelInfo* kernel;
  const Profile* profile;
  Options options;
  MemoryTable* memory;  // where accesses are checked or traced, else nullptr
  dim3 grid, block;
  size_t dynamic_shared;
  uint32_t serial;  // tells launches apart
  int resident_blocks;
  uint64_t l1_share;

  unsigned threads() const { return block.x * block.y * block.z; }
  uint64_t blocks() const { return static_cast<uint64_t>(grid.x) * grid.y * grid.z; }
  // One past the last block that runs.
  uint64_t last_block() const {
    return options.first_block < blocks()
               ? options.first_block + std::min(options.blocks, blocks() - options.first_block)
               : options.first_block;
  }
  size_t shared_bytes() const { return kernel->static_shared_bytes + dynamic_shared; }
  bool observed() const { return options.check || options.trace; }
};

// Runs every block; throws Error, the first in block order. Adds to the session's traces when tracing.
void run_launch(const Launch& launch);

}  // namespace convbound::simt
