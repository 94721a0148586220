// The grouped kernels for AVX2, FMA and F16C.
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include "grouped_quad_avx2.h"
#include "grouped_wgrad_sums.h"

namespace convbound::cpu {

const GroupedKernels kGroupedAvx2 = make_grouped_kernels<Vector8>();

}  // namespace convbound::cpu

#endif
