// grouped_wgrad_nhwc_small: the filter gradient of convolutions with at most 16 channels a group, depthwise ones too,
// in 16 bits on tensor cores, with the bias gradient in the same loop. grouped_wgrad_mma.cu has the equation.
//
// Such a convolution is bound by memory: at C/g = 4, 3x3, there are 18 FLOP for each byte of x and dy. So x is read
// once, not once per tap. A block has 32 channels of dy and the channels of x that they meet. A stage of shared memory
// holds a box: up to 128 positions of dy, and all pixels of x that they meet, zeros for the padding. Then a tap is a
// distance in shared memory, and ldmatrix.trans reads the rows of any tap where they lie.
//
// Each warp has 8 channels of dy, one side of m16n8k16. The other side is two pairs of a tap and a vector of 8 channels
// of x: with C/g up to 8, two taps. So a product of 16 x 8 is whole at C/g = K/g = 8, a half of it at 4; the rest are
// channels that do not meet. All taps of a 3x3 filter are 5 products, of 5x5 13, of 7x7 25; the sums stay in registers.
// Larger filters take several tiles of taps, each of which reads the box again.
//
// Pixels are an odd number of 16 bytes apart, and rows as many pixels as keeps 8 neighbouring positions on different
// banks at stride 1, also across the end of a row of the box.
//
// Counted (fp16; bytes that SMs load from L2 over the compulsory ones):
//
//   3x3     1.17 at 56 x 56, 1.20 at 28 x 28, 1.02 at 14 x 14
//   7x7     1.58 at 56 x 56
//   3x3x3   2.13 at 8 x 16 x 16: each depth reads the three depths that its taps meet
//
// Partial sums come on top: with 128 channels of 56 x 56, batch 32, 1.7 MB are written and read beside 51 MB.
//
//   shared      33 wavefronts per 128 (position, channel) at 3x3: 20 of them are the taps' rows
//   loop        for 16 positions and 8 channels of dy: 9 instructions, and for each product LDSM, IADD, HMMA
//   in flight   a box per block, 30 to 45 KB, and 2 to 4 blocks an SM
//   registers   77 for 5 products, 113 for 9, 158 for 14, 168 for 25
#include "csrc/common/ptx.h"
#include "csrc/common/shared.h"
#include "csrc/common/vector.h"
#include "csrc/common/via_nhwc.h"
#include "csrc/grouped/grouped_wgrad_results.h"
#include "csrc/grouped/grouped_wgrad_small_plan.h"

namespace convbound::grouped {

namespace {

template <typename T>
struct SmallWgradParams {
  SmallWgradPlan plan;
  const T *x, *dy;
  PartialSums<T> sums;
  bool x_vectors, dy_vectors;                                // copied by 16 bytes
  IndexDivisor by_x_vectors, by_x_columns, by_x_rows, by_d;  // of a box
  IndexDivisor by_columns, by_rows;
  IndexDivisor by_outputs;  // channels of dy in a group
};

// Where a box begins.
struct Box {
  int64_t image;
  int o, p, q;
};

template <typename T>
struct SmallBlock {
  const SmallWgradParams<T>& params;
  const SmallWgradPlan& plan;
  int split, column_tile;
  int first_filter, first_channel;

  __device__ __forceinline__ explicit SmallBlock(const SmallWgradParams<T>& p) : params(p), plan(p.plan) {
    int index = static_cast<int>(blockIdx.x);
    column_tile = index % plan.column_tiles;
    index /= plan.column_tiles;
    first_filter = index % plan.filter_tiles * kSmallFilters;
    split = index / plan.filter_tiles;
    first_channel = channel_of(first_filter) / kSmallVector * kSmallVector;
  }

  // The first channel of x that meets a channel of dy.
  __device__ __forceinline__ int channel_of(int filter) const { return filter / plan.outputs * plan.inputs; }

