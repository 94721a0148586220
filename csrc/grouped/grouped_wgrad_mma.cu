// grouped_wgrad_nhwc_gemm: the filter gradient of any grouped or dense convolution, in one to three dimensions, as one
// matrix product on tensor cores, with the bias gradient in the same loop. In 16 bits; grouped_wgrad_fma.cu is the same
// in fp32.
//
//   dw[k, (tap, c)] = sum over positions of dy[position, k] * x[position * stride + tap * dilation - padding, c]
//
// Rows of the product are columns (tap, c) of x, its columns are filters k, its depth are the positions of dy (image,
// depth, row, column). dy is a matrix as it lies in memory. The matrix of x is never written down: a stage of shared
// memory holds 32 of its rows, of the tile's columns alone ("implicit"). Both operands have a position in each row, so
// both are transposed while they are read, by ldmatrix.trans.
//
// A tile of filters is 32 to 128 neighbouring channels of dy, of one group or of several. Its columns are the taps
// times the channels of x that these groups have, in vectors of 8 that begin at multiples of 8. Products of channels
// that do not meet are computed and not written; grouped_wgrad_small.cu is better where they would be most. So groups
// need not end at tiles or vectors. Channels that are no multiple of 8 are copied element by element.
//
// A warp finds where the 32 positions of a stage lie in x, and for each tap of the tile whether it meets x or its
// padding, one bit each. The copies of x then test one bit. Nothing is divided by the stride.
//
// The bias gradient is one more product: a row of ones times dy. Blocks of the first columns have it.
//
//   floor       2 * N * O * P * Q * C/g * K * taps FLOP; x and dy are read once per tile of filters and of columns:
//               64 FLOP per byte from L2 with 128 x 128 results, 51 with 256 x 64
//   shared      a 64 x 64 product of a warp reads 32 wavefronts for 32 mma; its copies write 16: 1.5 for each mma
//   loop        201 instructions of a warp for 32 positions, 64 of them HMMA (sm_90, 128 x 128 tile); one warp in four
//               also finds positions: about 40 more, and 30 for each tap
//   in flight   2 blocks an SM with 2 stages of 16 KB each on their way: 64 KB
//   registers   at most 220, so 2 blocks of 128 threads
//
// It is bound by tensor cores where C/g and K/g are large, and by L2 where they are below 64. Positions are shared out
// so that blocks fill whole waves (grouped_wgrad_plan.h); sums are added in fixed order (partial_sums.h).
//
// Padding is multiplied as zeros: a dy that is infinite or NaN makes the gradient of every tap NaN, also of taps that
// meet only padding there.
#include "csrc/common/via_nhwc.h"
#include "csrc/grouped/grouped_wgrad_gemm.h"

namespace convbound::grouped {

namespace {

constexpr int kVector = 8;  // elements of 16 bytes
constexpr int kDepthOfMma = 16;

template <typename T, typename Mma>
class WarpSums;

// A block's warps, and the products of a warp: kTall times 16 columns (tap, channel), kWide times 8 filters.
template <typename T, int kWarpsDown_, int kWarpsAcross_, int kTall_, int kWide_, int kBlocks_>
struct WgradMma {
  static constexpr int kWarpsDown = kWarpsDown_, kWarpsAcross = kWarpsAcross_, kTall = kTall_, kWide = kWide_;
  static constexpr int kThreads = 32 * kWarpsDown * kWarpsAcross, kBlocks = kBlocks_;
  // Of a product: shared memory is read for 1.5 mma and more where a warp has fewer products.
  static constexpr double kCost = kTall * kWide < 32 ? 1.6 : kWarpsDown > 2 ? 1.1 : 1.0;
  using Stages = WgradStages<T, kWarpsDown * kTall * 16, kWarpsAcross * kWide * 8, 32, 3, kThreads>;
  using Sums = WarpSums<T, WgradMma>;
  static_assert(kWide <= 8 && kWide % kWarpsDown == 0, "one product adds up the bias of 8 filters, shared by warps");
};

// The sums of a warp, and the vectors that its lanes point ldmatrix to.
template <typename T, typename Mma>
class WarpSums {
  using Stages = typename Mma::Stages;
  static constexpr int kTall = Mma::kTall, kWide = Mma::kWide, kPairs = kWide / 2;
  static constexpr int kBiasVectors = kWide / Mma::kWarpsDown;  // of dy: warps that read the same ones share them

  float sum_[kTall][kWide][4] = {};
  float bias_[4] = {};  // row j: of the j-th of these vectors
  int x_at_[kTall];     // in a stage, as elements
  int dy_at_[kPairs];
  int lane_, down_, across_;  // the warp's place in the block
  bool with_bias_;

