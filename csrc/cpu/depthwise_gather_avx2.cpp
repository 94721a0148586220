// Depthwise fprop and dgrad for AVX2 and FMA: 16 registers hold 7 sums, 7 taps and one operand.
#if defined(__AVX2__) && defined(__FMA__)

#include "depthwise_gather_nchw.h"
#include "depthwise_gather_nhwc.h"
#include "simd_avx2.h"

namespace convbound::cpu {

const GatherKernels kDepthwiseGatherAvx2 = {gather_nchw<Vector8, Vector8>, gather_nhwc<Vector8>};

}  // namespace convbound::cpu

#endif
