// depthwise_wgrad_nchw_mma: the gradient of depthwise filters from 3x3 to 7x7 and of biases in 16 bits, at strides 1
// and 2, on tensor cores (depthwise_wgrad.h has the equation).
//
// A product has 16 columns of x (j, the rows of A), 8 columns of dy (i) and 16 positions (the depth). A position is 8
// columns of a row of dy, from column 8u on, with the columns of x that they meet:
//
//   C_r[j, i] = sum over images, rows p and u of x[p + r - padding, 8u + j - padding] * dy[p, 8u + i]
//   dw[r, s]  = sum over i of C_r[i + s, i]
//
// So a filter row is one product, and its S columns are diagonals of C_r. At S = 7 they are 44 % of it, at S = 3 19 %.
// A row of x is loaded once as A; the last R rows of dy stay in registers as B. One more product, of ones and dy,
// gives the bias. At stride 2, even and odd columns of x are two products.
//
// A register of A or B holds the same column of two positions. So threads load 16-bit elements and join them by PRMT,
// which also puts zeros in place of columns beside the row. That serves any width, padding and alignment, and the rows
// lie in shared memory as they came, by 16-byte cp.async. Where a thread's four positions are neighbours (wide), column
// j + 8 of one is column j of the next, and 5 loads make A. Narrow planes take positions from 4 images, and 8 loads.
//
// A block has one channel, or 2 or 4 of small planes, and walks through rounds of images. A round is one stage: three
// or four blocks on a multiprocessor copy while others multiply. The rows of a plane are read once; only planes beyond
// 53 KB (x and dy) are cut into strips, whose halos are read again.
//
// Floor: x and dy once, 4 bytes a position. Counted for sm_80 in fp16: 25 instructions for each row of 128 positions at
// 3x3, where all rows are there; for all of the kernel about 11 a position at 3x3 on 56 x 56 (batch 32). By trace
// (docs/prediction.md) 11, 12 and 14 at 7x7 on 56 x 56, 28 x 28 and 14 x 14, 19 on 7 x 7 (where half of the rows of a
// filter are padding). The FMA kernel takes about 84 at 7x7. SM-L2 traffic: 1.00 to 1.12. DRAM binds.
//
// A thread multiplies zeros, too: an infinity or NaN of x or dy reaches taps that it has no part in.
#include "csrc/common/divisor.h"
#include "csrc/common/numeric.h"
#include "csrc/common/ptx.h"
#include "csrc/common/shared.h"
#include "csrc/common/vector.h"
#include "csrc/depthwise/depthwise_wgrad_mma_plan.h"

namespace convbound::depthwise {

namespace {

template <typename T>
struct WgradMmaParams {
  WgradMmaPlan plan;
  const T *x, *dy;
  PartialSums<T> sums;
  bool x_vectors, dy_vectors;  // whether slots are copied by 16 bytes
  IndexDivisor channel_blocks, multiplier, strip_rounds, column_groups, values, filter_columns;
};

// What a block has of the work.
struct MmaBlock {
  int channel, channels;  // of dy
  int split, first, end;  // rounds
  int warp, lane;
  int64_t x_plane, dy_plane;  // elements before the block's first plane of an image

  template <typename T>
  __device__ __forceinline__ explicit MmaBlock(const WgradMmaParams<T>& params) {
    const WgradMmaPlan& plan = params.plan;
    const auto [split_of_block, channel_block] = divide(static_cast<int>(blockIdx.x), params.channel_blocks);
    split = split_of_block;
    channel = channel_block * plan.block_channels;
    channels = min(plan.block_channels, plan.channels - channel);
    first = split * plan.block_rounds;
    end = min(first + plan.block_rounds, plan.rounds);
    // By a shuffle the compiler knows that the warp's branches do not diverge.
    warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
    lane = static_cast<int>(threadIdx.x) % 32;
    x_plane = static_cast<int64_t>(divide(channel, params.multiplier).quotient) * plan.h.input * plan.w.input;
    dy_plane = static_cast<int64_t>(channel) * plan.h.output * plan.w.output;
  }
};

// The images and rows of a round, and the elements of the tensors that its first slot begins with.
struct MmaRound {
  int bundle;           // the first
  int first, rows;      // of dy
  int x_first, x_rows;  // that meet them
  int line;             // of x: the first that meets them, counted from x_first
  int64_t image, x, dy;

