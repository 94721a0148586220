// Every wrapper of common/ptx.h and common/shared.h, used once: what nvcc has to accept for every architecture.
#include "csrc/common/launch.h"
#include "csrc/common/ptx.h"
#include "csrc/common/shared.h"

namespace convbound::example {

namespace {

struct Params {
  const __half* x;
  float* y;
};

__global__ void __launch_bounds__(32) every_wrapper(const __grid_constant__ Params p) {
  __half* shared = dynamic_shared<__half>();
  const int lane = static_cast<int>(threadIdx.x);
  ptx::cp_async<16>(shared + lane * 8, p.x + lane * 8);
  ptx::cp_async<8>(shared + 256 + lane * 4, p.x, lane % 2 * 8);
  ptx::cp_async_commit();
  ptx::cp_async<4>(shared + 384 + lane * 2, p.x, 0);
  ptx::cp_async_wait<1>();
  ptx::cp_async_wait_all();
  __syncthreads();
  uint32_t one[1], two[2], four[4];
  ptx::ldmatrix<1>(one, shared + lane % 8 * 8);
  ptx::ldmatrix<1, true>(one, shared + lane % 8 * 8);
  ptx::ldmatrix<2>(two, shared + lane % 16 * 8);
  ptx::ldmatrix<2, true>(two, shared + lane % 16 * 8);
  ptx::ldmatrix<4>(four, shared + lane * 8);
  ptx::ldmatrix<4, true>(four, shared + lane * 8);
  float sums[4] = {};
  ptx::mma_m16n8k16<__half>(sums, four, two, sums);
  ptx::mma_m16n8k16<__nv_bfloat16>(sums, four, two, sums);
  ptx::mma_m16n8k8<__half>(sums, two, one, sums);
  ptx::mma_m16n8k8<__nv_bfloat16>(sums, two, one, sums);
  ptx::mma_m16n8k8_tf32(sums, four, two, sums);
  p.y[lane] = sums[0] + sums[1] + sums[2] + sums[3] + static_cast<float>(one[0]);
}

}  // namespace

void use_every_wrapper(const __half* x, float* y, cudaStream_t stream) {
  launch("every_wrapper", every_wrapper, {.block_x = 32, .shared_bytes = 1024}, stream, Params{x, y});
}

}  // namespace convbound::example
