// dilated_wgrad_nhwc: dw[k,r,s] = sum over n,p,q of dy[n,p,q,k] * x[n,h,w,k/multiplier] and dbias[k] = sum over n,p,q
// of dy, with h = p + r * dilation - padding (w alike), depthwise with a dilation at stride 1, in fp32, rounded once.
//
// Floor: x and dy are read once, the outputs are small. 2 R S FLOPs a position stand against 4 bytes in fp16.
//
// Rows of dy meet rows of x of one class modulo the dilation. So a stage of shared memory holds whole classes: all
// their columns, 32 bytes of channels. Nothing is read twice at any rate, while a window of R neighbouring rows would
// have (R - 1) * dilation rows of halo. Planes of which one class is larger than a stage are cut into chunks of its
// rows, which read R - 1 rows of x again (128 x 128 at rate 2: chunks of 5, 1.20 of compulsory in all).
//
// A thread owns four channels and a tile of 3x3 taps and goes over positions. It loads dy once, and per tap it loads x
// and does 4 FMA and as many conversions. It skips rows in the padding, and reads zeros for columns there. A warp's 8
// positions (16 bits; 4 in fp32) of 32 bytes are all banks once. With larger filters each warp has a tile of its own,
// up to 8 of them over the same stage.
//
//   traffic     1.02 of compulsory at 33 x 33, batch 32, at any rate: x and dy once, 2 % partial sums
//   in flight   2 blocks an SM, each with the next stage of 20 to 48 KB by 16-byte cp.async while it works on one; two
//               stages of 40 KB are what two blocks have on sm_80
//
// Channels that are no multiple of 16 bytes, pointers that are not aligned and (for x) multipliers are copied element
// by element.
#include <cstring>
#include <type_traits>

#include "csrc/common/divisor.h"
#include "csrc/common/pair.h"
#include "csrc/common/ptx.h"
#include "csrc/common/shared.h"
#include "csrc/dilated/dilated_problem.h"
#include "csrc/dilated/dilated_wgrad_nhwc_plan.h"

namespace convbound::dilated {

namespace {

constexpr int kThreads = 32 * kWgradWarps;
constexpr int kElements = 4;  // channels of a thread
constexpr int kTaps = kTile * kTile, kValues = kTaps + 1;

template <typename T>
struct DilatedWgradParams {
  DilatedWgradPlan plan;
  const T *x, *dy;
  PartialSums<T> sums;
  bool x_vectors, dy_vectors;  // copied by 16 bytes
  IndexDivisor by_w, by_q, by_rows, by_x_rows, by_multiplier;
};

template <typename T>
struct DilatedWgradBlock {
  static constexpr int kSize = sizeof(T), kSlice = kSliceBytes / kSize;
  static constexpr int kLanes = kSlice / kElements;  // threads side by side at a position

  const DilatedWgradParams<T>& params;
  const DilatedWgradPlan& plan;
  int channel, tile, split;  // the first of each

  __device__ __forceinline__ explicit DilatedWgradBlock(const DilatedWgradParams<T>& p) : params(p), plan(p.plan) {
    int index = static_cast<int>(blockIdx.x);
    channel = index % plan.slices * kSlice;
    index /= plan.slices;
    tile = index % plan.tile_groups * plan.block_tiles;
    split = index / plan.tile_groups;
  }

  struct ClassUnit {
    int image, first_class, first_row;  // first_row: of each class
    // Row number i of class number c, as a row of dy.
    __device__ __forceinline__ int row(const DilatedWgradPlan& plan, int c, int i) const {
      return first_class + c + (first_row + i) * plan.h.dilation;
    }
  };

  __device__ __forceinline__ ClassUnit unit(int index) const {
    ClassUnit unit;
    unit.first_row = index % plan.chunks * plan.rows;
    index /= plan.chunks;
    unit.first_class = index % plan.class_groups * plan.classes;
    unit.image = index / plan.class_groups;
    return unit;
  }

