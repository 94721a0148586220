// Depthwise fprop and dgrad for AVX-512 (F, BW, VL, DQ): 32 registers hold two columns of 7 sums, 7 taps and the
// operands.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)

#include "depthwise_gather_nchw.h"
#include "depthwise_gather_nhwc.h"
#include "simd_avx512.h"

namespace convbound::cpu {

const GatherKernels kDepthwiseGatherAvx512 = {gather_nchw<Vector16, Vector8>, gather_nhwc<Vector16>};

}  // namespace convbound::cpu

#endif
