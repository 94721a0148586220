// Depthwise wgrad for AVX-512 (F, BW, VL, DQ).
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)

#include "depthwise_wgrad_nchw.h"
#include "depthwise_wgrad_nhwc.h"
#include "simd_avx512.h"

namespace convbound::cpu {

const WgradKernels kDepthwiseWgradAvx512 = {wgrad_nchw<Vector16>, wgrad_nhwc<Vector16>, wgrad_nchw_bias<Vector16>,
                                            wgrad_nhwc_bias<Vector16>, add_lanes<Vector16>};
const WgradKernels kDepthwiseWgradAvx512Narrow = {wgrad_nchw<Vector8>, nullptr, wgrad_nchw_bias<Vector8>, nullptr,
                                                  add_lanes<Vector8>};

}  // namespace convbound::cpu

#endif