  __device__ __forceinline__ Box box(int index) const {
    Box at;
    at.q = index % plan.column_boxes * plan.columns;
    index /= plan.column_boxes;
    at.p = index % plan.row_boxes * plan.rows;
    index /= plan.row_boxes;
    at.o = index % plan.d.output;
    at.image = static_cast<int64_t>(index / plan.d.output) * plan.box_images;
    return at;
  }
};

// Starts to copy a vector of a tensor's row, or zeros where it is not `there`; `left` channels lie in the row.
template <typename T>
__device__ __forceinline__ void copy_vector(T* to, const T* at, const T* tensor, bool there, int left, bool vectors) {
  if (vectors) {
    there = there && left > 0;
    ptx::cp_async<kVectorBytes>(to, there ? at : tensor, there ? kVectorBytes : 0);
    return;
  }
  Vector<T> values;
#pragma unroll
  for (int e = 0; e < kSmallVector; e++) values.element[e] = there && e < left ? at[e] : narrow<T>(0.0f);
  store_vector(to, values);
}

// x of a box: [image][tap of the depth][row][column] pixels of x_pitch vectors.
template <typename T>
__device__ __forceinline__ void copy_x(T* to, const SmallBlock<T>& block, const Box& box) {
  const SmallWgradParams<T>& params = block.params;
  const SmallWgradPlan& plan = block.plan;
  const int first_d = box.o * plan.d.stride - plan.d.padding, first_h = box.p * plan.h.stride - plan.h.padding,
            first_w = box.q * plan.w.stride - plan.w.padding;
  const int count = plan.pixels * plan.x_vectors, all_channels = plan.in_channels();
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kSmallThreads) {
    const auto [pixel, vector] = divide(i, params.by_x_vectors);
    const auto [line, column] = divide(pixel, params.by_x_columns);
    const auto [layer, row] = divide(line, params.by_x_rows);
    const auto [image, tap] = divide(layer, params.by_d);
    const int d = first_d + tap * plan.d.dilation, h = first_h + row, w = first_w + column;
    const bool there = within(d, plan.d.input) && within(h, plan.h.input) && within(w, plan.w.input) &&
                       box.image + image < plan.images;
    const int channel = block.first_channel + vector * kSmallVector;
    const int64_t at = (((box.image + image) * plan.d.input + d) * plan.h.input + h) * plan.w.input + w;
    const int cell = image * plan.x_image + (tap * plan.x_rows + row) * plan.x_line + column;
    copy_vector(to + (cell * plan.x_pitch + vector) * kSmallVector, params.x + at * all_channels + channel, params.x,
                there, all_channels - channel, params.x_vectors);
  }
}

// dy of a box: [image][row][column] positions of kSmallPitch vectors, and zeros up to whole products.
template <typename T>
__device__ __forceinline__ void copy_dy(T* to, const SmallBlock<T>& block, const Box& box) {
  const SmallWgradParams<T>& params = block.params;
  const SmallWgradPlan& plan = block.plan;
  const int count = plan.depths * kSmallWarps;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kSmallThreads) {
    const int position = i / kSmallWarps, vector = i % kSmallWarps;
    const auto [line, column] = divide(position, params.by_columns);
    const auto [image, row] = divide(line, params.by_rows);
    const int p = box.p + row, q = box.q + column, filter = block.first_filter + vector * kSmallVector;
    const bool there =
        position < plan.positions && p < plan.h.output && q < plan.w.output && box.image + image < plan.images;
    const int64_t at = (((box.image + image) * plan.d.output + box.o) * plan.h.output + p) * plan.w.output + q;
    copy_vector(to + (position * kSmallPitch + vector) * kSmallVector, params.dy + at * plan.channels + filter,
                params.dy, there, plan.channels - filter, params.dy_vectors);
  }
}

// Where in a stage the positions of dy find the x of the first tap, in bytes.
template <typename T>
__device__ __forceinline__ void find_pixels(int* first_pixel, const SmallWgradParams<T>& params) {
  const SmallWgradPlan& plan = params.plan;
  for (int i = static_cast<int>(threadIdx.x); i < plan.depths; i += kSmallThreads) {
    const auto [line, column] = divide(i < plan.positions ? i : 0, params.by_columns);
    const auto [image, row] = divide(line, params.by_rows);
    const int pixel = image * plan.x_image + row * plan.h.stride * plan.x_line;
    first_pixel[i] = (pixel + column * plan.w.stride) * plan.x_pitch * kVectorBytes;
  }
}

// The sums of a warp: 8 channels of dy times 2 * kTall pairs of a tap and a vector of x.
template <typename T, int kTall>
class SmallSums {
  float sum_[kTall][4] = {};
  float bias_[4] = {};
  int x_at_[kTall];  // of the lane's pairs, from the first pixel on, in bytes
  int first_pair_, first_channel_, vectors_;
  int filter_;  // the warp's first
  bool with_bias_;

