// transposed_dgrad_nchw_stride2, depthwise, for 3x3, 4x4, 5x5 and 7x7: dx[n,c,h,w] = bias[c] + sum over r,s of
// dy[n,c,p,q] * w[c,r,s] with h + padding = 2p + r (and w alike). transposed_nchw_tile.h has the tiles,
// transposed_blocks.h the blocks.
//
// Each thread walks down dy, in a group of two or four columns of dx. A row p of dy adds to the rows 2p ... 2p + R - 1
// of dx + padding. The first two of them are complete then and stored, and the sums of the others move up by two. So
// every element of dy is loaded once for each group, every tap is used once for every block of 2x2, and a row in the
// padding is passed over. Groups begin at even columns of dx, whatever the padding, so that where rows have an even
// length two or four elements are one store.
//
//   per 2x2 block   R*S FMA, at most ceil(S/2) + 1 shared loads, 2 shared stores
//   global memory   dy once, but for ceil(R/2) - 1 rows above each band where a plane is cut (1/18 of dy, 1/90 of all
//                   traffic, for 3x3 at 112 x 112 in fp16); dx once, all of both by 16-byte accesses
//   in flight       loads are a fifth of the traffic: a stage of dy, about 4 KB, x 4 blocks at the least (7x7), where a
//                   fifth of 24 (sm_80) and 36 KB (sm_90) is asked for; stores wait for nothing
//   instructions    of the inner loop for an output, on sm_80: 8 at 3x3, 10 at 4x4 and 5x5, 19 at 7x7
#include <cstring>
#include <type_traits>

#include "csrc/common/pair.h"
#include "csrc/transposed/transposed_nchw_tile.h"

