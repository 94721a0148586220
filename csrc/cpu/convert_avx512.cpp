#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)

#include "convert_simd.h"
#include "simd_avx512.h"

namespace convbound::cpu {

const Converters kConvertAvx512 = kConverters<Vector16>;

}  // namespace convbound::cpu

#endif
