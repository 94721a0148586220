// One access by one emulated thread, as the checker and the tracer see it.
#pragma once

#include <cstdint>

namespace convbound::simt {

enum class AccessKind : uint8_t {
  kLoad,
  kStore,
  kAsyncLoad,        // cp.async .ca: through L1
  kAsyncLoadBypass,  // cp.async .cg: past L1
  kAsyncStore,       // into shared memory, in flight until its wait
};

inline bool is_store(AccessKind kind) { return kind == AccessKind::kStore || kind == AccessKind::kAsyncStore; }

enum class Space : uint8_t { kGlobal, kShared };

struct Access {
  uintptr_t address;
  unsigned bytes;
  AccessKind kind;
  uintptr_t pc;  // the return address into the kernel
};

}  // namespace convbound::simt
