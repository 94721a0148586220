// The instruction sets that the native CPU kernels are built for, and the one that this process should use.
#pragma once

namespace convbound::cpu {

enum class Isa { kGeneric, kAvx2, kAvx512 };

// What the CPU and the operating system offer, lowered by CONVBOUND_CPU_ISA=generic|avx2|avx512 (read at each call, so
// that a test can set it at run time; any other value changes nothing). kAvx2 includes FMA and F16C; kAvx512 is F, BW,
// VL and DQ.
Isa isa();

// "generic", "avx2" or "avx512".
const char* isa_name(Isa isa);

}  // namespace convbound::cpu
