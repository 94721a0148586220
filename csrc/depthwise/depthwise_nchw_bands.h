// depthwise_fprop_nchw_bands and depthwise_dgrad_nchw_bands for 3x3, 5x5 and 7x7 filters (depthwise_nchw.h has the
// equation).
//
// Floor: input, output and filters are moved once, with 2 * R * S FLOP for 2 * sizeof(T) bytes per output at stride 1.
// So 3x3 is bound by memory everywhere. 5x5 in 16 bits is near an A100's FMA issue, 7x7 near an H100's.
//
// Consecutive planes of NCHW are contiguous, and so are the rows of a plane. A block takes several whole small planes,
// or one band of rows of a large one. It copies them as one linear run, by 16-byte cp.async, whatever the width of a
// row; the filters of those planes likewise. Edges are left out by predicates and not padded.
//
// A thread computes kStrip rows of 1, 2 or 7 columns, sliding down its columns. It loads a value from shared memory
// once per column that needs it, not once per tap. A row outside the plane costs one test. Outputs go to shared memory
// and leave as one linear run of 16-byte stores. Direct stores would touch 1.6 times the sectors at 28 x 28, 2.2 times
// at 14 x 14.
//
// Traffic: every output is written once. Every input is read once, but for the R - stride rows that two bands share:
// with 28 KB for a block's input and output these are 2 of 28 rows at 3x3 on 112 x 112 halves. Every block reads its
// filters. Where they are large against the planes (7x7 on 7 x 7 planes: half as much as the input), a block reads them
// for two images.
//
// Tile: the whole strip is unrolled (14 rows, 28 on known planes), so no FMA is spent on rows that do not count.
// Between the first and the last FMA, 62 % of the instructions are FMAs at 5x5 and 67 % at 7x7 (sm_90, pairs of
// halves). Lanes lie along W. Several planes share a warp in slots of a power of two, whose banks differ
// (bank_conflicts in the plan). In flight: a block's input is about 6 to 14 KB. 228 KB of shared memory hold 8 such
// blocks or more, which is at least 64 KB in flight; 100 KB hold 3, which is at least 18 KB.
#pragma once

#include "csrc/common/divisor.h"
#include "csrc/common/numeric.h"
#include "csrc/common/pair.h"
#include "csrc/common/plane_filters.h"
#include "csrc/common/shared.h"
#include "csrc/depthwise/depthwise_nchw_bands_plan.h"

namespace convbound::depthwise {

// kPairs: the width is even, the filter centred and tensors aligned to two elements, so that shared memory is read and
// written by two. kPlane: height and width of input and output where they are known, else 0.
template <typename T, int kFilter, int kStride, bool kPairs, int kPlane>
struct BandTraits {
  using Element = T;
  static constexpr int kSize = kFilter, kTaps = kFilter * kFilter, kStep = kStride, kKnown = kPlane;
  static constexpr bool kByPairs = kPairs;
  static constexpr bool kWholePlane = kPlane == 7;  // per thread: 49 outputs, all edges known to the compiler
  static constexpr int kColumns = kWholePlane ? 7 : kStride == 1 && (kPairs || sizeof(T) == 2) ? 2 : 1;
  static constexpr int kStrip = kWholePlane ? 7 : kPlane >= 28 ? 28 : 14;
  static constexpr int kInRows = (kStrip - 1) * kStride + kFilter;
  static constexpr int kSpan = (kColumns - 1) * kStride + kFilter;  // columns of input
  static constexpr int kPadding = kFilter / 2;                      // where the filter is centred
  static constexpr int kLead = kPairs ? kPadding % 2 : 0;           // from the first pair to the first column of input
  // Loads of a row of input, by pairs or single elements.
  static constexpr int kLoads = kPairs ? (kLead + kSpan + 1) / 2 : kSpan;
  static constexpr int kThreads = kMostWarps * kLanes;
  // Registers for the filter, the open rows of sums and a row of input; 16 warps at least.
  static constexpr int kBlocks = kFilter == 3 ? (kPlane > 0 ? 3 : 4) : kFilter == 5 ? 3 : 2;

  static constexpr BandShape shape() {
    return {sizeof(T), kColumns, kStrip, static_cast<int>(kPairs ? 2 * sizeof(T) : sizeof(T))};
  }

