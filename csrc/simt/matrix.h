// ldmatrix and mma.sync: what common/ptx.h calls in the host build, and how they are completed for a warp.
//
// Fragments are laid out as the PTX ISA documents them ("Matrix Fragments for mma.m16n8k16"…); g = lane / 4, t = lane %
// 4, and a 32-bit register holds two 16-bit elements of neighbouring columns (A) or rows (B):
//   m16n8k16  A 16x16: a0 (g, 2t) a1 (g+8, 2t) a2 (g, 2t+8) a3 (g+8, 2t+8)   B 16x8: b0 (2t, g) b1 (2t+8, g)
//   m16n8k8   A 16x8:  a0 (g, 2t) a1 (g+8, 2t)                              B 8x8:  b0 (2t, g)
//   tf32      A 16x8:  a0 (g, t)  a1 (g+8, t)  a2 (g, t+4)  a3 (g+8, t+4)    B 8x8:  b0 (t, g)  b1 (t+4, g)
//   all       C 16x8:  c0 c1 (g, 2t) (g, 2t+1)   c2 c3 (g+8, 2t) (g+8, 2t+1)
// ldmatrix: lane 8i + r gives the address of row r of matrix i; each lane gets of every 8x8 matrix the elements (g, 2t)
// and (g, 2t+1), transposed (2t, g) and (2t+1, g).
#pragma once

#include <cstdint>

#include "csrc/simt/cuda/warp_intrinsics.h"

namespace convbound::simt {

enum class MmaType : uint8_t { kFloat16, kBFloat16, kTf32 };

void async_copy(void* shared, const void* global, unsigned bytes, unsigned source_bytes);
void async_commit();
void async_wait(unsigned groups_allowed);
void async_wait_all();
void load_matrix(uint32_t* registers, int matrices, bool transpose, const void* row, Site site);
// `depth` is 16 or 8, for tf32 8.
void mma(MmaType type, int depth, float* d, const uint32_t* a, const uint32_t* b, const float* c, Site site);

struct WarpCall;
void complete_load_matrix(WarpCall* const* calls);
void complete_mma(WarpCall* const* calls);

}  // namespace convbound::simt
