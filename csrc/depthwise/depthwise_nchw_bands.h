// depthwise_fprop_nchw_bands and depthwise_dgrad_nchw_bands, 3x3, 5x5 and 7x7 (depthwise_nchw_problem.h has the
// equation):
//
// Floor: input and output once, and the filters: 2 * R * S FLOP for 2 * sizeof(T) bytes per output at stride 1, so
// 3x3 is bound by memory everywhere; 5x5 in 16 bits is near an A100's FMA issue, 7x7 near an H100's.
//
// Consecutive planes of NCHW are contiguous, and so are the rows of a plane. A block takes several whole small planes
// or one band of rows of a large one, as one linear run: 16-byte cp.async into shared memory whatever the width of a
// row; the filters of those planes likewise; edges are left out by predicates, not padded. A thread computes kStrip
// rows of 1, 2 or 7 columns, sliding down its columns: a value is loaded from shared memory once per column that needs
// it and not once per tap, and a row outside the plane costs one test. Outputs go to shared memory and from there as
// one linear run of 16-byte stores (direct ones would touch 1.6 times the sectors at 28 x 28, 2.2 times at 14 x 14).
//
// Traffic: filters are read by every block, for several images where they are large against the planes (7x7 on 7 x 7
// planes: half as much as the input). Every output is written once, every input read once, but for the R - stride rows
// that two bands share: with 28 KB for a block's input and output that is 2 of 28 rows at 3x3 on 112 x 112 halves.
//
// Tile: the whole strip is unrolled (14 rows, 28 on known planes), so no FMA is spent on rows that do not count. Of
// what is executed between the first and the last FMA, FMAs are 62 % at 5x5 and 67 % at 7x7 (sm_90, pairs of halves).
// Lanes lie along W, in slots of a power of two for several planes of which the banks differ (bank_conflicts in the
// plan). In flight on a multiprocessor: a block's input is about 6 to 14 KB; 228 KB of shared memory hold 8 such blocks
// or more (at least 64 KB in flight), 100 KB hold 3 (at least 18 KB).
#pragma once

#include "csrc/common/divisor.h"
#include "csrc/common/numeric.h"
#include "csrc/common/pair.h"
#include "csrc/common/run_copy.h"
#include "csrc/common/shared.h"
#include "csrc/depthwise/depthwise_nchw_bands_plan.h"

namespace convbound::depthwise {

// kPairs: the width is even, the filter centred and tensors aligned to two elements, so that shared memory is read and
// written by two. kPlane: height and width of input and output where they are known, else 0.
template <typename T, int kFilter, int kStride, bool kPairs, int kPlane>
struct BandTraits {
  static constexpr bool kWholePlane = kPlane == 7;  // per thread: 49 outputs, all edges known to the compiler
  static constexpr int kColumns = kWholePlane ? 7 : kStride == 1 && (kPairs || sizeof(T) == 2) ? 2 : 1;
  static constexpr int kStrip = kWholePlane ? 7 : kPlane >= 28 ? 28 : 14;
  static constexpr int kInRows = (kStrip - 1) * kStride + kFilter;
  static constexpr int kSpan = (kColumns - 1) * kStride + kFilter;  // columns of input
  static constexpr int kPadding = kFilter / 2;                      // where the filter is centred
  static constexpr int kLead = kPairs ? kPadding % 2 : 0;           // from the first pair to the first column of input
  static constexpr int kThreads = kMostWarps * kLanes;
  // Registers for the filter, the open rows of sums and a row of input; 16 warps at least.
  static constexpr int kBlocks = kFilter == 3 ? (kPlane > 0 ? 3 : 4) : kFilter == 5 ? 3 : 2;

  static constexpr BandShape shape() {
    return {sizeof(T), kColumns, kStrip, static_cast<int>(kPairs ? 2 * sizeof(T) : sizeof(T))};
  }

  // The plan for planes of known size.
  static constexpr BandPlan plan() {
    if (kPlane == 0) return {};
    return plan_bands({1, 1, 1, kPlane, kPlane, kPlane, kPlane, kPadding, kPadding, kFilter, kFilter, 1, 1, false},
                      shape());
  }
  // Steps of a block's copy of its planes, where they are known: those of the plan, whose blocks begin at 16-byte
  // boundaries.
  static constexpr int kSteps =
      kPlane == 0 ? 0 : divide_up(plan().planes * kPlane * kPlane * static_cast<int>(sizeof(T)) / 16, plan().threads);

