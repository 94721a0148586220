// Depthwise fprop for AVX2 and FMA: 16 registers hold 7 sums, 7 taps and one operand.
#if defined(__AVX2__) && defined(__FMA__)

#include "depthwise_fprop_nchw.h"
#include "depthwise_fprop_nhwc.h"
#include "simd_avx2.h"

namespace convbound::cpu {

const DepthwiseKernels kDepthwiseFpropAvx2 = {depthwise_nchw<Vector8, Vector8>, depthwise_nhwc<Vector8>};

}  // namespace convbound::cpu

#endif