  // Copies `rows` rows of each class that lie in the tensor.
  __device__ __forceinline__ void copy_rows(unsigned char* to, const T* from, bool vectors, const ClassUnit& unit,
                                            int rows, const IndexDivisor& by_rows, const IndexDivisor& by_columns,
                                            int above, int height, int64_t row_stride, int64_t column_stride,
                                            bool divided) const {
    const int parts = vectors ? kSliceBytes / 16 : kSlice, elements = vectors ? 16 / kSize : 1;
    const int count = plan.classes * rows * by_columns.size * parts;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
      const int position = i / parts, part = i - position * parts;
      const auto [line, column] = divide(position, by_columns);
      const auto [c, row_of_class] = divide(line, by_rows);
      const int row = unit.row(plan, c, row_of_class) - above, k = channel + part * elements;
      if (unit.first_class + c >= plan.all_classes || !within(row, height)) continue;
      unsigned char* const cell = to + position * kSliceBytes;
      const T* const at = from + row * row_stride + column * column_stride;
      if (vectors) {
        if (k < plan.channels) ptx::cp_async<16>(cell + part * 16, at + k);
      } else {
        const int source = divided ? divide(k, params.by_multiplier).quotient : k;
        reinterpret_cast<T*>(cell)[part] = k < plan.channels ? at[source] : narrow<T>(0.0f);
      }
    }
  }

  __device__ __forceinline__ void copy(unsigned char* stage, const ClassUnit& unit) const {
    copy_rows(stage, params.x + unit.image * plan.x.image, params.x_vectors, unit, plan.x_rows, params.by_x_rows,
              params.by_w, plan.h.padding, plan.h.input, plan.x.row, plan.x.column, plan.outputs > 1);
    copy_rows(stage + plan.x_bytes, params.dy + unit.image * plan.dy.image, params.dy_vectors, unit, plan.rows,
              params.by_rows, params.by_q, 0, plan.h.output, plan.dy.row, plan.dy.column, false);
    ptx::cp_async_commit();
  }
};

template <typename T>
__device__ __forceinline__ void load_channels(const unsigned char* at, float (&to)[kElements]) {
  using Word = std::conditional_t<sizeof(T) == 2, uint2, uint4>;
  const Word word = *reinterpret_cast<const Word*>(at);
  PairOf<T> pairs[2];
  memcpy(static_cast<void*>(pairs), &word, sizeof(word));
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const float2 two = widen_pair(pairs[i]);
    to[2 * i] = two.x, to[2 * i + 1] = two.y;
  }
}

// The sums of one thread: a tile of taps from (r, s) on, and the bias.
template <typename T>
struct DilatedWgradSums {
  using Block = DilatedWgradBlock<T>;
  static constexpr int kPositions = 32 / Block::kLanes;  // of a warp

  float value[kValues][kElements] = {};
  int r, s;
  int down[kTile], across[kTile];  // rows and columns to the taps; out of every tensor where the filter ends before
  int position, positions;         // number of the thread's position in the block, and how many there are
  int lane;                        // number of its channels among those of the slice
  bool active;

  __device__ __forceinline__ explicit DilatedWgradSums(const Block& block) {
    const DilatedWgradPlan& plan = block.plan;
    const int warp = static_cast<int>(threadIdx.x) / 32, in_warp = static_cast<int>(threadIdx.x) % 32;
    const int groups = kWgradWarps / plan.block_tiles, group = warp / plan.block_tiles;
    const int tile = block.tile + warp - group * plan.block_tiles;
    r = tile / plan.tile_columns * kTile, s = tile % plan.tile_columns * kTile;
    constexpr int kFar = 1 << 28;
#pragma unroll
    for (int i = 0; i < kTile; i++) {
      down[i] = r + i < plan.h.filter ? i * plan.h.dilation : kFar;
      across[i] = s + i < plan.w.filter ? i * plan.w.dilation : kFar;
    }
    lane = in_warp % Block::kLanes;
    position = group * kPositions + in_warp / Block::kLanes, positions = groups * kPositions;
    active = group < groups && tile < plan.tiles && block.channel + lane * kElements < plan.channels;
  }

