// The implicit GEMM for half: grouped_gemm.h.
#include "csrc/grouped/grouped_gemm_mma.h"

namespace convbound::grouped {

KernelRows gemm_half_rows() { return gemm_mma_rows<__half>(); }

}  // namespace convbound::grouped