  template <typename Traits>
  __device__ __forceinline__ static MmaRound of(const WgradMmaPlan& plan, const MmaBlock& block, int index,
                                                const IndexDivisor& strip_rounds) {
    const auto [strip, number] = divide(index, strip_rounds);
    MmaRound round;
    round.bundle = number * plan.round_bundles;
    round.first = strip * plan.strip_rows;
    round.rows = min(plan.strip_rows, plan.h.output - round.first);
    const int from = round.first * Traits::kStride - plan.h.padding;
    const int to = from + (round.rows - 1) * Traits::kStride + plan.h.filter;
    round.x_first = min(max(from, 0), plan.h.input);
    round.x_rows = min(max(to, round.x_first), plan.h.input) - round.x_first;
    round.line = from - round.x_first;
    round.image = static_cast<int64_t>(round.bundle) * Traits::kImages;
    round.x = round.image * plan.x.image + block.x_plane + round.x_first * plan.w.input;
    round.dy = round.image * plan.dy.image + block.dy_plane + round.first * plan.w.output;
    return round;
  }
};

// Elements of the tensor that lie before a run in its slot.
__device__ __forceinline__ int before_run(int begin, bool vectors) {
  return vectors ? begin & (kVectorElements<__half> - 1) : 0;
}

// Starts to copy tensor[begin, begin + count) to its slot, as the piece-th of so many warps. Vectors: from the 16-byte
// boundary before the run to the one behind it, which lie inside of the tensor.
template <typename T>
__device__ __forceinline__ void copy_slot(unsigned char* slot, const T* tensor, int64_t begin, int count, bool vectors,
                                          int piece, int pieces_log2) {
  constexpr int kElements = kVectorElements<T>, kTurn = 4 * 32;  // vectors that a warp copies in a turn
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (vectors) {
    const int before = before_run(static_cast<int>(begin), true), all = (before + count + kElements - 1) / kElements;
    const int first = piece * kTurn + lane, step = kTurn << pieces_log2;
    const T* from = tensor + (begin - before) + first * kElements;
    slot += first * kVectorBytes;
    for (int at = first; at < all; at += step, from += step * kElements, slot += step * kVectorBytes) {
#pragma unroll
      for (int i = 0; i < kTurn; i += 32) {
        if (at + i < all) ptx::cp_async<kVectorBytes>(slot + i * kVectorBytes, from + i * kElements);
      }
    }
  } else {
#pragma unroll 1
    for (int i = piece * 32 + lane; i < count; i += 32 << pieces_log2) {
      reinterpret_cast<T*>(slot)[i] = tensor[begin + i];
    }
  }
}

// Starts to copy a round. The slots of one warp are of every so many images, always in the same region. Where there is
// no image left, dy is zero.
template <typename Traits, typename T = typename Traits::Element>
__device__ __forceinline__ void load_round(unsigned char* shared, const WgradMmaParams<T>& params,
                                           const MmaBlock& block, const MmaRound& round) {
  const WgradMmaPlan& plan = params.plan;
  const int teams = kMmaWarps >> plan.pieces_log2, slots = plan.round_bundles * Traits::kImages;
  const int team = block.warp >> plan.pieces_log2, piece = block.warp & ((1 << plan.pieces_log2) - 1);
  const int region = team % Traits::kImages, bundle = team / Traits::kImages, bundles = teams / Traits::kImages;
  const int more = block.channels - 1;
  const int x_count = (round.x_rows + (plan.outputs == 1 ? more * plan.h.input : 0)) * plan.w.input;
  const int dy_count = (round.rows + more * plan.h.output) * plan.w.output;
  unsigned char* x_slot = shared + kMmaZeros + region * Traits::kXRegion + bundle * plan.x_slot_bytes;
  unsigned char* dy_slot =
      shared + plan.dy_offset + kMmaZeros + region * Traits::kDyRegion + bundle * plan.dy_slot_bytes;
  int64_t image = round.image + team, x = round.x + team * plan.x.image, dy = round.dy + team * plan.dy.image;
  for (int slot = team; slot < slots; slot += teams) {
    if (image < plan.images) {
      copy_slot(x_slot, params.x, x, x_count, params.x_vectors, piece, plan.pieces_log2);
      copy_slot(dy_slot, params.dy, dy, dy_count, params.dy_vectors, piece, plan.pieces_log2);
    } else {
      const int vectors = plan.dy_slot_bytes / kVectorBytes;
#pragma unroll 1
      for (int i = piece * 32 + block.lane; i < vectors; i += 32 << plan.pieces_log2) {
        reinterpret_cast<uint4*>(dy_slot)[i] = make_uint4(0, 0, 0, 0);
      }
    }
    image += teams, x += teams * plan.x.image, dy += teams * plan.dy.image;
    x_slot += bundles * plan.x_slot_bytes, dy_slot += bundles * plan.dy_slot_bytes;
  }
}

// PRMT's selector for a pair of 16-bit values in the lower halves of two registers, with zeros for those that do not
// count. Their upper halves are zeros.
__device__ __forceinline__ unsigned select_pair(bool low, bool high) {
  return (low ? 0x0010u : 0x0032u) | (high ? 0x5400u : 0x7600u);
}

__device__ __forceinline__ unsigned load_half(const unsigned char* at) {
  return *reinterpret_cast<const unsigned short*>(at);
}

// A thread's part of its track: which columns it reads, which of them count, and where it begins in shared memory.
template <typename Traits>
struct MmaTrack {
  using T = typename Traits::Element;
  static constexpr int kStride = Traits::kStride, kLoads = Traits::kLoads;
  static constexpr bool kWide = Traits::kImages == 1;
  int bundle;      // the first
  int part_first;  // row of dy
  int x, dy;       // bytes from the first row of a slot
  unsigned select_x[kStride][4], select_dy[2];