  static_assert(kPlane == 0 || plan().planes * kPlane * kPlane * sizeof(T) % 16 == 0, "blocks begin at boundaries");
  static_assert(kFilter % 2 == 1 && (kStride == 1 || kStride == 2), "the filter has a centre");
  static_assert(kPlane == 0 || (kPlane % kStrip == 0 && kStride == 1), "a plane is a number of strips");
  static_assert(!(kPairs && kWholePlane), "7 columns are no pairs");
};

template <typename T>
struct BandParams {
  const T* in;
  const T* filter;
  const T* bias;
  T* out;
  int64_t planes;
  PlaneProblem problem;
  BandPlan plan;
  Divisor bands, channel_groups, filters, multiplier;
};

// Copies the filters of a block's planes to shared memory: channels follow each other, and the first follows the last.
// Few are copied one by one, for less arithmetic, many as runs.
template <typename T, int kTaps>
__device__ __forceinline__ T* load_filters(T* buffer, const T* filter, int first, int planes, int filters,
                                           int threads) {
  constexpr int kFew = kTaps < 16 ? 256 : 64;
  const int all = filters * kTaps, begin = first * kTaps, count = planes * kTaps;
  T* const shared = buffer + elements_after_boundary(filter + begin);
  const bool wraps = begin + count > all;
  if (count > kFew && (!wraps || (planes < filters && elements_after_boundary(filter + all) == 0 &&
                                  elements_after_boundary(filter) == 0))) {
    const int until_last = wraps ? all - begin : count;
    load_run(shared, filter + begin, until_last, threads);
    if (wraps) load_run(shared + until_last, filter, count - until_last, threads);
  } else {
    for (int i = static_cast<int>(threadIdx.x); i < count; i += threads) {
      int at = begin + i;
      if (at >= all) at %= all;
      shared[i] = filter[at];
    }
  }
  return shared;
}

template <typename T, int kFilter, int kStride, bool kPairs, int kPlane>
__global__ void __launch_bounds__(BandTraits<T, kFilter, kStride, kPairs, kPlane>::kThreads,
                                  BandTraits<T, kFilter, kStride, kPairs, kPlane>::kBlocks)
    bands_kernel(const __grid_constant__ BandParams<T> params) {
  using Traits = BandTraits<T, kFilter, kStride, kPairs, kPlane>;
  constexpr int kColumns = Traits::kColumns, kStrip = Traits::kStrip, kTaps = kFilter * kFilter;
  const PlaneProblem& p = params.problem;
  constexpr BandPlan kPlan = Traits::plan();
  const BandPlan plan = kPlane > 0 ? kPlan : params.plan;
  const int multiplier = kPlane > 0 ? 1 : p.multiplier;
  const int in_h = kPlane > 0 ? kPlane : p.in_h, in_w = kPlane > 0 ? kPlane : p.in_w;
  const int out_h = kPlane > 0 ? kPlane : p.out_h, out_w = kPlane > 0 ? kPlane : p.out_w;
  const int pad_h = kPlane > 0 ? Traits::kPadding : p.pad_h;
  const int pad_w = kPlane > 0 || kPairs ? Traits::kPadding : p.pad_w;

  // What this block owns: `planes` planes from `first` on, and of their rows a band; and those of further images.
  int64_t group = blockIdx.x;
  const int band = kPlane > 0 ? 0 : take(group, params.bands);
  const int images = kPlane > 0 ? 1 : plan.images;
  const int channels = images == 1 ? 0 : take(group, params.channel_groups);
  const int64_t first =
      images == 1 ? group * plan.planes : group * images * p.filters + static_cast<int64_t>(channels) * plan.planes;
  const int planes = static_cast<int>(params.planes - first < plan.planes ? params.planes - first : plan.planes);
  const int first_row = band * plan.band_rows;
  const int rows = kPlane > 0 ? kPlane : min(plan.band_rows, out_h - first_row);
  const int above = first_row * kStride - pad_h;
  const int in_first = kPlane > 0 ? 0 : plan.bands == 1 ? 0 : min(max(above, 0), in_h);
  const int in_end = plan.bands == 1 ? in_h : min(max(above + (rows - 1) * kStride + kFilter, in_first), in_h);
  const int in_rows = kPlane > 0 ? kPlane : in_end - in_first;
  int64_t in_plane = first;
  const int beside =
      kPlane > 0 ? 0 : take(in_plane, params.multiplier);  // output planes of the first input plane that others own
  const int in_planes = multiplier == 1 ? planes : (beside + planes - 1) / multiplier + 1;
  int64_t any_filter = first;
  const int first_filter = take(any_filter, params.filters);

  unsigned char* const memory = dynamic_shared<unsigned char>();
  const T* const in = params.in + in_plane * in_h * in_w + in_first * in_w;
  T* const out = params.out + first * out_h * out_w + first_row * out_w;
  const int64_t in_image = static_cast<int64_t>(p.filters) * in_h * in_w;
  const int64_t out_image = static_cast<int64_t>(p.filters) * out_h * out_w;
  // Where an image's input and output lie in shared memory.
  const auto x_of = [&](int image) {
    T* const begin = reinterpret_cast<T*>(memory + image * plan.x_bytes);
    return kPlane > 0 ? begin : begin + elements_after_boundary(in + image * in_image);
  };
  const auto y_of = [&](int image) {
    T* const begin = reinterpret_cast<T*>(memory + images * plan.x_bytes + plan.w_bytes + image * plan.y_bytes);
    return kPlane > 0 ? begin : begin + elements_after_boundary(out + image * out_image);
  };
  const auto exists = [&](int image) {
    return image == 0 || first + static_cast<int64_t>(image) * p.filters < params.planes;
  };
  const int threads = kPlane > 0 ? kPlan.threads : static_cast<int>(blockDim.x);
  for (int image = 0; image < images; image++) {
    if (exists(image)) {
      load_run<Traits::kSteps>(x_of(image), in + image * in_image, in_planes * in_rows * in_w, threads);
    }
  }
  const T* const ws = load_filters<T, kTaps>(reinterpret_cast<T*>(memory + images * plan.x_bytes), params.filter,
                                             first_filter, planes, p.filters, threads);
  ptx::cp_async_wait_all();
  __syncthreads();

  // What this thread owns: a plane, and of its strips and columns some.
  const int lane = static_cast<int>(threadIdx.x) % kLanes, warp = static_cast<int>(threadIdx.x) / kLanes;
  const int slot_lane = lane & ((1 << plan.slot_log2) - 1);
  const int groups_log2 = 5 - plan.slot_log2, beside_log2 = plan.apart_log2 + plan.sets_log2;
  const int set = (warp >> plan.apart_log2) & ((1 << plan.sets_log2) - 1);
  const int planes_up = (set << groups_log2) | (lane >> plan.slot_log2);
  const int plane = (planes_up << plan.apart_log2) | (warp & ((1 << plan.apart_log2) - 1));
  const int step = threads / kLanes >> beside_log2;
  const int units = (rows + kStrip - 1) / kStrip * plan.segments, all_units = units * images;
  if (plane < planes && slot_lane < plan.lanes) {
    float w[kTaps];
    const T* const wp = ws + plane * kTaps + (p.flip ? kTaps - 1 : 0);
    const int w_step = p.flip ? -1 : 1;
#pragma unroll
    for (int tap = 0; tap < kTaps; tap++) w[tap] = widen(wp[tap * w_step]);
    float bias = 0;
    if (params.bias != nullptr) {
      int filter = first_filter + plane;
      if (filter >= p.filters) filter %= p.filters;
      bias = widen(params.bias[filter]);
    }
    const int x_plane = multiplier == 1 ? plane : (beside + plane) / multiplier;

    for (int unit = warp >> beside_log2; unit < all_units; unit += step) {
      const int image = kPlane > 0 || unit < units ? 0 : unit / units;
      int strip = unit - image * units, column = slot_lane;
      if (plan.segments > 1) {
        const int segment = strip % plan.segments;
        strip /= plan.segments;
        column += segment * plan.lanes;
      }
      if (!exists(image) || column >= plan.columns) continue;
      if (kPlane == kStrip) strip = 0;
      if (Traits::kWholePlane) column = 0;
      const int q = column * kColumns, row0 = strip * kStrip;
      // The strip's first row of input within the band, and its first column of input (with the lead of its pair).
      const int h0 = (first_row + row0) * kStride - pad_h - in_first;
      const int w0 = q * kStride - pad_w - Traits::kLead;
      const T* x = x_of(image) + (x_plane * in_rows + h0) * in_w + w0;
      T* y = y_of(image) + (plane * rows + row0) * out_w + q;
      constexpr int kLoads = kPairs ? (Traits::kLead + Traits::kSpan + 1) / 2 : Traits::kSpan;
      bool inside[kLoads];
#pragma unroll
      for (int i = 0; i < kLoads; i++) {
        if constexpr (kPairs) {
          // Left of the output's own column a pair can be outside at the left only, right of it at the right only.
          const int beside = 2 * i - Traits::kPadding - Traits::kLead;
          inside[i] = beside < 0 ? w0 + 2 * i >= 0 : beside == 0 || w0 + 2 * i < in_w;
        } else {
          inside[i] = static_cast<unsigned>(w0 + i) < static_cast<unsigned>(in_w);
        }
      }
      float sum[kStrip][kColumns];
#pragma unroll
      for (int i = 0; i < Traits::kInRows; i++) {
        if (i % kStride == 0 && i / kStride < kStrip) {
#pragma unroll
          for (int c = 0; c < kColumns; c++) sum[i / kStride][c] = bias;
        }
        constexpr int kHalo = Traits::kPadding;
        const bool known = kPlane > 0 && (Traits::kWholePlane || (i >= kHalo && i < kStrip + kHalo));
        const bool counts = known ? !Traits::kWholePlane || (i >= kHalo && i < kStrip + kHalo)
                                  : static_cast<unsigned>(h0 + i) < static_cast<unsigned>(in_rows);
        if (counts) {
          float v[kPairs ? 2 * kLoads : kLoads];
          if constexpr (kPairs) {
#pragma unroll
            for (int k = 0; k < kLoads; k++) {
              PairOf<T> pair = narrow_pair<T>(make_float2(0, 0));
              if (inside[k]) pair = *reinterpret_cast<const PairOf<T>*>(x + 2 * k);
              const float2 wide = widen_pair(pair);
              v[2 * k] = wide.x;
              v[2 * k + 1] = wide.y;
            }
          } else {
#pragma unroll
            for (int k = 0; k < kLoads; k++) v[k] = inside[k] ? widen(x[k]) : 0.0f;
          }
#pragma unroll
          for (int row = 0; row < kStrip; row++) {
            const int r = i - row * kStride;
            if (r >= 0 && r < kFilter) {
#pragma unroll
              for (int s = 0; s < kFilter; s++) {
#pragma unroll
                for (int c = 0; c < kColumns; c++) {
                  sum[row][c] = fmaf(w[r * kFilter + s], v[Traits::kLead + c * kStride + s], sum[row][c]);
                }
              }
            }
          }
        }
        x += in_w;
        if (i < kFilter - 1 || (i - kFilter + 1) % kStride != 0) continue;
        const int row = (i - kFilter + 1) / kStride;  // the output row that this row of input completes
        if (kPlane > 0 || row0 + row < rows) {
          if constexpr (kPairs && kColumns == 2) {
            *reinterpret_cast<PairOf<T>*>(y) = narrow_pair<T>(make_float2(sum[row][0], sum[row][1]));
          } else {
#pragma unroll
            for (int c = 0; c < kColumns; c++) {
              if (c == 0 || Traits::kWholePlane || q + c < out_w) y[c] = narrow<T>(sum[row][c]);
            }
          }
        }
        y += out_w;
      }
    }
  }
  __syncthreads();
  for (int image = 0; image < images; image++) {
    if (exists(image)) store_run<Traits::kSteps>(out + image * out_image, y_of(image), planes * rows * out_w, threads);
  }
}

template <typename T, int kFilter, int kStride, bool kPairs, int kPlane>
void launch_bands(const char* name, const PlaneProblem& problem, const Tensors& t, bool forward, cudaStream_t stream) {
  using Traits = BandTraits<T, kFilter, kStride, kPairs, kPlane>;
  const BandPlan plan = plan_bands(problem, Traits::shape());
  const BandParams<T> params{static_cast<const T*>(forward ? t.x : t.y),
                             static_cast<const T*>(t.w),
                             static_cast<const T*>(t.bias),
                             static_cast<T*>(forward ? t.y : t.x),
                             problem.planes,
                             problem,
                             plan,
                             Divisor(plan.bands),
                             Divisor(plan.images == 1 ? 1 : problem.filters / plan.planes),
                             Divisor(problem.filters),
                             Divisor(problem.multiplier)};
  launch(name, bands_kernel<T, kFilter, kStride, kPairs, kPlane>, bands_shape(problem, plan), stream, params);
}

}  // namespace convbound::depthwise
