// Barriers, shuffles, votes and reductions: what threads of a block or warp do together.
//
// Every function takes the place of its call as a last, defaulted argument. It identifies the barrier or shuffle in
// errors, and stays right when the compiler copies the call into several branches, which a return address would not.
#pragma once

#include <bit>
#include <cstdint>
#include <source_location>
#include <type_traits>

#include "csrc/simt/cuda/qualifiers.h"

namespace convbound::simt {

using Site = std::source_location;

enum class BarrierKind : uint8_t { kPlain, kCount, kAnd, kOr };
enum class WarpOp : uint8_t {
  kSync,
  kShuffleIndex,
  kShuffleUp,
  kShuffleDown,
  kShuffleXor,
  kBallot,
  kReduceAdd,
  kReduceMinSigned,
  kReduceMaxSigned,
  kReduceMin,
  kReduceMax,
  kReduceAnd,
  kReduceOr,
  kReduceXor,
  kLoadMatrix,
  kMma,
};

// Implemented by the emulator (warp.cpp).
int block_barrier(BarrierKind kind, int predicate, Site site);
uint64_t warp_collective(WarpOp op, unsigned mask, uint64_t value, int operand, int width, Site site);
unsigned active_mask();
void memory_fence();
[[noreturn]] void trap(Site site);

// The types whose __shfl_*_sync CUDA has: arithmetic of 4 or 8 bytes, and the 16-bit floats (narrow_float.h).
template <typename T>
inline constexpr bool is_shuffled = std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8);

template <typename T>
  requires is_shuffled<T>
T shuffle(WarpOp op, unsigned mask, T value, int operand, int width, Site site) {
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  bits = warp_collective(op, mask, bits, operand, width, site);
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace convbound::simt

inline void __syncthreads(convbound::simt::Site site = convbound::simt::Site::current()) {
  convbound::simt::block_barrier(convbound::simt::BarrierKind::kPlain, 0, site);
}
inline int __syncthreads_count(int predicate, convbound::simt::Site site = convbound::simt::Site::current()) {
  return convbound::simt::block_barrier(convbound::simt::BarrierKind::kCount, predicate, site);
}
inline int __syncthreads_and(int predicate, convbound::simt::Site site = convbound::simt::Site::current()) {
  return convbound::simt::block_barrier(convbound::simt::BarrierKind::kAnd, predicate, site);
}
inline int __syncthreads_or(int predicate, convbound::simt::Site site = convbound::simt::Site::current()) {
  return convbound::simt::block_barrier(convbound::simt::BarrierKind::kOr, predicate, site);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, convbound::simt::Site site = convbound::simt::Site::current()) {
  convbound::simt::warp_collective(convbound::simt::WarpOp::kSync, mask, 0, 0, 32, site);
}
inline void __threadfence() { convbound::simt::memory_fence(); }
inline void __threadfence_block() { convbound::simt::memory_fence(); }
[[noreturn]] inline void __trap(convbound::simt::Site site = convbound::simt::Site::current()) {
  convbound::simt::trap(site);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32,
              convbound::simt::Site site = convbound::simt::Site::current()) {
  return convbound::simt::shuffle(convbound::simt::WarpOp::kShuffleIndex, mask, value, lane, width, site);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 convbound::simt::Site site = convbound::simt::Site::current()) {
  return convbound::simt::shuffle(convbound::simt::WarpOp::kShuffleUp, mask, value, static_cast<int>(delta), width,
                                  site);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   convbound::simt::Site site = convbound::simt::Site::current()) {
  return convbound::simt::shuffle(convbound::simt::WarpOp::kShuffleDown, mask, value, static_cast<int>(delta), width,
                                  site);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  convbound::simt::Site site = convbound::simt::Site::current()) {
  return convbound::simt::shuffle(convbound::simt::WarpOp::kShuffleXor, mask, value, lane_mask, width, site);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              convbound::simt::Site site = convbound::simt::Site::current()) {
  return static_cast<unsigned>(
      convbound::simt::warp_collective(convbound::simt::WarpOp::kBallot, mask, predicate != 0, 0, 32, site));
}
inline int __any_sync(unsigned mask, int predicate, convbound::simt::Site site = convbound::simt::Site::current()) {
  return __ballot_sync(mask, predicate, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, convbound::simt::Site site = convbound::simt::Site::current()) {
  return __ballot_sync(mask, predicate == 0, site) == 0;
}
inline unsigned __activemask() { return convbound::simt::active_mask(); }

inline unsigned __reduce_add_sync(unsigned mask, unsigned value,
                                  convbound::simt::Site site = convbound::simt::Site::current()) {
  return static_cast<unsigned>(
      convbound::simt::warp_collective(convbound::simt::WarpOp::kReduceAdd, mask, value, 0, 32, site));
}
inline int __reduce_add_sync(unsigned mask, int value, convbound::simt::Site site = convbound::simt::Site::current()) {
  return static_cast<int>(__reduce_add_sync(mask, static_cast<unsigned>(value), site));
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value,
                                  convbound::simt::Site site = convbound::simt::Site::current()) {
  return static_cast<unsigned>(
      convbound::simt::warp_collective(convbound::simt::WarpOp::kReduceMin, mask, value, 0, 32, site));
}
inline int __reduce_min_sync(unsigned mask, int value, convbound::simt::Site site = convbound::simt::Site::current()) {
  return static_cast<int>(convbound::simt::warp_collective(convbound::simt::WarpOp::kReduceMinSigned, mask,
                                                           static_cast<unsigned>(value), 0, 32, site));
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value,
                                  convbound::simt::Site site = convbound::simt::Site::current()) {
  return static_cast<unsigned>(
      convbound::simt::warp_collective(convbound::simt::WarpOp::kReduceMax, mask, value, 0, 32, site));
}
inline int __reduce_max_sync(unsigned mask, int value, convbound::simt::Site site = convbound::simt::Site::current()) {
  return static_cast<int>(convbound::simt::warp_collective(convbound::simt::WarpOp::kReduceMaxSigned, mask,
                                                           static_cast<unsigned>(value), 0, 32, site));
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value,
                                  convbound::simt::Site site = convbound::simt::Site::current()) {
  return static_cast<unsigned>(
      convbound::simt::warp_collective(convbound::simt::WarpOp::kReduceAnd, mask, value, 0, 32, site));
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value,
                                 convbound::simt::Site site = convbound::simt::Site::current()) {
  return static_cast<unsigned>(
      convbound::simt::warp_collective(convbound::simt::WarpOp::kReduceOr, mask, value, 0, 32, site));
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned value,
                                  convbound::simt::Site site = convbound::simt::Site::current()) {
  return static_cast<unsigned>(
      convbound::simt::warp_collective(convbound::simt::WarpOp::kReduceXor, mask, value, 0, 32, site));
}
