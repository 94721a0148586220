// The PTX instructions that CUDA C++ has no words for: cp.async, ldmatrix, mma.sync. Each has its device definition and
// its host definition (the emulator's) side by side; this is the only header that tells the two builds apart.
//
// Register fragments, with g = lane / 4 and t = lane % 4 (PTX ISA, "Matrix fragments"); a 32-bit register holds two
// 16-bit elements of neighbouring columns of A or rows of B, the lower index in the lower half:
//   mma_m16n8k16  A 16x16: a[0] (g, 2t)   a[1] (g+8, 2t)   a[2] (g, 2t+8)   a[3] (g+8, 2t+8)
//                 B 16x8:  b[0] (2t, g)   b[1] (2t+8, g)
//   mma_m16n8k8   A 16x8:  a[0] (g, 2t)   a[1] (g+8, 2t)
//                 B 8x8:   b[0] (2t, g)
//   ..._tf32      A 16x8:  a[0] (g, t)    a[1] (g+8, t)    a[2] (g, t+4)    a[3] (g+8, t+4)
//                 B 8x8:   b[0] (t, g)    b[1] (t+4, g)
//   all           C 16x8:  c[0], c[1] (g, 2t), (g, 2t+1)   c[2], c[3] (g+8, 2t), (g+8, 2t+1)
//   ldmatrix      lane 8i + r points to row r (8 elements, 16 bytes, aligned) of matrix i; every lane receives (g, 2t)
//   and
//                 (g, 2t+1) of each matrix, with kTranspose (2t, g) and (2t+1, g)
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#if !defined(__CUDACC__)
#include "csrc/simt/matrix.h"
#endif

namespace convbound::ptx {

// Keeps a pointer in registers. A compiler that sees where it comes from may add the same distance again at each use.
template <typename T>
__device__ __forceinline__ T* kept(T* pointer) {
#if defined(__CUDACC__)
  asm volatile("" : "+l"(pointer));
#endif
  return pointer;
}

// Copies kBytes (4, 8, 16) from global to shared memory without a register between; both addresses are multiples of
// kBytes. Only the first `source_bytes` are read, the rest is zero; with 0 the pointer must still be a valid one. 16
// bytes bypass L1. Below sm_80, where the instruction does not exist, the copy is an ordinary one.
template <int kBytes>
__device__ __forceinline__ void cp_async(void* shared, const void* global, int source_bytes = kBytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp.async copies 4, 8 or 16 bytes");
#if !defined(__CUDACC__)
  simt::async_copy(shared, global, kBytes, static_cast<unsigned>(source_bytes));
#elif __CUDA_ARCH__ >= 800
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(source_bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(global), "n"(kBytes),
                 "r"(source_bytes)
                 : "memory");
  }
#else
  using Word = std::conditional_t<kBytes == 16, uint4, std::conditional_t<kBytes == 8, uint2, unsigned> >;
  if (source_bytes == kBytes) {
    *static_cast<Word*>(shared) = *static_cast<const Word*>(global);
  } else {
#pragma unroll
    for (int i = 0; i < kBytes; ++i) {
      static_cast<char*>(shared)[i] = i < source_bytes ? static_cast<const char*>(global)[i] : char{0};
    }
  }
#endif
}

// Closes the group of copies issued since the last commit.
__device__ __forceinline__ void cp_async_commit() {
#if !defined(__CUDACC__)
  simt::async_commit();
#elif __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most the kGroups latest groups of this thread are still in flight. Other threads see the data only
// after a barrier.
template <int kGroups>
__device__ __forceinline__ void cp_async_wait() {
#if !defined(__CUDACC__)
  simt::async_wait(kGroups);
#elif __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#endif
}

// Waits for all copies of this thread, committed or not.
__device__ __forceinline__ void cp_async_wait_all() {
#if !defined(__CUDACC__)
  simt::async_wait_all();
#elif __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// Loads kMatrices (1, 2, 4) 8x8 matrices of 16-bit elements from shared memory into one register each.
template <int kMatrices, bool kTranspose = false>
__device__ __forceinline__ void ldmatrix(uint32_t (&registers)[kMatrices], const void* shared_row) {
  static_assert(kMatrices == 1 || kMatrices == 2 || kMatrices == 4, "ldmatrix loads 1, 2 or 4 matrices");
#if !defined(__CUDACC__)
  simt::load_matrix(registers, kMatrices, kTranspose, shared_row, simt::Site::current());
#else
  const auto row = static_cast<unsigned>(__cvta_generic_to_shared(shared_row));
  uint32_t* r = registers;
  if constexpr (kMatrices == 1 && !kTranspose) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(row) : "memory");
  } else if constexpr (kMatrices == 1) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(row) : "memory");
  } else if constexpr (kMatrices == 2 && !kTranspose) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(row)
                 : "memory");
  } else if constexpr (kMatrices == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(row)
                 : "memory");
  } else if constexpr (!kTranspose) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
  }
#endif
}

// d = a * b + c for a 16x8 tile with depth 16; T is __half or __nv_bfloat16, sums are fp32. sm_80 and later. d may be
// c.
template <typename T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                             const float (&c)[4]) {
  constexpr bool kHalf = std::is_same_v<T, __half>;
  static_assert(kHalf || std::is_same_v<T, __nv_bfloat16>, "mma_m16n8k16 multiplies __half or __nv_bfloat16");
#if !defined(__CUDACC__)
  simt::mma(kHalf ? simt::MmaType::kFloat16 : simt::MmaType::kBFloat16, 16, d, a, b, c, simt::Site::current());
#elif __CUDA_ARCH__ >= 800
  if constexpr (kHalf) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
  }
#else
  __trap();
#endif
}

// The same with depth 8: half of the work, where 16 would be half zeros.
template <typename T>
__device__ __forceinline__ void mma_m16n8k8(float (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1],
                                            const float (&c)[4]) {
  constexpr bool kHalf = std::is_same_v<T, __half>;
  static_assert(kHalf || std::is_same_v<T, __nv_bfloat16>, "mma_m16n8k8 multiplies __half or __nv_bfloat16");
#if !defined(__CUDACC__)
  simt::mma(kHalf ? simt::MmaType::kFloat16 : simt::MmaType::kBFloat16, 8, d, a, b, c, simt::Site::current());
#elif __CUDA_ARCH__ >= 800
  if constexpr (kHalf) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(b[0]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
  }
#else
  __trap();
#endif
}

// The same with depth 8 for fp32 bits of which 10 mantissa bits take part (tf32). sm_80 and later.
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                                 const float (&c)[4]) {
#if !defined(__CUDACC__)
  simt::mma(simt::MmaType::kTf32, 8, d, a, b, c, simt::Site::current());
#elif __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%10, %11, %12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
#else
  __trap();
#endif
}

}  // namespace convbound::ptx
