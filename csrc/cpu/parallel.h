// Threads for the CPU kernels: torch's own pool, so that torch.set_num_threads rules here too and no second pool fights
// over the cores. The kernels see only this header; csrc/ops/parallel.cpp connects it to torch.
#pragma once

#include <cstdint>
#include <type_traits>

namespace convbound::cpu {

using RangeBody = void (*)(void* context, int64_t begin, int64_t end);

// Calls body on disjoint ranges that cover [0, count), each of at least `grain` items, and returns when all are done.
void run_parallel(int64_t count, int64_t grain, RangeBody body, void* context);

// The most threads that run_parallel uses.
int max_threads();

// parallel_for(planes, 1, [&](int64_t begin, int64_t end) { ... }); the body must not throw.
template <typename Body>
static inline void parallel_for(int64_t count, int64_t grain, Body&& body) {
  using Plain = std::remove_reference_t<Body>;
  run_parallel(
      count, grain, [](void* context, int64_t begin, int64_t end) { (*static_cast<Plain*>(context))(begin, end); },
      &body);
}

}  // namespace convbound::cpu
