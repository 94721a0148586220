// depthwise_fprop_nhwc and depthwise_dgrad_nhwc, for filters of 3x3, 5x5 and 7x7 and multiplier 1:
//
//   y[n,k,p,q] = bias[k] + sum over r,s of x[n,k,p * stride + r - padding, ...] * w[k,r,s]
//
// With stride 1 dx is the same with the filter turned around.
//
// Floor: x and y once, 2 R S FLOPs per output. 3x3 is bound by memory everywhere, 5x5 by FMA on an A100, 7x7 on an
// H100. A block reads x once with its halo: 56 x 56 in fp16 costs 1.15 times compulsory at 3x3, 1.3 at 7x7. It reads
// its filters once. y is written once. Everything moves by 16 bytes (depthwise_nhwc_tile.h has the tile).
//
// A patch is 2 x 7 outputs of two channels: 7 divides the widths 7, 14, 28, 56 and 112 of the usual networks, and it is
// odd, which the banks like. Its 28 sums stay in registers while the rows of its input pass. Each element is loaded and
// widened once: at 3x3 36 loads and 72 conversions for 252 FMA, at 7x7 104 and 208 for 1372. A lane has two channels
// and not the eight of a 16-byte vector, which leaves room for the 3x3 filter in registers and for 6 blocks of 128
// threads on an SM.
//
// In flight: tiles of 3x3 in fp16 on 56 x 56 have 19 KB. 5 of them fit on an A100 (shared memory) and 6 on an H100
// (registers): 95 and 114 KB, where 24 and 36 are wanted, and 64 on a B200. Small images are taken several to a block.
#include "csrc/depthwise/depthwise_nhwc_tile.h"