 public:
  __device__ __forceinline__ explicit WarpSums(bool with_bias) : with_bias_(with_bias) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    lane_ = static_cast<int>(threadIdx.x) % 32, down_ = warp / Mma::kWarpsAcross, across_ = warp % Mma::kWarpsAcross;
    const int row = lane_ % 8, odd = lane_ / 8 % 2, upper = lane_ / 16;
#pragma unroll
    for (int i = 0; i < kTall; i++) {
      const int vector = (down_ * kTall + i) * 2 + odd;
      x_at_[i] = Stages::template place<Stages::kColumnVectors>(upper * 8 + row, vector) * kVector;
    }
#pragma unroll
    for (int j = 0; j < kPairs; j++) {
      const int vector = across_ * kWide + 2 * j + upper;
      dy_at_[j] = Stages::template place<Stages::kFilterVectors>(odd * 8 + row, vector) * kVector;
    }
  }

  __device__ __forceinline__ void add(const unsigned char* stage) {
    const T* const xs = reinterpret_cast<const T*>(stage);
    const T* const ys = reinterpret_cast<const T*>(stage + Stages::kXBytes);
#pragma unroll
    for (int k = 0; k < Stages::kDepth; k += kDepthOfMma) {
      uint32_t x[kTall][4], dy[kPairs][4];
#pragma unroll
      for (int j = 0; j < kPairs; j++) ptx::ldmatrix<4, true>(dy[j], ys + dy_at_[j] + k * Stages::kFilters);
#pragma unroll
      for (int i = 0; i < kTall; i++) ptx::ldmatrix<4, true>(x[i], xs + x_at_[i] + k * Stages::kColumns);
#pragma unroll
      for (int j = 0; j < kWide; j++) {
        const uint32_t b[2] = {dy[j / 2][j % 2 * 2], dy[j / 2][j % 2 * 2 + 1]};
#pragma unroll
        for (int i = 0; i < kTall; i++) ptx::mma_m16n8k16<T>(sum_[i][j], x[i], b, sum_[i][j]);
      }
      if (with_bias_) add_bias(ys + k * Stages::kFilters);
    }
  }

  template <typename Write, typename WriteBias>
  __device__ __forceinline__ void write(const WgradBlock<T, Stages>& block, const Write& write,
                                        const WriteBias& write_bias) const {
    const int g = lane_ / 4, t = lane_ % 4, first = block.first_filter + across_ * kWide * 8 + 2 * t;
    const auto column = [&](int i) {
      const ColumnVector vector = block.column(down_ * kTall * 2 + i);
      return ColumnVector{vector.tap, vector.channel + g};
    };
    write_results<2 * kTall, 2 * kWide>(
        block.params.plan, block.params.by_outputs, column, [&](int j) { return first + j / 2 * 8 + j % 2; },
        [&](int i, int j) { return sum_[i / 2][j / 2][i % 2 * 2 + j % 2]; }, write);
    if (!with_bias_ || g >= kBiasVectors) return;
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int filter = first + (down_ * kBiasVectors + g) * 8 + e;
      if (filter < block.params.plan.channels) write_bias(filter, bias_[e]);
    }
  }

 private:
  // Row j of a matrix of ones, the others zero, times the j-th of the warp's vectors of dy.
  __device__ __forceinline__ void add_bias(const T* ys) {
    constexpr uint32_t kOnes = std::is_same_v<T, __half> ? 0x3c003c00 : 0x3f803f80;
#pragma unroll
    for (int j = 0; j < kBiasVectors; j++) {
      const int vector = across_ * kWide + down_ * kBiasVectors + j;
      uint32_t dy[2];
      ptx::ldmatrix<2, true>(dy, ys + Stages::template place<Stages::kFilterVectors>(lane_ % 16, vector) * kVector);
      const uint32_t row = lane_ / 4 == j ? kOnes : 0, ones[4] = {row, 0, row, 0};
      ptx::mma_m16n8k16<T>(bias_, ones, dy, bias_);
    }
  }
};

template <typename T>
LaunchPlan plan_mma(const KernelRow& row, const ConvProblem& p, const Device& device) {
  return plan_cheapest<T, WgradMma<T, 2, 2, 4, 8, 2>, WgradMma<T, 4, 1, 4, 8, 2>, WgradMma<T, 4, 1, 2, 4, 4>>(row, p,
                                                                                                              device);
}

}  // namespace

KernelRows wgrad_mma_rows() {
  return rows_of_types<__half, __nv_bfloat16>([&]<typename T> {
    const KernelRow nhwc{.name = "grouped_wgrad_nhwc_gemm",
                         .family = Family::kGrouped,
                         .pass = Pass::kWgrad,
                         .dtype = kDTypeOf<T>,
                         .layout = Layout::kChannelsLast,
                         .min_arch = 80,
                         .tensor_cores = true,
                         .tile = "128 x 128, 256 x 64 or 128 x 32 results of 4 warps, 32 positions a stage",
                         .plan = plan_mma<T>};
    return KernelRows{nhwc, via_nhwc<T, plan_mma<T>>(nhwc, "grouped_wgrad_nchw_gemm")};
  });
}

}  // namespace convbound::grouped