  // Which loads make the pair of elements in register i of A.
  static constexpr int low(int i) { return kWide ? i : i / 2 * 4 + i % 2; }
  static constexpr int high(int i) { return low(i) + (kWide ? 1 : 2); }
  // Columns of x from the first one of a load, and the image that it is from.
  static constexpr int column(int load) { return (kWide ? load : load % 2) * kMmaColumns * kStride; }
  static constexpr int image(int load) { return kWide ? 0 : load / 2; }

  __device__ __forceinline__ MmaTrack(const WgradMmaParams<T>& params, const MmaBlock& block) {
    const WgradMmaPlan& plan = params.plan;
    const int channel = block.warp >> plan.channel_warps_log2;
    const int warp = block.warp & ((1 << plan.channel_warps_log2) - 1), part = warp >> plan.part_warps_log2;
    const int part_warp = warp & ((1 << plan.part_warps_log2) - 1);
    const int track = part_warp * kMmaTracks + block.lane % kMmaTracks;
    const auto [first_bundle, group] = divide(track, params.column_groups);
    const bool exists = first_bundle < plan.track_bundles;
    const int q = group * Traits::kAdjacent * kMmaColumns + block.lane / kMmaTracks;
    const int w = q * kStride - plan.w.padding;
    bundle = exists ? first_bundle : plan.round_bundles;
    part_first = part * plan.part_rows;
    // Threads without columns that count stay near the row, so that they read shared memory.
    const int x_column = min(max(w, -Traits::kSpan), plan.w.input), x_channel = plan.outputs == 1 ? channel : 0;
    x = 2 * ((x_channel * plan.h.input + part_first * kStride) * plan.w.input + x_column);
    dy = 2 * ((channel * plan.h.output + part_first) * plan.w.output + q);
    const auto x_counts = [&](int column) { return within(w + column, plan.w.input); };
    const auto dy_counts = [&](int i) { return q + (kWide ? i * kMmaColumns : 0) < plan.w.output; };
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
      for (int parity = 0; parity < kStride; parity++) {
        select_x[parity][i] = select_pair(x_counts(column(low(i)) + parity), x_counts(column(high(i)) + parity));
      }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) select_dy[i] = select_pair(dy_counts(2 * i), dy_counts(2 * i + 1));
  }

  // A row of dy as B.
  __device__ __forceinline__ void load_dy(uint32_t (&b)[2], const unsigned char* from) const {
    constexpr int kStep = kWide ? 2 * kMmaColumns : Traits::kDyRegion;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      b[i] = __byte_perm(load_half(from + 2 * i * kStep), load_half(from + (2 * i + 1) * kStep), select_dy[i]);
    }
  }

  // The columns of one parity of a row of x as A.
  __device__ __forceinline__ void load_x(uint32_t (&a)[4], const unsigned char* from, int parity) const {
    unsigned value[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; i++) {
      value[i] = load_half(from + image(i) * Traits::kXRegion + 2 * (column(i) + parity));
    }
#pragma unroll
    for (int i = 0; i < 4; i++) a[i] = __byte_perm(value[low(i)], value[high(i)], select_x[parity][i]);
  }
};

