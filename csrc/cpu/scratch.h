// Memory of the CPU kernels' own: tiles and partial sums, aligned to a cache line.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace convbound::cpu {

struct FreeScratch {
  void operator()(float* p) const { ::operator delete(p, std::align_val_t{64}); }
};
using Scratch = std::unique_ptr<float, FreeScratch>;

inline Scratch allocate_scratch(int64_t floats) {
  return Scratch(
      static_cast<float*>(::operator new(static_cast<size_t>(floats) * sizeof(float), std::align_val_t{64})));
}

}  // namespace convbound::cpu
