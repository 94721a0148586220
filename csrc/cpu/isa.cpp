#include "isa.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace convbound::cpu {
namespace {

Isa detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c")) {
    return Isa::kGeneric;
  }
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return avx512 ? Isa::kAvx512 : Isa::kAvx2;
#else
  return Isa::kGeneric;
#endif
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kGeneric:
      break;
  }
  return "generic";
}

Isa isa() {
  static const Isa offered = detect();
  const char* wanted = std::getenv("CONVBOUND_CPU_ISA");
  if (wanted == nullptr) return offered;
  for (Isa lower : {Isa::kGeneric, Isa::kAvx2}) {
    if (lower < offered && std::strcmp(wanted, isa_name(lower)) == 0) return lower;
  }
  return offered;
}

}  // namespace convbound::cpu