template <typename Traits>
struct MmaSums {
  using T = typename Traits::Element;
  static constexpr int kStride = Traits::kStride, kDepth = Traits::kDepth;

  float taps[Traits::kRows][kStride][4] = {};
  float bias[4] = {};

  // A row of x times the rows of dy that it meets, in filter rows first, first + stride, ...
  __device__ __forceinline__ void multiply(const MmaTrack<Traits>& track, const unsigned char* from, int first,
                                           const uint32_t (&window)[kDepth][2], int newest) {
#pragma unroll
    for (int parity = 0; parity < kStride; parity++) {
      uint32_t a[4];
      track.load_x(a, from, parity);
#pragma unroll
      for (int m = 0; m < kDepth; m++) {
        const int r = first + m * kStride;
        if (r >= Traits::kRows) continue;
        ptx::mma_m16n8k16<T>(taps[r][parity], a, window[(newest + kDepth - m) % kDepth], taps[r][parity]);
      }
    }
  }

  // kDepth rows of dy, of which the first `rows` are there, and the rows of x from `line` on, of which [0, lines) are.
  template <bool kAllThere>
  __device__ __forceinline__ void take(const MmaTrack<Traits>& track, const unsigned char* x, const unsigned char* dy,
                                       int x_pitch, int dy_pitch, int rows, int line, int lines,
                                       const uint32_t (&ones)[4], uint32_t (&window)[kDepth][2]) {
#pragma unroll
    for (int newest = 0; newest < kDepth; newest++) {
      window[newest][0] = window[newest][1] = 0;
      if (kAllThere || newest < rows) {
        track.load_dy(window[newest], dy + newest * dy_pitch);
        ptx::mma_m16n8k16<T>(bias, ones, window[newest], bias);
      }
#pragma unroll
      for (int e = 0; e < kStride; e++) {
        const int i = newest * kStride + e;
        if (kAllThere || within(line + i, lines)) multiply(track, x + i * x_pitch, e, window, newest);
      }
    }
  }

  // Walks down a part. Most rows are taken without comparisons and branches.
  __device__ __forceinline__ void walk(const MmaTrack<Traits>& track, const unsigned char* x, const unsigned char* dy,
                                       int x_pitch, int dy_pitch, int rows, int steps, int line, int lines,
                                       const uint32_t (&ones)[4]) {
    constexpr int kLines = kDepth * kStride;
    uint32_t window[kDepth][2] = {};
    for (int step = 0; step < steps; step += kDepth) {
      const int left = rows - step;
      if (kDepth <= left && line >= 0 && line + kLines <= lines) {
        take<true>(track, x, dy, x_pitch, dy_pitch, left, line, lines, ones, window);
      } else {
        take<false>(track, x, dy, x_pitch, dy_pitch, left, line, lines, ones, window);
      }
      line += kLines, x += kLines * x_pitch, dy += kDepth * dy_pitch;
    }
  }

  // What a warp's tracks have of a round.
  __device__ __forceinline__ void add_round(const WgradMmaParams<T>& params, const MmaTrack<Traits>& track,
                                            const MmaRound& round, const unsigned char* shared) {
    constexpr uint32_t kOnes = std::is_same_v<T, __half> ? 0x3c003c00u : 0x3f803f80u;
    const WgradMmaPlan& plan = params.plan;
    // By shuffles they stay in registers; constants would be written there before each product.
    uint32_t ones[4];
#pragma unroll
    for (int i = 0; i < 4; i++) ones[i] = __shfl_sync(0xffffffffu, kOnes, i);
    const int rows = min(plan.part_rows, round.rows - track.part_first);
    const int line = round.line + track.part_first * kStride;
    const int lines = max(min(round.x_rows, line + (rows - 1) * kStride + plan.h.filter), 0);
    const int steps = rows > 0 ? max(rows, (lines - line + kStride - 1) / kStride) : 0;
    int bundle = track.bundle;
    for (int turn = 0; turn < plan.turns; turn++, bundle += plan.track_bundles) {
      const bool active = bundle < plan.round_bundles;
      const int at = active ? bundle : 0;
      const int before_x =
          before_run(static_cast<int>(round.x) + at * static_cast<int>(plan.x.image), params.x_vectors);
      const int before_dy =
          before_run(static_cast<int>(round.dy) + at * static_cast<int>(plan.dy.image), params.dy_vectors);
      // Tracks without a bundle read zeros.
      const int x = kMmaZeros + at * plan.x_slot_bytes + 2 * (before_x + round.line * plan.w.input) + track.x;
      const int dy = plan.dy_offset + (active ? kMmaZeros + at * plan.dy_slot_bytes + 2 * before_dy + track.dy : 0);
      walk(track, shared + x, shared + dy, 2 * plan.w.input, active ? 2 * plan.w.output : 0, rows, steps, line, lines,
           ones);
    }
  }