  __device__ __forceinline__ void add(const Block& block, const typename Block::ClassUnit& unit,
                                      const unsigned char* stage, const unsigned char* zeros) {
    const DilatedWgradPlan& plan = block.plan;
    const int channel_bytes = lane * kElements * Block::kSize;
    const int line_bytes = plan.w.input * kSliceBytes, column_bytes = plan.w.dilation * kSliceBytes;
    const int count = active ? plan.classes * plan.rows * plan.w.output : 0;
    for (int i = position; i < count; i += positions) {
      const auto [line, q] = divide(i, block.params.by_q);
      const auto [c, row_of_class] = divide(line, block.params.by_rows);
      const int p = unit.row(plan, c, row_of_class);
      if (unit.first_class + c >= plan.all_classes || p >= plan.h.output) continue;
      float dy[kElements];
      load_channels<T>(stage + plan.x_bytes + i * kSliceBytes + channel_bytes, dy);
#pragma unroll
      for (int e = 0; e < kElements; e++) value[kTaps][e] += dy[e];
      const int h = p + r * plan.h.dilation - plan.h.padding, w = q + s * plan.w.dilation - plan.w.padding;
      const int at = ((c * plan.x_rows + row_of_class + r) * plan.w.input + w) * kSliceBytes + channel_bytes;
#pragma unroll
      for (int d = 0; d < kTile; d++) {
        // Whole warps agree about rows, but for the ends of lines; columns in the padding read zeros.
        if (!within(h + down[d], plan.h.input)) continue;
#pragma unroll
        for (int a = 0; a < kTile; a++) {
          const bool there = within(w + across[a], plan.w.input);
          float x[kElements];
          load_channels<T>(there ? stage + at + d * line_bytes + a * column_bytes : zeros + channel_bytes, x);
#pragma unroll
          for (int e = 0; e < kElements; e++) {
            value[kTile * d + a][e] = fmaf(dy[e], x[e], value[kTile * d + a][e]);
          }
        }
      }
    }
  }

  // Adds up the positions of the block, in a fixed order, and writes the sums of its channels.
  __device__ __forceinline__ void write(const Block& block) const {
    const DilatedWgradPlan& plan = block.plan;
    float* const shared = dynamic_shared<float>();  // [warp][channel][value]
    const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
    __syncthreads();  // the last stage is read
#pragma unroll
    for (int v = 0; v < kValues; v++) {
#pragma unroll
      for (int e = 0; e < kElements; e++) {
        float sum = value[v][e];
        // Not unrolled by force: 200 exchanges in line take AddressSanitizer's g++ many minutes.
        for (int half = 16; half > 0; half /= 2) {
          if (half >= Block::kLanes) sum += __shfl_down_sync(0xffffffffu, sum, half);
        }
        if (thread % 32 < Block::kLanes) shared[(warp * Block::kSlice + lane * kElements + e) * kValues + v] = sum;
      }
    }
    __syncthreads();
    const int channels = min(Block::kSlice, plan.channels - block.channel), groups = kWgradWarps / plan.block_tiles;
    const auto total = [&](int tile, int channel, int v) {
      float sum = 0;
      for (int g = 0; g < groups; g++) {
        sum += shared[((g * plan.block_tiles + tile) * Block::kSlice + channel) * kValues + v];
      }
      return sum;
    };
    const int taps = plan.h.filter * plan.w.filter, outputs = channels * taps;
    for (int i = thread; i < outputs; i += kThreads) {
      const int channel = i / taps, tap = i - channel * taps, down = tap / plan.w.filter,
                across = tap - down * plan.w.filter;
      const int tile = down / kTile * plan.tile_columns + across / kTile - block.tile;
      if (tile < 0 || tile >= plan.block_tiles) continue;
      block.params.sums.write(block.split, static_cast<int64_t>(block.channel) * taps + i,
                              total(tile, channel, down % kTile * kTile + across % kTile));
    }
    if (block.tile > 0 || thread >= channels) return;
    block.params.sums.write(block.split, static_cast<int64_t>(plan.channels) * taps + block.channel + thread,
                            total(0, thread, kTaps));
  }
};

