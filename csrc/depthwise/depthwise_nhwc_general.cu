// depthwise_fprop_nhwc_general and depthwise_dgrad_nhwc_general: every filter, stride, dilation and multiplier m that
// fits, 1-D (NLC) included:
//
//   y[n,k,p,q]  = bias[k] + sum over r,s of x[n,k / m,p * stride + r * dilation - padding, ...] * w[k,r,s]
//   dx[n,c,h,w] = bias[c] + sum over k of c, r, s of dy[n,k,h - r * dilation + padding, ...] * w[k,r,s]
//
// dx is for stride 1.
//
// Bytes: as the tile of depthwise_nhwc_tile.h. FLOPs: 2 R S per output. A patch is 7 columns of one row, so that 1-D
// and oblong filters waste nothing. Slices have 32 bytes, for large halos. With stride and dilation 1 along the row a
// lane widens 14 inputs for 8 taps of its 7 outputs: 14 loads, 28 conversions, 16 loads of the filter and 112 FMA.
//
// The filter lies in shared memory in fp32, a group of its rows at a time: 31 rows of 31 taps would take 65 KB. Where
// one group is all, lanes compute several patches of a tile. Otherwise the sums of one patch wait in registers while
// the groups pass. They wait likewise while dgrad gathers the m channels of dy.
#include <algorithm>

#include "csrc/common/run_copy.h"
#include "csrc/common/vector.h"
#include "csrc/depthwise/depthwise_nhwc_tile.h"