 public:
  __device__ __forceinline__ SmallSums(const SmallBlock<T>& block, bool with_bias) : with_bias_(with_bias) {
    const SmallWgradPlan& plan = block.plan;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    filter_ = block.first_filter + static_cast<int>(threadIdx.x) / 32 * kSmallVector;
    const int first = min(filter_, plan.channels - 1), last = min(filter_ + kSmallVector, plan.channels) - 1;
    first_channel_ = block.channel_of(first) / kSmallVector * kSmallVector;
    const int end = block.channel_of(max(first, last)) + plan.inputs;
    vectors_ = (end - first_channel_ + kSmallVector - 1) / kSmallVector;
    first_pair_ = block.column_tile * 2 * kTall;
#pragma unroll
    for (int i = 0; i < kTall; i++) {
      const ColumnVector pair = column(2 * i + lane / 8 % 2);
      const int line = pair.tap / plan.w.filter, s = pair.tap - line * plan.w.filter;
      const int t = line / plan.h.filter, r = line - t * plan.h.filter;
      const int pixel = (t * plan.x_rows + r * plan.h.dilation) * plan.x_line + s * plan.w.dilation;
      const bool there = pair.tap < plan.taps();
      const int vector = (pair.channel - block.first_channel) / kSmallVector;
      x_at_[i] = there ? (pixel * plan.x_pitch + vector) * kVectorBytes : 0;
    }
  }

  __device__ __forceinline__ ColumnVector column(int i) const {
    const int pair = first_pair_ + i, tap = pair / vectors_;
    return {tap, first_channel_ + (pair - tap * vectors_) * kSmallVector};
  }

  // x and dy: where they begin in shared memory, in bytes.
  __device__ __forceinline__ void add(int x_begin, int dy_begin, const int* first_pixel, int depths) {
    constexpr uint32_t kOnes = std::is_same_v<T, __half> ? 0x3c003c00 : 0x3f803f80;
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const unsigned char* const shared = dynamic_shared<unsigned char>();
    int dy_at = dy_begin + (lane % 16 * kSmallPitch + warp) * kVectorBytes;
    const int* pixel = first_pixel + lane / 16 * 8 + lane % 8;
#pragma unroll 1
    for (int k = 0; k < depths; k += 16) {
      uint32_t dy[2];
      ptx::ldmatrix<2, true>(dy, shared + dy_at);
      const int x_at = x_begin + *pixel;
#pragma unroll
      for (int i = 0; i < kTall; i++) {
        uint32_t x[4];
        ptx::ldmatrix<4, true>(x, shared + x_at + x_at_[i]);
        ptx::mma_m16n8k16<T>(sum_[i], x, dy, sum_[i]);
      }
      if (with_bias_) {
        const uint32_t ones[4] = {kOnes, 0, kOnes, 0};
        ptx::mma_m16n8k16<T>(bias_, ones, dy, bias_);
      }
      dy_at += 16 * kSmallPitch * kVectorBytes;
      pixel += 16;
    }
  }

  template <typename Write, typename WriteBias>
  __device__ __forceinline__ void write(const SmallBlock<T>& block, const Write& write,
                                        const WriteBias& write_bias) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, filter = filter_ + lane % 4 * 2;
    const auto column_of = [&](int i) {
      const ColumnVector vector = column(i);
      return ColumnVector{vector.tap, vector.channel + g};
    };
    write_results<2 * kTall, 2>(
        block.plan, block.params.by_outputs, column_of, [&](int j) { return filter + j; },
        [&](int i, int j) { return sum_[i / 2][i % 2 * 2 + j]; }, write);
    if (!with_bias_ || g > 0) return;
#pragma unroll
    for (int e = 0; e < 2; e++) {
      if (filter + e < block.plan.channels) write_bias(filter + e, bias_[e]);
    }
  }
};

