// The door between instrumented kernels and the checker: tsan_callbacks.cpp opens it where it is linked.
#pragma once

namespace convbound::simt {

// Defined in tsan_callbacks.cpp. A library without that file has no definition, and the address is null.
extern "C" __attribute__((weak, visibility("hidden"))) void convbound_simt_instrumentation();

inline bool instrumentation_linked() { return &convbound_simt_instrumentation != nullptr; }

}  // namespace convbound::simt