namespace convbound::depthwise {

namespace {

template <typename Element>
struct GeneralTraits : PatchTraits<Element, 2, 1, 7> {
  using Base = PatchTraits<Element, 2, 1, 7>;
  static constexpr int kFilterStride = Base::kChannels + 1;  // words of a tap; odd, for the banks' sake
  static constexpr int64_t kFilterBytes = 12 * 1024;         // of a group of rows, unless one row needs more
  static constexpr int64_t kMostFilterBytes = 16 * 1024;
  static constexpr int64_t kTileBytes = 40 * 1024;
  static constexpr int kRounds = 4;
  static constexpr int kBlocks = 6;
  __device__ static int skipped_columns(const NhwcTileParams<Element>& p, int column) {
    return divide(column, p.by_column_group).quotient;
  }
  __device__ static int row_groups(const NhwcTileParams<Element>& p, int row) {
    return divide(row, p.by_row_group).quotient;
  }
  // Large filters need large halos: what an RTX 4090 has, above the 64 KB of sm_75.
  static constexpr int64_t kLargeTileBytes = 72 * 1024;
  static_assert(kTileBytes + Base::kStagedBytes + Base::kPosition + kFilterBytes <= 64 * 1024);
  static_assert(kLargeTileBytes + Base::kStagedBytes + Base::kPosition + kMostFilterBytes <= 99 * 1024);
};

template <typename T>
struct GeneralParams {
  NhwcTileParams<T> tile;
  int group_rows;  // rows of the filter in shared memory at a time
  bool single;     // one group and one channel gathered: tile and filter serve all patches
  bool unit;       // stride and dilation 1 along the row
};

// The filter's rows [first, first + rows) of the slice in fp32, [tap][first or second of a pair][lane]. A channel has a
// run of memory at any alignment, of which a thread takes 16 bytes; two are a sector and the next ones another
// channel's, so that words of shared memory that a warp stores are neighbours.
template <typename Tr, typename T>
__device__ __forceinline__ void load_filter_group(const GeneralParams<T>& g, int channel, int nth, int first, int rows,
                                                  float* to) {
  constexpr int kSize = sizeof(T), kVector = kVectorElements<T>, kSector = 2 * kVector;
  const NhwcTileParams<T>& p = g.tile;
  const int taps = p.filter_h * p.filter_w, count = rows * p.filter_w, before = first * p.filter_w;
  const T* const end = p.filter + static_cast<int64_t>(p.channels) * p.gathered * taps;
  const int vectors = 2 * (count / kSector + 2) * Tr::kChannels;
  for (int i = static_cast<int>(threadIdx.x); i < vectors; i += kTileThreads) {
    const int half = i % 2, c = i / 2 % Tr::kChannels, sector = i / 2 / Tr::kChannels;
    const bool there = channel + c < p.channels;
    const int64_t k = static_cast<int64_t>(there ? channel + c : channel) * p.gathered + nth;
    const T* const run = p.filter + k * taps + (p.flip ? taps - before - count : before);
    const int skew = static_cast<int>(reinterpret_cast<uintptr_t>(run) % 32) / kSize;
    const int at = sector * kSector + half * kVector - skew;  // the vector's first element, in the run
    if (at <= -kVector || at >= count) continue;
    float value[kVector] = {};
    if (there && run + at >= p.filter && run + at + kVector <= end) {
      load_widened(run + at, value);
    } else if (there) {
#pragma unroll
      for (int e = 0; e < kVector; e++) {
        if (at + e >= 0 && at + e < count) value[e] = widen(run[at + e]);
      }
    }
#pragma unroll
    for (int e = 0; e < kVector; e++) {
      if (at + e < 0 || at + e >= count) continue;
      const int tap = p.flip ? count - 1 - at - e : at + e;
      to[tap * Tr::kFilterStride + c % 2 * Tr::kLanes + c / 2] = value[e];
    }
  }
}

template <typename Tr>
__device__ __forceinline__ float2 tap_pair(const float* filter, int t) {
  return {filter[t * Tr::kFilterStride], filter[t * Tr::kFilterStride + Tr::kLanes]};
}

template <typename Tr>
__device__ __forceinline__ float2 input_pair(const unsigned char* row, int position) {
  return widen_pair(*reinterpret_cast<const PairOf<typename Tr::T>*>(row + position * Tr::kPosition));
}

__device__ __forceinline__ void add_product(float2& sum, float2 w, float2 x) {
  sum.x = fmaf(w.x, x.x, sum.x);
  sum.y = fmaf(w.y, x.y, sum.y);
}

// kTaps neighbouring taps of a row with stride and dilation 1.
template <typename Tr, int kTaps>
__device__ __forceinline__ void add_taps(const unsigned char* row, const float* filter,
                                         float2 (&sum)[1][Tr::kColumns]) {
  constexpr int kInputs = Tr::kColumns + kTaps - 1;
  float2 x[kInputs];
#pragma unroll
  for (int j = 0; j < kInputs; j++) x[j] = input_pair<Tr>(row, j);
#pragma unroll
  for (int s = 0; s < kTaps; s++) {
    const float2 w = tap_pair<Tr>(filter, s);
#pragma unroll
    for (int c = 0; c < Tr::kColumns; c++) add_product(sum[0][c], w, x[c + s]);
  }
}

// One row of the filter over one row of the tile, `row` at the patch's first column.
template <typename Tr, typename T>
__device__ __forceinline__ void add_row(const GeneralParams<T>& g, const unsigned char* row, const float* filter,
                                        float2 (&sum)[1][Tr::kColumns]) {
  const NhwcTileParams<T>& p = g.tile;
  if (g.unit) {
    const int eights = p.filter_w / 8, four = p.filter_w / 4 % 2, ones = p.filter_w % 4;
#pragma unroll 1
    for (int i = 0; i < eights; i++) {
      add_taps<Tr, 8>(row, filter, sum);
      row += 8 * Tr::kPosition;
      filter += 8 * Tr::kFilterStride;
    }
    if (four != 0) {
      add_taps<Tr, 4>(row, filter, sum);
      row += 4 * Tr::kPosition;
      filter += 4 * Tr::kFilterStride;
    }
#pragma unroll 1
    for (int i = 0; i < ones; i++) add_taps<Tr, 1>(row + i * Tr::kPosition, filter + i * Tr::kFilterStride, sum);
    return;
  }
#pragma unroll 1
  for (int s = 0; s < p.filter_w; s++) {
    const float2 w = tap_pair<Tr>(filter, s);
#pragma unroll
    for (int c = 0; c < Tr::kColumns; c++) {
      const int column = c * p.stride_w + s * p.dilation_w;
      add_product(sum[0][c], w, input_pair<Tr>(row, column + Tr::skipped_columns(p, column)));
    }
  }
}

template <typename Tr>
__global__ void __launch_bounds__(kTileThreads, Tr::kBlocks)
    depthwise_nhwc_general(const __grid_constant__ GeneralParams<typename Tr::T> g) {
  const NhwcTileParams<typename Tr::T>& p = g.tile;
  auto* tile = dynamic_shared<unsigned char>();
  auto* filter = reinterpret_cast<float*>(tile + p.filter_offset);
  const NhwcTilePlace place = tile_place<Tr>(p);
  const int lane = static_cast<int>(threadIdx.x) % Tr::kLanes;
  copy_bias<Tr>(p, place.channel, tile + p.bias_offset);
  for (int first = 0; first < p.slots; first += Tr::kSlots) {
    const int slot = first + static_cast<int>(threadIdx.x) / Tr::kLanes;
    const bool active = slot < p.slots;
    const PatchPlace patch = patch_place<Tr>(p, active ? slot : 0, p.patch_distance);
    const unsigned char* mine = tile + patch.position * Tr::kPosition + lane * 2 * sizeof(typename Tr::T);
    float2 sum[1][Tr::kColumns] = {};
    for (int nth = 0; nth < p.gathered; nth++) {
      for (int group = 0; group < p.filter_h; group += g.group_rows) {
        const int rows = min(g.group_rows, p.filter_h - group);
        if (first == 0 || !g.single) {
          __syncthreads();  // nobody reads what is overwritten
          if (group == 0) copy_tile<Tr>(p, place, tile, nth);
          load_filter_group<Tr>(g, place.channel, nth, group, rows, filter);
          ptx::cp_async_wait_all();
          __syncthreads();
        }
        if (!active) continue;
#pragma unroll 1
        for (int r = 0; r < rows; r++) {
          const int h = (group + r) * p.dilation_h;
          const int position = h * p.pitch + Tr::row_groups(p, h) * p.row_skew;
          add_row<Tr>(g, mine + position * Tr::kPosition, filter + r * p.filter_w * Tr::kFilterStride + lane, sum);
        }
      }
    }
    const float2 bias = bias_pair<Tr>(p, tile + p.bias_offset, lane);
#pragma unroll
    for (int c = 0; c < Tr::kColumns; c++) sum[0][c] = {sum[0][c].x + bias.x, sum[0][c].y + bias.y};
    store_patch<Tr>(p, place, patch, active, tile + p.staging_offset, sum);
  }
}

// How a launch goes through the filter.
template <typename Tr>
struct FilterGroups {
  int64_t rows, bytes;
  bool single;

