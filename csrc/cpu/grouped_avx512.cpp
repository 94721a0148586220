// The grouped kernels for AVX-512 (F, BW, VL, DQ).
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)

#include "grouped_quad_avx512.h"
#include "grouped_wgrad_sums.h"

namespace convbound::cpu {

const GroupedKernels kGroupedAvx512 = make_grouped_kernels<Vector16>();

}  // namespace convbound::cpu

#endif