template <typename T>
__global__ void __launch_bounds__(kThreads, 2) wgrad_nhwc_kernel(const __grid_constant__ DilatedWgradParams<T> params) {
  const DilatedWgradBlock<T> block(params);
  const DilatedWgradPlan& plan = params.plan;
  unsigned char* const shared = dynamic_shared<unsigned char>();
  unsigned char* const zeros = shared + kWgradStages * plan.stage_bytes;
  if (threadIdx.x < kSliceBytes) zeros[threadIdx.x] = 0;
  const int first = block.split * plan.block_units, end = min(first + plan.block_units, plan.units);
  DilatedWgradSums<T> sums(block);
  block.copy(shared, block.unit(first));
  for (int i = first; i < end; i++) {
    unsigned char* const stage = shared + (i - first) % kWgradStages * plan.stage_bytes;
    ptx::cp_async_wait_all();
    __syncthreads();  // the stage is there for all, and the other one is read by all
    if (i + 1 < end) block.copy(shared + (i + 1 - first) % kWgradStages * plan.stage_bytes, block.unit(i + 1));
    sums.add(block, block.unit(i), stage, zeros);
  }
  sums.write(block);
}

template <typename T>
DilatedWgradParams<T> wgrad_params(const DilatedWgradPlan& plan, const Tensors& t, const PartialSums<T>& sums) {
  return {plan,
          static_cast<const T*>(t.x),
          static_cast<const T*>(t.y),
          sums,
          rows_at_boundaries<T>(t.x, plan.channels) && plan.outputs == 1,
          rows_at_boundaries<T>(t.y, plan.channels),
          IndexDivisor(plan.w.input),
          IndexDivisor(plan.w.output),
          IndexDivisor(plan.rows),
          IndexDivisor(plan.x_rows),
          IndexDivisor(plan.outputs)};
}

template <typename T>
LaunchPlan plan_wgrad_nhwc(const KernelRow& row, const ConvProblem& p, const Device& device) {
  if (std::string reason = problem_refused(p); !reason.empty()) return refuse(std::move(reason));
  DilatedWgradPlan plan;
  std::string reason = plan_wgrad(wgrad_view(p, Layout::kChannelsLast), sizeof(T), device, plan);
  if (!reason.empty()) return refuse(std::move(reason));
  const LaunchShape shape{.grid_x = int64_t{plan.slices} * plan.tile_groups * plan.splits,
                          .block_x = kThreads,
                          .shared_bytes = plan.shared_bytes};
  return plan_with_sums<T>(
      row, wgrad_nhwc_kernel<T>, shape, plan,
      [plan](const Tensors& tensors, const PartialSums<T>& sums) { return wgrad_params(plan, tensors, sums); });
}

}  // namespace

KernelRows wgrad_nhwc_rows() {
  return rows_of_fast_types([&]<typename T> {
    const std::string taps = std::to_string(kTile) + "x" + std::to_string(kTile);
    return KernelRows{{.name = "dilated_wgrad_nhwc",
                       .family = Family::kDilated,
                       .pass = Pass::kWgrad,
                       .dtype = kDTypeOf<T>,
                       .layout = Layout::kChannelsLast,
                       .stride = 1,
                       .tile = std::to_string(kWgradWarps) + " warps, " + std::to_string(kSliceBytes) +
                               " bytes of channels, whole classes modulo the dilation, " + taps + " taps a thread",
                       .plan = plan_wgrad_nhwc<T>}};
  });
}

}  // namespace convbound::dilated
