// The implicit GEMM for float: grouped_gemm.h.
#include "csrc/grouped/grouped_gemm_fma.h"

namespace convbound::grouped {

KernelRows gemm_float_rows() { return gemm_rows<float, GemmFma, GemmTile{128, 64}, GemmTile{128, 16}>(75, false); }

}  // namespace convbound::grouped