namespace convbound::transposed {

namespace {

// Columns 2c and 2c + 1 of a group, of the parity of the padding: which element of the window meets tap s, if the
// window's element u is dy's column q - u. Even columns of dx take the even taps where the padding is even.
template <int kFilter, int kGroup, bool kOdd>
struct Columns {
  static constexpr int kPairs = kGroup / 2;
  static constexpr int kOfPair = kOdd ? kFilter / 2 + 1 : (kFilter + 1) / 2;
  static constexpr int kWindow = kOfPair + kPairs - 1;
  static constexpr bool takes(int column, int s) { return (column + s + (kOdd ? 1 : 0)) % 2 == 0; }
  static constexpr int element(int column, int s) {
    const int of_pair = kOdd && column % 2 == 0 ? 1 + s / 2 : s / 2;
    return of_pair + kPairs - 1 - column / 2;
  }
};

// Rows of dy above that of a block that its rows of dx meet too.
constexpr int rows_above(int filter) { return (filter + 1) / 2 - 1; }

// A row of the group by stores of kVector elements. Of the group's columns those from `first` to `end` are the tile's.
template <int kVector, typename T, int kGroup>
__device__ __forceinline__ void store_group(T* to, const float (&values)[kGroup], int first, int end) {
  using Pair = PairOf<T>;
  if constexpr (kVector == 4) {
    const Pair pairs[2] = {narrow_pair<T>(make_float2(values[0], values[1])),
                           narrow_pair<T>(make_float2(values[2], values[3]))};
    uint2 word;
    memcpy(static_cast<void*>(&word), pairs, sizeof(word));
    *reinterpret_cast<uint2*>(to) = word;
  } else if constexpr (kVector == 2) {
#pragma unroll
    for (int i = 0; i < kGroup; i += 2) {
      if (i < end) *reinterpret_cast<Pair*>(to + i) = narrow_pair<T>(make_float2(values[i], values[i + 1]));
    }
  } else {
#pragma unroll
    for (int i = 0; i < kGroup; i++) {
      if (i >= first && i < end) to[i] = narrow<T>(values[i]);
    }
  }
}

// Where a thread walks down dy, in a group of columns of dx.
template <typename T, int kWindow>
struct ColumnGroup {
  const T* dy;    // the last column of the window, in the first row that the walk meets
  T* dx;          // the group in the first two rows of dx
  int row, rows;  // number of the first of these in the tile, and of all that it has
  // The first columns of the tile and of the group. Subtracted at each store: their difference would need a register.
  int tile_first, column;
  int end;               // of the group's columns that the tile has
  bool inside[kWindow];  // columns of dy that exist
};

// Moves the sums of rows 2p + r of dx up by two, for the first two are stored, and adds a row of dy.
template <typename C, typename T, int kFilter, int kGroup>
__device__ __forceinline__ void add_row(const T* dy, const bool (&inside)[C::kWindow],
                                        const float (&tap)[kFilter][kFilter], float bias,
                                        float (&sum)[kFilter][kGroup]) {
  constexpr int kSums = kFilter * kGroup;
  float window[C::kWindow];
#pragma unroll
  for (int u = 0; u < C::kWindow; u++) window[u] = inside[u] ? widen(dy[-u]) : 0.0f;
#pragma unroll
  for (int i = 0; i < kSums; i++) {
    const int r = i / kGroup, x = i % kGroup;
    float added = r + 2 < kFilter ? sum[(r + 2) % kFilter][x] : bias;
#pragma unroll
    for (int s = 0; s < kFilter; s++) {
      if (C::takes(x, s)) added = fmaf(window[C::element(x, s)], tap[r][s], added);
    }
    sum[r][x] = added;
  }
}

// The same for a row in the padding.
template <int kFilter, int kGroup>
__device__ __forceinline__ void pass_row(float bias, float (&sum)[kFilter][kGroup]) {
  constexpr int kSums = kFilter * kGroup;
#pragma unroll
  for (int i = 0; i < kSums; i++) {
    const int r = i / kGroup, x = i % kGroup;
    sum[r][x] = r + 2 < kFilter ? sum[(r + 2) % kFilter][x] : bias;
  }
}

// Rows p of dy from `first` to `end`, after those above that meet the same rows of dx.
template <int kVector, typename C, typename T, int kFilter, int kGroup = C::kPairs * 2>
__device__ __forceinline__ void walk_down(const ConvView& v, const ColumnGroup<T, C::kWindow>& group, int first,
                                          int end, const float (&tap)[kFilter][kFilter], float bias) {
  constexpr int kAbove = rows_above(kFilter), kSums = kFilter * kGroup;
  const int dy_rows = v.h.output;
  const T* dy = group.dy;
  T* dx = group.dx;
  int row = group.row;
  float sum[kFilter][kGroup];
#pragma unroll
  for (int i = 0; i < kSums; i++) sum[i / kGroup][i % kGroup] = bias;
  const auto store = [&] {
    const bool upper = static_cast<unsigned>(row) < static_cast<unsigned>(group.rows);
    const bool lower = static_cast<unsigned>(row + 1) < static_cast<unsigned>(group.rows);
    if (upper) store_group<kVector>(dx, sum[0], group.tile_first - group.column, group.end);
    if (lower) store_group<kVector>(dx + v.w.input, sum[1], group.tile_first - group.column, group.end);
    dx += 2 * v.w.input;
    row += 2;
  };
#pragma unroll
  for (int above = 0; above < kAbove; above++) {
    const int p = first - kAbove + above;
    if (p >= 0 && p < dy_rows) {
      add_row<C>(dy, group.inside, tap, bias, sum);
    } else {
      pass_row(bias, sum);
    }
    dy += v.w.output;
  }
  const int inner_end = min(end, dy_rows);
#pragma unroll 1
  for (int p = first; p < inner_end; p++) {
    add_row<C>(dy, group.inside, tap, bias, sum);
    dy += v.w.output;
    store();
  }
#pragma unroll 1
  for (int p = max(first, inner_end); p < end; p++) {
    pass_row(bias, sum);
    store();
  }
}

// Teams of threads take the planes, the threads of a team its items: groups of columns and segments of their rows.
template <int kFilter, bool kOdd, typename T>
__device__ __forceinline__ void compute_planes(const TransposedNchwParams<T>& params, const TilePart& part, int planes,
                                               T* dx_stage, const StagedDy<T>& dy_stage,
                                               const StagedFilters<T>& filters) {
  constexpr int kGroup = column_group(kFilter), kTaps = kFilter * kFilter, kAbove = rows_above(kFilter);
  using C = Columns<kFilter, kGroup, kOdd>;
  const TransposedNchwTile& tile = params.tile;
  const AxisView &h = params.view.h, &w = params.view.w;
  const int items = tile.segments * tile.columns;
  const QuotientRemainder team = divide(static_cast<int>(threadIdx.x), params.team);
  const int plane_end = team.quotient < tile.teams ? planes : 0;
  // Where a tile is a part of a row, its first group may begin one column before it.
  const int first_column = part.w.in / 2 * 2, dx_offset = elements_after_boundary(dx_stage);
  const bool even = w.input % 2 == 0 && tile.w.tiles == 1 && dx_offset % 2 == 0;
  const bool fourfold = even && kGroup == 4 && sizeof(T) == 2 && w.input % 4 == 0 && dx_offset % 4 == 0;
#pragma unroll 1
  for (int plane = team.quotient; plane < plane_end; plane += tile.teams) {
    float tap[kFilter][kFilter];
    const T* const taps = filters(plane);
#pragma unroll
    for (int t = 0; t < kTaps; t++) tap[t / kFilter][t % kFilter] = widen(taps[t]);
    const float bias = filters.biases[plane];
#pragma unroll 1
    for (int item = team.remainder; item < items; item += tile.team) {
      const QuotientRemainder place = divide(item, params.columns);
      const int first = part.h.block + place.quotient * tile.steps, end = min(first + tile.steps, part.h.block_end);
      const int column = first_column + place.remainder * kGroup, columns = part.w.in_end - column;
      if (columns <= 0) continue;

      ColumnGroup<T, C::kWindow> group;
      const int q = column / 2 + (w.padding + 1) / 2 + C::kPairs - 1;
#pragma unroll
      for (int u = 0; u < C::kWindow; u++) group.inside[u] = q - u >= part.w.out && q - u < part.w.out_end;
      group.row = 2 * first - h.padding - part.h.in;
      group.rows = part.h.in_end - part.h.in;
      group.dy = dy_stage(plane) + (first - kAbove - part.h.out) * w.output + q - part.w.out;
      group.dx = dx_stage + (plane * h.input + group.row) * w.input + column - part.w.in;
      group.tile_first = part.w.in;
      group.column = column;
      group.end = columns;
      if (fourfold) {
        walk_down<4, C>(params.view, group, first, end, tap, bias);
      } else if (even) {
        walk_down<2, C>(params.view, group, first, end, tap, bias);
      } else {
        walk_down<1, C>(params.view, group, first, end, tap, bias);
      }
    }
  }
}

template <typename T, int kFilter, bool kOdd>
__global__ void __launch_bounds__(kThreads, kFilter < 5    ? 8
                                            : kFilter == 5 ? 6
                                                           : 4)
    dgrad_nchw_stride2_kernel(const __grid_constant__ TransposedNchwParams<T> params) {
  run_tile(params, [&](const TilePart& part, int planes, T* dx_stage, const StagedDy<T>& dy_stage,
                       const StagedFilters<T>& filters) {
    compute_planes<kFilter, kOdd>(params, part, planes, dx_stage, dy_stage, filters);
  });
}

template <typename T, int kFilter>
LaunchPlan plan_stride2(const KernelRow& row, const ConvProblem& p, const Device&) {
  std::string reason = first_of({problem_refused(p), multiplier_or_dilation_refused(p)});
  if (!reason.empty()) return refuse(std::move(reason));
  const bool odd = p.padding[2] % 2 != 0;
  const auto kernel = odd ? dgrad_nchw_stride2_kernel<T, kFilter, true> : dgrad_nchw_stride2_kernel<T, kFilter, false>;
  const auto params = make_params<T>(view_of(p));
  return plan_launch(row, kernel, tile_shape(params), params);
}

template <typename T, int kFilter>
KernelRow stride2_row() {
  return {.name = "transposed_dgrad_nchw_stride2",
          .family = Family::kTransposed,
          .pass = Pass::kDgrad,
          .dtype = kDTypeOf<T>,
          .layout = Layout::kChannelsFirst,
          .filter = kFilter,
          .stride = 2,
          .tile = tile_text() + " of whole planes or rows",
          .plan = plan_stride2<T, kFilter>};
}

}  // namespace

KernelRows dgrad_nchw_stride2_rows() {
  return rows_of_fast_types([&]<typename T> {
    return KernelRows{stride2_row<T, 3>(), stride2_row<T, 4>(), stride2_row<T, 5>(), stride2_row<T, 7>()};
  });
}

}  // namespace convbound::transposed
