// Depthwise wgrad for AVX2 and FMA.
#if defined(__AVX2__) && defined(__FMA__)

#include "depthwise_wgrad_nchw.h"
#include "depthwise_wgrad_nhwc.h"
#include "simd_avx2.h"

namespace convbound::cpu {

const WgradKernels kDepthwiseWgradAvx2 = {wgrad_nchw<Vector8>, wgrad_nhwc<Vector8>, wgrad_nchw_bias<Vector8>,
                                          wgrad_nhwc_bias<Vector8>, add_lanes<Vector8>};

}  // namespace convbound::cpu

#endif