  // The matrices of sums to shared memory: for each filter row and parity, and the bias.
  __device__ __forceinline__ void store(float* to, int lane) const {
    const int g = lane / 4, t = lane % 4;
    float2* const at = reinterpret_cast<float2*>(to + g * kMmaColumns + 2 * t);
    constexpr int kLower = Traits::kMatrix / 4;  // from row g to row g + 8
#pragma unroll
    for (int i = 0; i < Traits::kMatrices; i++) {
      const bool is_bias = i + 1 == Traits::kMatrices;
      const float* const sum = is_bias ? bias : taps[i / kStride % Traits::kRows][i % kStride];
      at[i * Traits::kMatrix / 2] = make_float2(sum[0], sum[1]);
      at[i * Traits::kMatrix / 2 + kLower] = make_float2(sum[2], sum[3]);
    }
  }
};

// dw[r, s] is the sum of a diagonal, over the warps of a channel.
template <typename Traits>
__device__ __forceinline__ void write_sums(const float* sums, const WgradMmaParams<typename Traits::Element>& params,
                                           const MmaBlock& block) {
  constexpr int kWarpFloats = Traits::kMatrices * Traits::kMatrix;
  const WgradMmaPlan& plan = params.plan;
  const int taps = plan.h.filter * plan.w.filter, all = block.channels * (taps + 1);
  const int warps = 1 << plan.channel_warps_log2;
  for (int i = static_cast<int>(threadIdx.x); i < all; i += kMmaThreads) {
    const auto [channel, tap] = divide(i, params.values);
    const auto [r, s] = divide(tap, params.filter_columns);
    const bool is_bias = tap == taps;
    const int matrix = is_bias ? Traits::kMatrices - 1 : r * Traits::kStride + s % Traits::kStride;
    const int row = is_bias ? 0 : s / Traits::kStride, step = is_bias ? 1 : kMmaColumns + 1;
    const float* at =
        sums + (channel << plan.channel_warps_log2) * kWarpFloats + matrix * Traits::kMatrix + row * kMmaColumns;
    float sum = 0;
    for (int warp = 0; warp < warps; warp++, at += kWarpFloats) {
#pragma unroll
      for (int column = 0; column < kMmaColumns; column++) sum += at[column * step];
    }
    const int64_t output = is_bias ? static_cast<int64_t>(plan.channels) * taps + block.channel + channel
                                   : static_cast<int64_t>(block.channel + channel) * taps + tap;
    params.sums.write(block.split, output, sum);
  }
}

template <typename Traits>
__global__ void __launch_bounds__(kMmaThreads, Traits::kBlocks)
    depthwise_wgrad_nchw_mma(const __grid_constant__ WgradMmaParams<typename Traits::Element> params) {
  const WgradMmaPlan& plan = params.plan;
  const MmaBlock block(params);
  unsigned char* const shared = dynamic_shared<unsigned char>();
  // Zeros before the slots; and in all of them, for threads read beside rows what they leave out then.
  const int vectors = plan.slots_end / kVectorBytes;
  for (int i = static_cast<int>(threadIdx.x); i < vectors; i += kMmaThreads) {
    dynamic_shared<uint4>()[i] = make_uint4(0, 0, 0, 0);
  }
  __syncthreads();

  const MmaTrack<Traits> track(params, block);
  MmaSums<Traits> sums;
  for (int index = block.first; index < block.end; index++) {
    const MmaRound round = MmaRound::of<Traits>(plan, block, index, params.strip_rounds);
    load_round<Traits>(shared, params, block, round);
    ptx::cp_async_wait_all();
    __syncthreads();
    if (block.warp < block.channels << plan.channel_warps_log2) sums.add_round(params, track, round, shared);
    __syncthreads();
  }
  float* const matrices = dynamic_shared<float>();
  sums.store(matrices + block.warp * Traits::kMatrices * Traits::kMatrix, block.lane);
  __syncthreads();
  write_sums<Traits>(matrices, params, block);
}