template <typename T, int kTall, int kBlocks>
__global__ void __launch_bounds__(kSmallThreads, kBlocks)
    grouped_wgrad_nhwc_small_kernel(const __grid_constant__ SmallWgradParams<T> params) {
  const SmallBlock<T> block(params);
  const SmallWgradPlan& plan = params.plan;
  unsigned char* const shared = dynamic_shared<unsigned char>();
  const int stage_bytes = static_cast<int>(plan.stage_bytes()),
            x_bytes = plan.box_images * plan.x_image * plan.x_pitch * kVectorBytes;
  int* const first_pixel = reinterpret_cast<int*>(shared + kSmallStages * stage_bytes);
  find_pixels(first_pixel, params);
  const PartialSums<T>& to = params.sums;
  SmallSums<T, kTall> sums(block, block.column_tile == 0 && (to.dbias != nullptr || to.partial != nullptr));
  const int first = block.split * plan.split_boxes, boxes = min(plan.split_boxes, plan.boxes - first);
  const auto copy = [&](int i) {
    unsigned char* const stage = shared + i % kSmallStages * stage_bytes;
    const Box box = block.box(first + i);
    copy_x(reinterpret_cast<T*>(stage), block, box);
    copy_dy(reinterpret_cast<T*>(stage + x_bytes), block, box);
    ptx::cp_async_commit();
  };
  copy(0);
  for (int i = 0; i < boxes; i++) {
    ptx::cp_async_wait_all();
    __syncthreads();  // this stage is there for all, and the other one is read by all
    if (i + 1 < boxes) copy(i + 1);
    const int stage = i % kSmallStages * stage_bytes;
    sums.add(stage, stage + x_bytes, first_pixel, plan.depths);
  }
  write_sums(sums, block, block.split, to);
}

template <typename T>
SmallWgradParams<T> small_params(const SmallWgradPlan& plan, const Tensors& t, const PartialSums<T>& sums) {
  return {plan,
          static_cast<const T*>(t.x),
          static_cast<const T*>(t.y),
          sums,
          rows_at_boundaries<T>(t.x, plan.in_channels()),
          rows_at_boundaries<T>(t.y, plan.channels),
          IndexDivisor(plan.x_vectors),
          IndexDivisor(plan.x_columns),
          IndexDivisor(plan.x_rows),
          IndexDivisor(plan.d.filter),
          IndexDivisor(plan.columns),
          IndexDivisor(plan.rows),
          IndexDivisor(plan.outputs)};
}

template <typename T, int kTall, int kBlocks>
LaunchPlan plan_small_tile(const KernelRow& row, const ConvProblem& p, const Device& device, SmallWgradPlan plan) {
  split_small_wgrad(p, device, kTall, kBlocks, plan);
  if (std::string reason = blocks_beyond(plan.blocks()); !reason.empty()) return refuse(std::move(reason));
  const LaunchShape shape{
      .grid_x = plan.blocks(), .block_x = kSmallThreads, .shared_bytes = static_cast<size_t>(plan.shared_bytes())};
  return plan_with_sums<T>(
      row, grouped_wgrad_nhwc_small_kernel<T, kTall, kBlocks>, shape, plan,
      [plan](const Tensors& t, const PartialSums<T>& sums) { return small_params(plan, t, sums); });
}

template <typename T>
LaunchPlan plan_small(const KernelRow& row, const ConvProblem& p, const Device& device) {
  SmallWgradPlan plan;
  if (std::string reason = plan_small_wgrad(p, plan); !reason.empty()) return refuse(std::move(reason));
  const int pairs = plan.taps() * plan.warp_vectors;
  if (pairs <= 10) return plan_small_tile<T, 5, 4>(row, p, device, plan);
  if (pairs <= 18) return plan_small_tile<T, 9, 4>(row, p, device, plan);
  if (pairs <= 28) return plan_small_tile<T, 14, 3>(row, p, device, plan);
  return plan_small_tile<T, 25, 3>(row, p, device, plan);
}

}  // namespace

KernelRows wgrad_small_rows() {
  return rows_of_types<__half, __nv_bfloat16>([&]<typename T> {
    const KernelRow nhwc{.name = "grouped_wgrad_nhwc_small",
                         .family = Family::kGrouped,
                         .pass = Pass::kWgrad,
                         .dtype = kDTypeOf<T>,
                         .layout = Layout::kChannelsLast,
                         .min_arch = 80,
                         .tensor_cores = true,
                         .tile = "32 channels of dy, 8 of each of 4 warps; boxes of at most 128 positions",
                         .plan = plan_small<T>};
    return KernelRows{nhwc, via_nhwc<T, plan_small<T>>(nhwc, "grouped_wgrad_nchw_small")};
  });
}

}  // namespace convbound::grouped
