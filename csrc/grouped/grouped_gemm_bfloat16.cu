// The implicit GEMM for bfloat16: grouped_gemm.h.
#include "csrc/grouped/grouped_gemm_mma.h"

namespace convbound::grouped {

KernelRows gemm_bfloat16_rows() { return gemm_mma_rows<__nv_bfloat16>(); }

}  // namespace convbound::grouped