template <typename Traits, typename T = typename Traits::Element>
WgradMmaParams<T> wgrad_mma_params(const WgradMmaPlan& plan, const Tensors& t, const PartialSums<T>& sums) {
  // The images of a lane lie alike in their slots, and what is copied lies inside of the tensor.
  const auto vectors = [&](const void* tensor, int64_t image) {
    const int64_t elements = Traits::kImages == 1 ? plan.images % 8 * (image % 8) : image;
    return at_boundary(tensor) && elements % 8 == 0;
  };
  return {plan,
          static_cast<const T*>(t.x),
          static_cast<const T*>(t.y),
          sums,
          vectors(t.x, plan.x.image),
          vectors(t.y, plan.dy.image),
          IndexDivisor(plan.channel_blocks),
          IndexDivisor(plan.outputs),
          IndexDivisor(plan.strip_rounds),
          IndexDivisor(plan.column_groups),
          IndexDivisor(plan.taps() + 1),
          IndexDivisor(plan.w.filter)};
}

template <typename Traits, typename T = typename Traits::Element>
LaunchPlan plan_mma_instance(const KernelRow& row, const ConvProblem& p, const Device& device) {
  const std::optional<WgradMmaPlan> found = plan_wgrad_mma<Traits>(wgrad_view(p, Layout::kChannelsFirst), device);
  if (!found) return refuse("rows too long for shared memory or for the tracks of a block");
  return plan_with_sums<T>(row, depthwise_wgrad_nchw_mma<Traits>, wgrad_mma_shape(*found), *found,
                           [plan = *found](const Tensors& tensors, const PartialSums<T>& sums) {
                             return wgrad_mma_params<Traits>(plan, tensors, sums);
                           });
}

inline std::string wgrad_mma_refuse(const ConvProblem& p) {
  constexpr int64_t kMostSide = 16384, kMost = (1 << 28) - 1;
  if (std::string reason = first_of({size_beyond(p, kMost), not_depthwise_2d(p)}); !reason.empty()) return reason;
  if (p.n > kMost) return "images beyond 2^28";
  if (p.stride[1] != p.stride[2] || p.stride[1] > 2) return "made for strides 1x1 and 2x2";
  for (int axis = 1; axis < 3; axis++) {
    if (p.dilation[axis] != 1) return "a dilation";
    if (p.filter[axis] < 3 || p.filter[axis] > 7) return "made for filters from 3x3 to 7x7";
    const bool small = p.input[axis] < kMostSide && p.output[axis] < kMostSide && p.padding[axis] < kMostSide &&
                       p.padding[axis] > -kMostSide;
    if (!small) return "a side or padding of 16384 and more";
  }
  return {};
}

template <typename T>
LaunchPlan plan_mma_row(const KernelRow& row, const ConvProblem& p, const Device& device) {
  if (std::string reason = wgrad_mma_refuse(p); !reason.empty()) return refuse(std::move(reason));
  const auto with_stride = [&]<int kRows, int kAdjacent> {
    return p.stride[1] == 1 ? plan_mma_instance<WgradMmaTraits<T, kRows, kAdjacent, 1>>(row, p, device)
                            : plan_mma_instance<WgradMmaTraits<T, kRows, kAdjacent, 2>>(row, p, device);
  };
  const auto with_rows = [&]<int kAdjacent> {
    return p.filter[1] == 3   ? with_stride.template operator()<3, kAdjacent>()
           : p.filter[1] <= 5 ? with_stride.template operator()<5, kAdjacent>()
                              : with_stride.template operator()<7, kAdjacent>();
  };
  // Four neighbours where a third of them at most would be beyond the row.
  const int64_t groups = divide_up(p.output[2], kMmaColumns);
  return 4 * groups >= 3 * round_up(groups, 4) ? with_rows.template operator()<4>()
                                               : with_rows.template operator()<1>();
}

}  // namespace

KernelRows wgrad_nchw_mma_rows() {
  return rows_of_types<__half, __nv_bfloat16>([&]<typename T> {
    return KernelRows{{.name = "depthwise_wgrad_nchw_mma",
                       .family = Family::kDepthwise,
                       .pass = Pass::kWgrad,
                       .dtype = kDTypeOf<T>,
                       .layout = Layout::kChannelsFirst,
                       .min_arch = 80,
                       .tensor_cores = true,
                       .tile = std::to_string(kMmaWarps) + " warps of 16 columns of x by 8 of dy, 16 positions deep",
                       .plan = plan_mma_row<T>}};
  });
}

}  // namespace convbound::depthwise
