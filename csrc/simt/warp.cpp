// What the barrier, shuffle, vote and reduction intrinsics do, once their lanes have come together.
#include <bit>

#include "csrc/simt/block.h"
#include "csrc/simt/matrix.h"

namespace convbound::simt {

namespace {

// What a lane gets that reads from a lane outside the mask: undefined on a GPU, all ones (NaN) here.
constexpr uint64_t kUndefined = ~uint64_t{0};

// CUDA's rule: the warp is cut into segments of `width` lanes; out of its segment, a lane keeps its own value.
int source_lane(const WarpCall& call, int lane) {
  const int segment = lane & ~(call.width - 1);
  const int last = segment + call.width - 1;
  switch (call.op) {
    case WarpOp::kShuffleIndex:
      return segment + (call.operand & (call.width - 1));
    case WarpOp::kShuffleUp:
      return lane - call.operand >= segment ? lane - call.operand : lane;
    case WarpOp::kShuffleDown:
      return lane + call.operand <= last ? lane + call.operand : lane;
    default: {
      const int partner = lane ^ call.operand;
      return partner <= last ? partner : lane;  // an earlier segment may be read, a later one not
    }
  }
}

void shuffle_lanes(WarpCall* const* calls, unsigned mask) {
  for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
    const int lane = std::countr_zero(rest);
    const int source = source_lane(*calls[lane], lane);
    calls[lane]->result = source >= 0 && source < 32 && calls[source] != nullptr ? calls[source]->value : kUndefined;
  }
}

template <typename T, typename Combine>
void reduce_lanes(WarpCall* const* calls, unsigned mask, Combine&& combine) {
  T result = static_cast<T>(calls[std::countr_zero(mask)]->value);
  for (unsigned rest = mask & (mask - 1); rest != 0; rest &= rest - 1) {
    result = combine(result, static_cast<T>(calls[std::countr_zero(rest)]->value));
  }
  for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
    calls[std::countr_zero(rest)]->result = static_cast<uint32_t>(result);
  }
}

}  // namespace

const char* op_name(WarpOp op) {
  switch (op) {
    case WarpOp::kSync:
      return "__syncwarp";
    case WarpOp::kShuffleIndex:
      return "__shfl_sync";
    case WarpOp::kShuffleUp:
      return "__shfl_up_sync";
    case WarpOp::kShuffleDown:
      return "__shfl_down_sync";
    case WarpOp::kShuffleXor:
      return "__shfl_xor_sync";
    case WarpOp::kBallot:
      return "a vote";
    case WarpOp::kLoadMatrix:
      return "ldmatrix";
    case WarpOp::kMma:
      return "mma";
    default:
      return "a warp reduction";
  }
}

void complete_collective(WarpCall* const* calls, unsigned mask) {
  switch (calls[std::countr_zero(mask)]->op) {
    case WarpOp::kSync:
      return;
    case WarpOp::kShuffleIndex:
    case WarpOp::kShuffleUp:
    case WarpOp::kShuffleDown:
    case WarpOp::kShuffleXor:
      return shuffle_lanes(calls, mask);
    case WarpOp::kBallot: {
      unsigned votes = 0;
      for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
        const int lane = std::countr_zero(rest);
        votes |= static_cast<unsigned>(calls[lane]->value) << lane;
      }
      for (unsigned rest = mask; rest != 0; rest &= rest - 1) calls[std::countr_zero(rest)]->result = votes;
      return;
    }
    case WarpOp::kReduceAdd:
      return reduce_lanes<uint32_t>(calls, mask, [](auto a, auto b) { return a + b; });
    case WarpOp::kReduceMinSigned:
      return reduce_lanes<int32_t>(calls, mask, [](auto a, auto b) { return a < b ? a : b; });
    case WarpOp::kReduceMaxSigned:
      return reduce_lanes<int32_t>(calls, mask, [](auto a, auto b) { return a > b ? a : b; });
    case WarpOp::kReduceMin:
      return reduce_lanes<uint32_t>(calls, mask, [](auto a, auto b) { return a < b ? a : b; });
    case WarpOp::kReduceMax:
      return reduce_lanes<uint32_t>(calls, mask, [](auto a, auto b) { return a > b ? a : b; });
    case WarpOp::kReduceAnd:
      return reduce_lanes<uint32_t>(calls, mask, [](auto a, auto b) { return a & b; });
    case WarpOp::kReduceOr:
      return reduce_lanes<uint32_t>(calls, mask, [](auto a, auto b) { return a | b; });
    case WarpOp::kReduceXor:
      return reduce_lanes<uint32_t>(calls, mask, [](auto a, auto b) { return a ^ b; });
    case WarpOp::kLoadMatrix:
      return complete_load_matrix(calls);
    case WarpOp::kMma:
      return complete_mma(calls);
  }
}

int block_barrier(BarrierKind kind, int predicate, Site site) { return current_block->barrier(kind, predicate, site); }

uint64_t warp_collective(WarpOp op, unsigned mask, uint64_t value, int operand, int width, Site site) {
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) {
    current_block->fail(ErrorKind::kWarpMask, site,
                        [&] { return "width " + std::to_string(width) + " is not a power of two up to 32"; });
  }
  const bool reduces = op >= WarpOp::kReduceAdd && op <= WarpOp::kReduceXor;
  if (reduces && current_block->launch().profile->capability() < 80) {
    current_block->fail(ErrorKind::kUnsupported, site, [] { return "__reduce_*_sync needs sm_80"; });
  }
  WarpCall call{op, mask, value, operand, width, 0, site, nullptr};
  current_block->collective(call);
  return call.result;
}

unsigned active_mask() { return current_block->live_lanes(); }

void memory_fence() {}

void trap(Site site) {
  current_block->fail(ErrorKind::kTrap, site, [] { return "__trap()"; });
}

}  // namespace convbound::simt
