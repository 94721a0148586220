#if defined(__AVX2__) && defined(__FMA__)

#include "convert_simd.h"
#include "simd_avx2.h"

namespace convbound::cpu {

const Converters kConvertAvx2 = kConverters<Vector8>;

}  // namespace convbound::cpu

#endif