  explicit FilterGroups(const ConvView& g) {
    const int64_t row_bytes = int64_t{g.w.filter} * Tr::kFilterStride * 4;
    rows = std::clamp<int64_t>(Tr::kFilterBytes / row_bytes, 1, g.h.filter);
    bytes = rows * row_bytes;
    single = rows == g.h.filter && g.inputs == 1;
  }
};

template <typename T>
LaunchPlan plan_nhwc_general(const KernelRow& row, const ConvProblem& problem, const Device&) {
  using Tr = GeneralTraits<T>;
  if (std::string reason = nhwc_refuse(row.pass, problem); !reason.empty()) return refuse(std::move(reason));
  const ConvView view = as_fprop(row.pass, problem);
  const FilterGroups<Tr> groups(view);
  if (groups.bytes > Tr::kMostFilterBytes) {
    return refuse("a row of the filter has " + std::to_string(groups.bytes) + " bytes, at most " +
                  std::to_string(Tr::kMostFilterBytes));
  }
  PatchShape patches = patch_shape<Tr>();
  if (!groups.single) patches.rounds = 1;
  if (groups.rows < view.h.filter) patches.tile_bytes = Tr::kLargeTileBytes;
  const NhwcTilePlan tile = plan_tile(view, patches);
  if (tile.tile_bytes > Tr::kLargeTileBytes) {
    return refuse("one patch needs " + std::to_string(tile.tile_bytes) + " bytes of input, at most " +
                  std::to_string(Tr::kLargeTileBytes));
  }
  const LaunchShape shape = tile_launch<Tr>(tile, groups.bytes);
  return plan_launch_of(row, depthwise_nhwc_general<Tr>, shape, [=, pass = row.pass](const Tensors& t) {
    return GeneralParams<T>{.tile = tile_params<Tr>(view, tile, with_tensors(ConvTensors<T>{}, pass, t)),
                            .group_rows = static_cast<int>(groups.rows),
                            .single = groups.single,
                            .unit = view.w.stride == 1 && view.w.dilation == 1};
  });
}

}  // namespace

KernelRows nhwc_general_rows() {
  return rows_of_fast_types([&]<typename T> {
    return with_dgrad({.name = "depthwise_fprop_nhwc_general",
                       .family = Family::kDepthwise,
                       .pass = Pass::kFprop,
                       .dtype = kDTypeOf<T>,
                       .layout = Layout::kChannelsLast,
                       .tile = patch_text<GeneralTraits<T>>(),
                       .plan = plan_nhwc_general<T>},
                      "depthwise_dgrad_nhwc_general");
  });
}

}  // namespace convbound::depthwise