namespace convbound::depthwise {

namespace {

// 3x3 takes slices of 64 bytes; from 5x5 on the halo is dearer, and half the slice allows a tile of twice the outputs.
template <typename Element, int kFilterSize, int kStrideSize>
struct Traits : PatchTraits<Element, kFilterSize == 3 ? 4 : 2, 2, 7> {
  using Base = PatchTraits<Element, kFilterSize == 3 ? 4 : 2, 2, 7>;
  static constexpr int kFilter = kFilterSize;
  static constexpr int kStride = kStrideSize;
  static constexpr int kTaps = kFilter * kFilter;
  static constexpr int kColumnGroup = Base::kColumns * kStride;
  static constexpr bool kSkewed = kColumnGroup % 2 == 0;
  static constexpr int kRowGroup = Base::kRows * kStride;
  static constexpr int kInputRows = (Base::kRows - 1) * kStride + kFilter;
  static constexpr int kInputColumns = (Base::kColumns - 1) * kStride + kFilter;
  __device__ static int skipped_columns(const NhwcTileParams<Element>&, int column) {
    return kSkewed ? column / kColumnGroup : 0;
  }
  __device__ static int row_groups(const NhwcTileParams<Element>&, int row) { return row / kRowGroup; }
  // A lane keeps its two filters in registers if they are 3x3; 50 or 98 of them would be too many.
  static constexpr bool kFilterInRegisters = kFilter == 3;
  static constexpr int kRawFilterBytes = kTaps * Base::kPosition;
  static constexpr int kFilterBytes = kRawFilterBytes + (kFilterInRegisters ? 0 : kTaps * Base::kChannels * 4);
  static constexpr int kBlocks = kFilter * kStride < 7 ? 6 : 5;  // 80 registers, or 96
  static constexpr int64_t kTileBytes = (kStride == 1 ? 26 : 36) * 1024;
  static constexpr int kRounds = 4;
};

// Tap t of a lane's two channels.
template <typename Tr>
__device__ __forceinline__ float2 raw_tap(const unsigned char* filter, int lane, int t) {
  const auto* w = reinterpret_cast<const typename Tr::T*>(filter) + 2 * lane * Tr::kTaps + t;
  return {widen(w[0]), widen(w[Tr::kTaps])};
}

// The filter in fp32, [tap][first or second of a pair][lane]: loads of 4 bytes without conflict.
template <typename Tr>
__device__ __forceinline__ void spread_filter(const unsigned char* raw, float* to, bool flip) {
  constexpr int kPairs = Tr::kTaps * Tr::kLanes;
  for (int i = static_cast<int>(threadIdx.x); i < kPairs; i += kTileThreads) {
    const int lane = i % Tr::kLanes, t = i / Tr::kLanes;
    const float2 w = raw_tap<Tr>(raw, lane, flip ? Tr::kTaps - 1 - t : t);
    to[t * Tr::kChannels + lane] = w.x;
    to[t * Tr::kChannels + Tr::kLanes + lane] = w.y;
  }
}

// Adds to the sums of a patch, row of input by row of input; `weight(t)` is tap t of the lane's two channels.
template <typename Tr, typename Weight>
__device__ __forceinline__ void accumulate(const unsigned char* patch, int pitch, int row_skew, const Weight& weight,
                                           float2 (&sum)[Tr::kRows][Tr::kColumns]) {
  using Pair = PairOf<typename Tr::T>;
#pragma unroll
  for (int i = 0; i < Tr::kInputRows; i++) {
    const unsigned char* row = patch + i * pitch + i / Tr::kRowGroup * row_skew;
    float2 x[Tr::kInputColumns];
#pragma unroll
    for (int j = 0; j < Tr::kInputColumns; j++) {
      const int position = j + (Tr::kSkewed ? j / Tr::kColumnGroup : 0);
      x[j] = widen_pair(*reinterpret_cast<const Pair*>(row + position * Tr::kPosition));
    }
#pragma unroll
    for (int o = 0; o < Tr::kRows; o++) {
      const int r = i - o * Tr::kStride;
      if (r < 0 || r >= Tr::kFilter) continue;
#pragma unroll
      for (int s = 0; s < Tr::kFilter; s++) {
        const float2 w = weight(r * Tr::kFilter + s);
#pragma unroll
        for (int c = 0; c < Tr::kColumns; c++) {
          sum[o][c].x = fmaf(w.x, x[c * Tr::kStride + s].x, sum[o][c].x);
          sum[o][c].y = fmaf(w.y, x[c * Tr::kStride + s].y, sum[o][c].y);
        }
      }
    }
  }
}

template <typename Tr, typename Weight>
__device__ __forceinline__ void compute_patches(const NhwcTileParams<typename Tr::T>& p, const NhwcTilePlace& place,
                                                unsigned char* tile, const Weight& weight) {
  const int lane = static_cast<int>(threadIdx.x) % Tr::kLanes;
  const float2 bias = bias_pair<Tr>(p, tile + p.bias_offset, lane);
  for (int first = 0; first < p.slots; first += Tr::kSlots) {
    const int slot = first + static_cast<int>(threadIdx.x) / Tr::kLanes;
    const bool active = slot < p.slots;
    const PatchPlace patch = patch_place<Tr>(p, active ? slot : 0, Tr::kColumnGroup + Tr::kSkewed);
    float2 sum[Tr::kRows][Tr::kColumns];
#pragma unroll
    for (int o = 0; o < Tr::kRows; o++) {
#pragma unroll
      for (int c = 0; c < Tr::kColumns; c++) sum[o][c] = bias;
    }
    if (active) {
      accumulate<Tr>(tile + patch.position * Tr::kPosition + lane * 2 * sizeof(typename Tr::T), p.pitch * Tr::kPosition,
                     p.row_skew * Tr::kPosition, weight, sum);
    }
    store_patch<Tr>(p, place, patch, active, tile + p.staging_offset, sum);
  }
}

template <typename Tr>
__global__ void __launch_bounds__(kTileThreads, Tr::kBlocks)
    depthwise_nhwc(const __grid_constant__ NhwcTileParams<typename Tr::T> p) {
  auto* tile = dynamic_shared<unsigned char>();
  unsigned char* raw_filter = tile + p.filter_offset;
  const NhwcTilePlace place = tile_place<Tr>(p);
  copy_tile<Tr>(p, place, tile, 0);
  copy_bias<Tr>(p, place.channel, tile + p.bias_offset);
  // The filters of the slice are one run of memory, [channel][r][s].
  load_padded_run(reinterpret_cast<typename Tr::T*>(raw_filter),
                  p.filter + static_cast<int64_t>(place.channel) * Tr::kTaps,
                  min(p.channels - place.channel, Tr::kChannels) * Tr::kTaps, Tr::kTaps * Tr::kVectors, p.vector_filter,
                  kTileThreads);
  ptx::cp_async_wait_all();
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % Tr::kLanes;
  if constexpr (Tr::kFilterInRegisters) {
    float2 taps[Tr::kTaps];
#pragma unroll
    for (int t = 0; t < Tr::kTaps; t++) {
      taps[t] = p.flip ? raw_tap<Tr>(raw_filter, lane, Tr::kTaps - 1 - t) : raw_tap<Tr>(raw_filter, lane, t);
    }
    compute_patches<Tr>(p, place, tile, [&](int t) { return taps[t]; });
  } else {
    auto* filter = reinterpret_cast<float*>(raw_filter + Tr::kRawFilterBytes);
    spread_filter<Tr>(raw_filter, filter, p.flip);
    __syncthreads();
    const float* mine = filter + lane;
    compute_patches<Tr>(p, place, tile,
                        [&](int t) { return float2{mine[t * Tr::kChannels], mine[t * Tr::kChannels + Tr::kLanes]}; });
  }
}

template <typename T, int kFilter, int kStride>
LaunchPlan plan_nhwc(const KernelRow& row, const ConvProblem& problem, const Device&) {
  using Tr = Traits<T, kFilter, kStride>;
  if (std::string reason = nhwc_refuse(row.pass, problem); !reason.empty()) return refuse(std::move(reason));
  if (problem.k_per_group() != 1) return refuse(multiplier_beyond(problem, 1));
  if (problem.dilation[1] != 1 || problem.dilation[2] != 1) return refuse("a dilation");
  const ConvView view = as_fprop(row.pass, problem);
  const NhwcTilePlan tile = plan_tile(view, patch_shape<Tr>());
  const LaunchShape shape = tile_launch<Tr>(tile, Tr::kFilterBytes);
  return plan_launch_of(row, depthwise_nhwc<Tr>, shape, [=, pass = row.pass](const Tensors& t) {
    return tile_params<Tr>(view, tile, with_tensors(ConvTensors<T>{}, pass, t));
  });
}

template <typename T, int kFilter, int kStride>
KernelRow nhwc_row(Pass pass) {
  return {.name = pass == Pass::kFprop ? "depthwise_fprop_nhwc" : "depthwise_dgrad_nhwc",
          .family = Family::kDepthwise,
          .pass = pass,
          .dtype = kDTypeOf<T>,
          .layout = Layout::kChannelsLast,
          .filter = kFilter,
          .stride = kStride,
          .tile = patch_text<Traits<T, kFilter, kStride>>(),
          .plan = plan_nhwc<T, kFilter, kStride>};
}

}  // namespace

KernelRows nhwc_rows() {
  return rows_of_fast_types([&]<typename T> {
    return KernelRows{nhwc_row<T, 3, 1>(Pass::kFprop), nhwc_row<T, 3, 2>(Pass::kFprop), nhwc_row<T, 5, 1>(Pass::kFprop),
                      nhwc_row<T, 5, 2>(Pass::kFprop), nhwc_row<T, 7, 1>(Pass::kFprop), nhwc_row<T, 3, 1>(Pass::kDgrad),
                      nhwc_row<T, 5, 1>(Pass::kDgrad), nhwc_row<T, 7, 1>(Pass::kDgrad)};
  });
}

}  // namespace convbound::depthwise
