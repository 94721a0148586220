// What AddressSanitizer and ThreadSanitizer must be told about fibers; nothing in an ordinary build.
//
// Under TSan the emulator itself is compiled without -fsanitize=thread and with CONVBOUND_SIMT_TSAN, so that its own
// bookkeeping stays out of sight: TSan sees the kernels, one TSan fiber per emulated thread, and the order that
// barriers give (release on arrival, acquire on departure). A switch by itself synchronises nothing.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(CONVBOUND_SIMT_TSAN)
extern "C" {
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void* __tsan_get_current_fiber();
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void __tsan_read_range(void* address, unsigned long bytes);
void __tsan_write_range(void* address, unsigned long bytes);
}
#endif

namespace convbound::simt::sanitizer {

#if defined(CONVBOUND_SIMT_TSAN)
inline constexpr bool kThreadSanitizer = true;
inline void acquire(const void* address) { __tsan_acquire(const_cast<void*>(address)); }
inline void release(const void* address) { __tsan_release(const_cast<void*>(address)); }
inline void read_range(const void* address, size_t bytes) { __tsan_read_range(const_cast<void*>(address), bytes); }
inline void write_range(void* address, size_t bytes) { __tsan_write_range(address, bytes); }
#else
inline constexpr bool kThreadSanitizer = false;
inline void acquire(const void*) {}
inline void release(const void*) {}
inline void read_range(const void*, size_t) {}
inline void write_range(void*, size_t) {}
#endif

}  // namespace convbound::simt::sanitizer