  // The plan for planes of known size.
  static constexpr BandPlan plan() {
    if (kPlane == 0) return {};
    constexpr AxisView kAxis{kPlane, kPlane, kFilter, 1, 1, kPadding};
    return plan_bands({1, 1, 1, 1, {1, 1, 1, 1, 1, 0}, kAxis, kAxis, false}, shape());
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
struct BandParams : ConvTensors<T> {
  int64_t planes;
  ConvView view;
  BandPlan plan;
  Divisor bands, channel_groups, filters, multiplier;
};

// What a block owns: `planes` planes from `first` on, and of their rows a band; and those of further images.
template <typename Traits>
struct BandBlock {
  using T = typename Traits::Element;
  static constexpr int kPlane = Traits::kKnown;

  const BandParams<T>& params;
  const BandPlan plan;
  int images, planes, threads;
  int64_t first;
  int first_row, rows;                   // of the output
  int in_h, in_w, out_h, out_w;          // of a plane
  int in_first, in_rows;                 // of the input
  int above, left;                       // padding
  int multiplier, beside, first_filter;  // beside: output planes of the first input plane that others own
  int64_t in_image, out_image;           // elements
  const T* in;
  T* out;

  __device__ __forceinline__ BandBlock(const BandParams<T>& p, const BandPlan& known)
      : params(p), plan(kPlane > 0 ? known : p.plan) {
    const ConvView& v = p.view;
    multiplier = kPlane > 0 ? 1 : v.outputs;
    in_h = kPlane > 0 ? kPlane : v.h.input, in_w = kPlane > 0 ? kPlane : v.w.input;
    out_h = kPlane > 0 ? kPlane : v.h.output, out_w = kPlane > 0 ? kPlane : v.w.output;
    above = kPlane > 0 ? Traits::kPadding : v.h.padding;
    left = kPlane > 0 || Traits::kByPairs ? Traits::kPadding : v.w.padding;
    threads = kPlane > 0 ? known.threads : static_cast<int>(blockDim.x);

    int64_t group = blockIdx.x;
    const int band = kPlane > 0 ? 0 : take(group, p.bands);
    images = kPlane > 0 ? 1 : plan.images;
    const int channels = images == 1 ? 0 : take(group, p.channel_groups);
    first = images == 1 ? group * plan.planes
                        : group * images * p.filters.size + static_cast<int64_t>(channels) * plan.planes;
    planes = static_cast<int>(p.planes - first < plan.planes ? p.planes - first : plan.planes);
    first_row = band * plan.band_rows;
    rows = kPlane > 0 ? kPlane : min(plan.band_rows, out_h - first_row);
    const int top = first_row * Traits::kStep - above;
    in_first = kPlane > 0 || plan.bands == 1 ? 0 : min(max(top, 0), in_h);
    const int in_end =
        plan.bands == 1 ? in_h : min(max(top + (rows - 1) * Traits::kStep + Traits::kSize, in_first), in_h);
    in_rows = kPlane > 0 ? kPlane : in_end - in_first;
    int64_t in_plane = first;
    beside = kPlane > 0 ? 0 : take(in_plane, p.multiplier);
    int64_t any_filter = first;
    first_filter = take(any_filter, p.filters);
    in = p.in + in_plane * in_h * in_w + in_first * in_w;
    out = p.out + first * out_h * out_w + first_row * out_w;
    in_image = static_cast<int64_t>(p.filters.size) * in_h * in_w;
    out_image = static_cast<int64_t>(p.filters.size) * out_h * out_w;
  }

  __device__ __forceinline__ bool exists(int image) const {
    return image == 0 || first + static_cast<int64_t>(image) * params.filters.size < params.planes;
  }

  // Where the input, the filters and the output of an image lie in shared memory.
  __device__ __forceinline__ T* x_of(int image) const {
    T* const begin = reinterpret_cast<T*>(dynamic_shared<unsigned char>() + image * plan.x_bytes);
    return kPlane > 0 ? begin : begin + elements_after_boundary(in + image * in_image);
  }
  __device__ __forceinline__ T* filters() const {
    return reinterpret_cast<T*>(dynamic_shared<unsigned char>() + images * plan.x_bytes);
  }
  __device__ __forceinline__ T* y_of(int image) const {
    T* const begin = reinterpret_cast<T*>(dynamic_shared<unsigned char>() + images * plan.x_bytes + plan.w_bytes +
                                          image * plan.y_bytes);
    return kPlane > 0 ? begin : begin + elements_after_boundary(out + image * out_image);
  }

  // Starts the copies of input and filters; returns where the filters will lie.
  __device__ __forceinline__ const T* load() const {
    const int in_planes = multiplier == 1 ? planes : (beside + planes - 1) / multiplier + 1;
    for (int image = 0; image < images; image++) {
      if (exists(image)) {
        load_run<Traits::kSteps>(x_of(image), in + image * in_image, in_planes * in_rows * in_w, threads);
      }
    }
    return load_plane_filters(filters(), params.filter, first_filter, planes, params.filters.size, Traits::kTaps,
                              threads);
  }

  __device__ __forceinline__ void store() const {
    for (int image = 0; image < images; image++) {
      if (exists(image)) {
        store_run<Traits::kSteps>(out + image * out_image, y_of(image), planes * rows * out_w, threads);
      }
    }
  }
};

// What of a row of input is inside the plane, for the columns from w0 on that a strip needs.
template <typename Traits>
__device__ __forceinline__ void find_inside(int w0, int in_w, bool (&inside)[Traits::kLoads]) {
#pragma unroll
  for (int i = 0; i < Traits::kLoads; i++) {
    if constexpr (Traits::kByPairs) {
      // Left of the output's own column a pair can be outside at the left only, right of it at the right only.
      const int beside = 2 * i - Traits::kPadding - Traits::kLead;
      inside[i] = beside < 0 ? w0 + 2 * i >= 0 : beside == 0 || w0 + 2 * i < in_w;
    } else {
      inside[i] = within(w0 + i, in_w);
    }
  }
}

template <typename Traits>
using BandRow = float[Traits::kByPairs ? 2 * Traits::kLoads : Traits::kLoads];

// One row of input, zeros outside.
template <typename Traits>
__device__ __forceinline__ void load_row(const typename Traits::Element* x, const bool (&inside)[Traits::kLoads],
                                         BandRow<Traits>& to) {
  using T = typename Traits::Element;
#pragma unroll
  for (int k = 0; k < Traits::kLoads; k++) {
    if constexpr (Traits::kByPairs) {
      PairOf<T> pair = narrow_pair<T>(make_float2(0, 0));
      if (inside[k]) pair = *reinterpret_cast<const PairOf<T>*>(x + 2 * k);
      const float2 wide = widen_pair(pair);
      to[2 * k] = wide.x;
      to[2 * k + 1] = wide.y;
    } else {
      to[k] = inside[k] ? widen(x[k]) : 0.0f;
    }
  }
}

template <typename Traits>
__device__ __forceinline__ void store_outputs(typename Traits::Element* y, const float (&sum)[Traits::kColumns], int q,
                                              int out_w) {
  using T = typename Traits::Element;
  if constexpr (Traits::kByPairs && Traits::kColumns == 2) {
    *reinterpret_cast<PairOf<T>*>(y) = narrow_pair<T>(make_float2(sum[0], sum[1]));
  } else {
#pragma unroll
    for (int c = 0; c < Traits::kColumns; c++) {
      if (c == 0 || Traits::kWholePlane || q + c < out_w) y[c] = narrow<T>(sum[c]);
    }
  }
}

// The columns from q on of the strip that begins at output row `row0` of the band: down the rows of its input, of which
// each adds to the rows of sums that it reaches, and completes one of them.
template <typename Traits>
__device__ __forceinline__ void compute_strip(const BandBlock<Traits>& block, int image, int plane, int x_plane,
                                              int row0, int q, const float (&w)[Traits::kTaps], float bias) {
  using T = typename Traits::Element;
  constexpr int kPlane = Traits::kKnown, kFilter = Traits::kSize, kStride = Traits::kStep, kStrip = Traits::kStrip;
  constexpr int kColumns = Traits::kColumns;
  // The strip's first row of input within the band, and its first column of input (with the lead of its pair).
  const int h0 = (block.first_row + row0) * kStride - block.above - block.in_first;
  const int w0 = q * kStride - block.left - Traits::kLead;
  const T* x = block.x_of(image) + (x_plane * block.in_rows + h0) * block.in_w + w0;
  T* y = block.y_of(image) + (plane * block.rows + row0) * block.out_w + q;
  bool inside[Traits::kLoads];
  find_inside<Traits>(w0, block.in_w, inside);
  float sum[kStrip][kColumns];
#pragma unroll
  for (int i = 0; i < Traits::kInRows; i++) {
    if (i % kStride == 0 && i / kStride < kStrip) {
#pragma unroll
      for (int c = 0; c < kColumns; c++) sum[i / kStride][c] = bias;
    }
    constexpr int kHalo = Traits::kPadding;
    const bool known = kPlane > 0 && (Traits::kWholePlane || (i >= kHalo && i < kStrip + kHalo));
    const bool counts =
        known ? !Traits::kWholePlane || (i >= kHalo && i < kStrip + kHalo) : within(h0 + i, block.in_rows);
    if (counts) {
      BandRow<Traits> v;
      load_row<Traits>(x, inside, v);
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
    x += block.in_w;
    if (i < kFilter - 1 || (i - kFilter + 1) % kStride != 0) continue;
    const int row = (i - kFilter + 1) / kStride;  // the output row that this row of input completes
    if (kPlane > 0 || row0 + row < block.rows) store_outputs<Traits>(y, sum[row], q, block.out_w);
    y += block.out_w;
  }
}

// What a thread owns of its block: a plane, and of its strips and columns some.
template <typename Traits>
__device__ __forceinline__ void compute_strips(const BandBlock<Traits>& block,
                                               const typename Traits::Element* filters) {
  using T = typename Traits::Element;
  constexpr int kTaps = Traits::kTaps, kStrip = Traits::kStrip;
  const BandPlan& plan = block.plan;
  const BandParams<T>& params = block.params;
  const int lane = static_cast<int>(threadIdx.x) % kLanes, warp = static_cast<int>(threadIdx.x) / kLanes;
  const int slot_lane = lane & ((1 << plan.slot_log2) - 1);
  const int groups_log2 = 5 - plan.slot_log2, beside_log2 = plan.apart_log2 + plan.sets_log2;
  const int set = (warp >> plan.apart_log2) & ((1 << plan.sets_log2) - 1);
  const int planes_up = (set << groups_log2) | (lane >> plan.slot_log2);
  const int plane = (planes_up << plan.apart_log2) | (warp & ((1 << plan.apart_log2) - 1));
  if (plane >= block.planes || slot_lane >= plan.lanes) return;

  float w[kTaps];
  const T* const wp = filters + plane * kTaps + (params.view.flip ? kTaps - 1 : 0);
  const int w_step = params.view.flip ? -1 : 1;
#pragma unroll
  for (int tap = 0; tap < kTaps; tap++) w[tap] = widen(wp[tap * w_step]);
  float bias = 0;
  if (params.bias != nullptr) {
    int filter = block.first_filter + plane;
    if (filter >= params.filters.size) filter %= params.filters.size;
    bias = widen(params.bias[filter]);
  }
  const int x_plane = block.multiplier == 1 ? plane : (block.beside + plane) / block.multiplier;

  const int step = block.threads / kLanes >> beside_log2;
  const int units = (block.rows + kStrip - 1) / kStrip * plan.segments, all_units = units * block.images;
  for (int unit = warp >> beside_log2; unit < all_units; unit += step) {
    const int image = Traits::kKnown > 0 || unit < units ? 0 : unit / units;
    int strip = unit - image * units, column = slot_lane;
    if (plan.segments > 1) {
      const int segment = strip % plan.segments;
      strip /= plan.segments;
      column += segment * plan.lanes;
    }
    if (!block.exists(image) || column >= plan.columns) continue;
    if (Traits::kKnown == kStrip) strip = 0;
    if (Traits::kWholePlane) column = 0;
    compute_strip<Traits>(block, image, plane, x_plane, strip * kStrip, column * Traits::kColumns, w, bias);
  }
}

template <typename Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kBlocks)
    depthwise_nchw_bands(const __grid_constant__ BandParams<typename Traits::Element> params) {
  constexpr BandPlan kPlan = Traits::plan();
  const BandBlock<Traits> block(params, kPlan);
  const auto* const filters = block.load();
  ptx::cp_async_wait_all();
  __syncthreads();
  compute_strips<Traits>(block, filters);
  __syncthreads();
  block.store();
}

// Which instance serves tensors whose addresses have this bitwise or: planes that are known, pairs of columns where
// width and alignment allow them, else single ones. Calls visit.template operator()<Traits>().
template <typename T, int kFilter, int kStride, typename Visit>
auto choose_bands(const ConvView& p, uintptr_t addresses, const Visit& visit) {
  constexpr int kCentre = kFilter / 2;
  const bool vectors = addresses % kVectorBytes == 0;
  const bool pairs = addresses % (2 * sizeof(T)) == 0 && p.w.input % 2 == 0 && p.w.padding == kCentre &&
                     (kStride == 2 || p.w.output % 2 == 0) && (p.w.output - 1) * kStride < p.w.input;
  if constexpr (kFilter == 3 && kStride == 1) {
    const auto is = [&](int size) {
      const auto same = [&](const AxisView& axis) {
        return axis.input == size && axis.output == size && axis.padding == kCentre;
      };
      return vectors && p.outputs == 1 && same(p.h) && same(p.w);
    };
    if (is(7)) return visit.template operator()<BandTraits<T, kFilter, kStride, false, 7>>();
    if (pairs && is(14)) return visit.template operator()<BandTraits<T, kFilter, kStride, true, 14>>();
    if (pairs && is(28)) return visit.template operator()<BandTraits<T, kFilter, kStride, true, 28>>();
    if (pairs && is(56)) return visit.template operator()<BandTraits<T, kFilter, kStride, true, 56>>();
  }
  return pairs ? visit.template operator()<BandTraits<T, kFilter, kStride, true, 0>>()
               : visit.template operator()<BandTraits<T, kFilter, kStride, false, 0>>();
}

template <typename Traits>
BandParams<typename Traits::Element> bands_params(const ConvView& view) {
  const BandPlan plan = plan_bands(view, Traits::shape());
  const int filters = view.out_channels();
  return {{},
          planes_of(view),
          view,
          plan,
          Divisor(plan.bands),
          Divisor(plan.images == 1 ? 1 : filters / plan.planes),
          Divisor(filters),
          Divisor(view.outputs)};
}

template <typename T, int kFilter, int kStride>
LaunchPlan plan_bands_launch(const KernelRow& row, const ConvView& view) {
  LaunchPlan plan;
  const auto aligned =
      choose_bands<T, kFilter, kStride>(view, 0, [&]<typename Traits>() { return bands_params<Traits>(view); });
  plan.shape = bands_shape(view, aligned.plan);
  plan.refusal = shared_beyond(static_cast<int64_t>(plan.shape.shared_bytes));
  plan.launch = [name = row.name, pass = row.pass, view, aligned](const Tensors& t, cudaStream_t stream) {
    const uintptr_t addresses = reinterpret_cast<uintptr_t>(t.x) | reinterpret_cast<uintptr_t>(t.y);
    choose_bands<T, kFilter, kStride>(view, addresses, [&]<typename Traits>() {
      const BandParams<T> params = addresses % kVectorBytes == 0 ? aligned : bands_params<Traits>(view);
      launch(name, depthwise_nchw_bands<Traits>, bands_shape(view, params.plan), stream, with_tensors(params, pass, t));
    });
  };
  return plan;
}

template <typename T, int kFilter>
LaunchPlan plan_bands_row(const KernelRow& row, const ConvProblem& problem, const Device&) {
  if (std::string reason = planes_refuse(row.pass, problem); !reason.empty()) return refuse(std::move(reason));
  if (problem.stride[1] != problem.stride[2] || problem.stride[1] > 2) return refuse("made for strides 1x1 and 2x2");
  const ConvView view = as_fprop(row.pass, problem);
  return view.h.stride == 2 ? plan_bands_launch<T, kFilter, 2>(row, view) : plan_bands_launch<T, kFilter, 1>(row, view);
}

// The rows of one size of filter: a file each, because each compiles for a minute.
template <int kFilter>
KernelRows bands_rows() {
  return rows_of_fast_types([&]<typename T> {
    using Traits = BandTraits<T, kFilter, 1, true, 0>;
    return with_dgrad(
        {.name = "depthwise_fprop_nchw_bands",
         .family = Family::kDepthwise,
         .pass = Pass::kFprop,
         .dtype = kDTypeOf<T>,
         .layout = Layout::kChannelsFirst,
         .filter = kFilter,
         .tile = "up to " + std::to_string(kMostWarps * kLanes) + " threads, whole planes or a band of one in " +
                 std::to_string(kBlockBytes / 1024) + " KB; " + std::to_string(Traits::kStrip) + " rows of " +
                 std::to_string(Traits::kColumns) + " columns a thread" +
                 (kFilter == 3 ? ", more on known planes" : ""),
         .plan = plan_bands_row<T, kFilter>},
        "depthwise_dgrad_nchw_bands");
  });
}

}  // namespace convbound::depthwise
