// The functions that code compiled with -fsanitize=thread calls at every access, here for the checker and the tracer
// instead of ThreadSanitizer's runtime. Linked only into the checked library, with none of the sanitizer libraries.
//
// Outside kernels (launchers share the translation unit) current_block is null and nothing happens.
#include <cstddef>
#include <cstdint>

#include "csrc/simt/block.h"
#include "csrc/simt/checker.h"
#include "csrc/simt/instrumentation.h"

namespace {

using convbound::simt::AccessKind;

__attribute__((always_inline)) inline void access(const void* address, unsigned bytes, AccessKind kind, void* pc) {
  convbound::simt::Block* block = convbound::simt::current_block;
  if (block == nullptr) return;
  if (convbound::simt::Checker* checker = block->checker()) {
    checker->access({reinterpret_cast<uintptr_t>(address), bytes, kind, reinterpret_cast<uintptr_t>(pc)});
  }
}

__attribute__((always_inline)) inline void range(const void* address, size_t bytes, AccessKind kind, void* pc) {
  convbound::simt::Block* block = convbound::simt::current_block;
  if (block == nullptr) return;
  if (convbound::simt::Checker* checker = block->checker()) {
    checker->range(reinterpret_cast<uintptr_t>(address), bytes, kind, reinterpret_cast<uintptr_t>(pc));
  }
}

}  // namespace

extern "C" {

void convbound_simt_instrumentation() {}

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

void __tsan_read1(void* p) { access(p, 1, AccessKind::kLoad, __builtin_return_address(0)); }
void __tsan_read2(void* p) { access(p, 2, AccessKind::kLoad, __builtin_return_address(0)); }
void __tsan_read4(void* p) { access(p, 4, AccessKind::kLoad, __builtin_return_address(0)); }
void __tsan_read8(void* p) { access(p, 8, AccessKind::kLoad, __builtin_return_address(0)); }
void __tsan_read16(void* p) { access(p, 16, AccessKind::kLoad, __builtin_return_address(0)); }
void __tsan_write1(void* p) { access(p, 1, AccessKind::kStore, __builtin_return_address(0)); }
void __tsan_write2(void* p) { access(p, 2, AccessKind::kStore, __builtin_return_address(0)); }
void __tsan_write4(void* p) { access(p, 4, AccessKind::kStore, __builtin_return_address(0)); }
void __tsan_write8(void* p) { access(p, 8, AccessKind::kStore, __builtin_return_address(0)); }
void __tsan_write16(void* p) { access(p, 16, AccessKind::kStore, __builtin_return_address(0)); }

// The compiler's "unaligned" variants are aggregates with a smaller alignment (two floats in a struct): on a GPU they
// are loaded member by member, so they count as aligned pieces.
void __tsan_unaligned_read2(void* p) { range(p, 2, AccessKind::kLoad, __builtin_return_address(0)); }
void __tsan_unaligned_read4(void* p) { range(p, 4, AccessKind::kLoad, __builtin_return_address(0)); }
void __tsan_unaligned_read8(void* p) { range(p, 8, AccessKind::kLoad, __builtin_return_address(0)); }
void __tsan_unaligned_read16(void* p) { range(p, 16, AccessKind::kLoad, __builtin_return_address(0)); }
void __tsan_unaligned_write2(void* p) { range(p, 2, AccessKind::kStore, __builtin_return_address(0)); }
void __tsan_unaligned_write4(void* p) { range(p, 4, AccessKind::kStore, __builtin_return_address(0)); }
void __tsan_unaligned_write8(void* p) { range(p, 8, AccessKind::kStore, __builtin_return_address(0)); }
void __tsan_unaligned_write16(void* p) { range(p, 16, AccessKind::kStore, __builtin_return_address(0)); }
void __tsan_read_range(void* p, unsigned long bytes) {
  range(p, bytes, AccessKind::kLoad, __builtin_return_address(0));
}
void __tsan_write_range(void* p, unsigned long bytes) {
  range(p, bytes, AccessKind::kStore, __builtin_return_address(0));
}

// Host code of a kernel's file: guards of local statics, reference counts.
unsigned char __tsan_atomic8_load(const volatile unsigned char* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
unsigned __tsan_atomic32_fetch_add(volatile unsigned* p, unsigned value, int) {
  return __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST);
}

}  // extern "C"
