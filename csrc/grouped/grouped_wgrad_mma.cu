// implicit_gemm_wgrad_nhwc
#include "csrc/grouped/grouped_wgrad_copy.h"

namespace convbound::grouped {

namespace {

constexpr int kVector = 8;  // elements of 16 bytes
constexpr int kDepthOfMma = 16;

// A block's warps, and the products of a warp: kTall times 16 columns (tap, channel), kWide times 8 filters.
template <typename T, int kWarpsDown_, int kWarpsAcross_, int kTall_, int kWide_, int kBlocks_>
struct WgradMma {
  static constexpr int kWarpsDown = kWarpsDown_, kWarpsAcross = kWarpsAcross_, kTall = kTall_, kWide = kWide_;
  static constexpr int kThreads = 32 * kWarpsDown * kWarpsAcross, kBlocks = kBlocks_;
  using Stages = WgradStages<T, kWarpsDown * kTall * 16, kWarpsAcross * kWide * 8, 32, 3, kThreads>;
  static_assert(kWide <= 8 && kWide % kWarpsDown == 0, "one product adds up the bias of 8 filters, shared by warps");
};

// The sums of a warp, and the vectors that its lanes point ldmatrix to.
template <typename T, typename Mma>
class WarpSums {
  using Stages = typename Mma::Stages;
  static constexpr int kTall = Mma::kTall, kWide = Mma::kWide;

  float sum_[kTall][kWide][4] = {};
  float bias_[4] = {};          // row j: of dy's vector j
  int x_at_[kTall];             // in a stage, as elements
  int dy_at_[kWide / 2];
  int lane_, down_, across_;    // the warp's place in the block
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
    for (int j = 0; j < kWide / 2; j++) {
      const int vector = across_ * kWide + 2 * j + upper;
      dy_at_[j] = Stages::template place<Stages::kFilterVectors>(odd * 8 + row, vector) * kVector;
    }
  }

  __device__ __forceinline__ void add(const unsigned char* stage) {
    const T* const xs = reinterpret_cast<const T*>(stage);
    const T* const ys = reinterpret_cast<const T*>(stage + Stages::kXBytes);
#pragma unroll
    for (int k = 0; k < Stages::kDepth; k += kDepthOfMma) {
      uint32_t x[kTall][4], dy[kWide / 2][4];
#pragma unroll
      for (int j = 0; j < kWide / 2; j++) ptx::ldmatrix<4, true>(dy[j], ys + dy_at_[j] + k * Stages::kFilters);
#pragma unroll
      for (int i = 0; i < kTall; i++) ptx::ldmatrix<4, true>(x[i], xs + x_at_[i] + k * Stages::kColumns);
#pragma unroll
      for (int j = 0; j < kWide; j++) {
        const uint32_t b[2] = {dy[j / 2][j % 2 * 2], dy[j / 2][j % 2 * 2 + 1]};
#pragma unroll
        for (int i = 0; i < kTall; i++) ptx::mma_m16n8k16<T>(sum_[i][j], x[i], b, sum_[i][j]);
      }
      if (with_bias_) add_bias(dy);
    }
  }

  // Calls write(index in the filter, sum), write_bias(filter, sum).
  template <typename Write, typename WriteBias>
  __device__ __forceinline__ void write(const WgradBlock<T, Stages>& block, const Write& write,
                                        const WriteBias& write_bias) const {
    const WgradGemmPlan& plan = block.params.plan;
    const int g = lane_ / 4, t = lane_ % 4, taps = plan.taps();
    const int first_filter = block.first_filter + across_ * kWide * 8 + 2 * t;
    int channel[2 * kTall], tap[2 * kTall];
#pragma unroll
    for (int i = 0; i < 2 * kTall; i++) {
      const ColumnVector column = block.column(down_ * kTall * 2 + i);
      channel[i] = column.tap < taps ? column.channel + g : -1;
      tap[i] = column.tap;
    }
#pragma unroll
    for (int j = 0; j < 2 * kWide; j++) {
      const int filter = first_filter + j / 2 * 8 + j % 2;
      const int first_channel = divide(filter, block.params.by_outputs).quotient * plan.inputs;
      const int64_t row = static_cast<int64_t>(filter) * taps * plan.inputs - first_channel;
      if (filter >= plan.channels) continue;
#pragma unroll
      for (int i = 0; i < 2 * kTall; i++) {
        if (!within(channel[i] - first_channel, plan.inputs) || channel[i] < 0) continue;
        write(row + tap[i] * plan.inputs + channel[i], sum_[i / 2][j / 2][i % 2 * 2 + j % 2]);
      }
    }
    const int bias_filter = first_filter - 2 * t + g * 8 + 2 * t;
    if (!with_bias_ || g * Mma::kWarpsDown / kWide != down_) return;
#pragma unroll
    for (int e = 0; e < 2; e++) {
      if (bias_filter + e < plan.channels) write_bias(bias_filter + e, bias_[e]);
    }
  }

 private:
  // Row j of a matrix of ones, the others zero, times dy's vector j. The warps that have the same dy share its vectors.
  __device__ __forceinline__ void add_bias(const uint32_t (&dy)[kWide / 2][4]) {
    const uint32_t ones = std::is_same_v<T, __half> ? 0x3c003c00 : 0x3f803f80;
#pragma unroll
    for (int j = 0; j < kWide; j++) {
      if (j * Mma::kWarpsDown / kWide != down_) continue;
      const uint32_t b[2] = {dy[j / 2][j % 2 * 2], dy[j / 2][j % 2 * 2 + 1]};
      const uint32_t row = lane_ / 4 == j ? ones : 0, a[4] = {row, 0, row, 0};
      ptx::mma_m16n8k16<T>(bias_, a, b, bias_);
    }
  }
};

template <typename T, typename Mma>
__global__ void __launch_bounds__(Mma::kThreads, Mma::kBlocks)
    implicit_gemm_wgrad_nhwc_kernel(const __grid_constant__ WgradGemmParams<T> params) {
  using Stages = typename Mma::Stages;
  const WgradBlock<T, Stages> block(params);
  if (block.empty()) return;  // the whole block does
  const PartialSums<T>& sums = params.sums;
  WarpSums<T, Mma> warp(block.first_tile && (sums.dbias != nullptr || sums.partial != nullptr));
  for_each_stage(StageCopies<T, Stages>(block), [&](const unsigned char* stage) { warp.add(stage); });
  if (sums.partial != nullptr) {
    float* const partial = sums.partial + block.split * sums.outputs;
    float* const bias = partial + sums.outputs - sums.channels;
    warp.write(block, [&](int64_t at, float sum) { partial[at] = sum; }, [&](int at, float sum) { bias[at] = sum; });
  } else {
    warp.write(block, [&](int64_t at, float sum) { sums.dw[at] = narrow<T>(sum); },
               [&](int at, float sum) { sums.dbias[at] = narrow<T>(sum); });
  }
}

template <typename T, typename Mma>
LaunchPlan plan_tile(const KernelRow& row, const ConvProblem& p, const WgradTile& tile) {
  using Stages = typename Mma::Stages;
  WgradGemmPlan plan;
  if (std::string reason = plan_wgrad_gemm(p, tile, kVector, plan); !reason.empty()) return refuse(std::move(reason));
  const LaunchShape shape{
      .grid_x = plan.blocks(), .block_x = Mma::kThreads, .shared_bytes = static_cast<size_t>(Stages::kSharedBytes)};
  return plan_with_sums<T>(row, implicit_gemm_wgrad_nhwc_kernel<T, Mma>, shape, plan,
                           [plan](const Tensors& t, const PartialSums<T>& sums) { return wgrad_params(plan, t, sums); });
}

template <typename Mma>
constexpr WgradTile tile_of(double cost) {
  using Stages = typename Mma::Stages;
  return {Stages::kColumns, Stages::kFilters, Stages::kDepth, Mma::kBlocks, cost};
}

template <typename T>
LaunchPlan plan_implicit_gemm(const KernelRow& row, const ConvProblem& p, const Device&) {
  using Square = WgradMma<T, 2, 2, 4, 8, 2>;
  using Tall = WgradMma<T, 4, 1, 4, 8, 2>;
  using Narrow = WgradMma<T, 4, 1, 2, 4, 4>;
  constexpr WgradTile kTiles[] = {tile_of<Square>(1.0), tile_of<Tall>(1.1), tile_of<Narrow>(1.6)};
  constexpr LaunchPlan (*kPlans[])(const KernelRow&, const ConvProblem&, const WgradTile&) = {
      plan_tile<T, Square>, plan_tile<T, Tall>, plan_tile<T, Narrow>};
  if (std::string beyond = wgrad_size_beyond(p); !beyond.empty()) return refuse(std::move(beyond));
  const int best = cheapest(view_of(p), kTiles, kVector);
  return kPlans[best](row, p, kTiles[best]);
}

}  // namespace

KernelRows wgrad_mma_rows() {
  return rows_of_types<__half, __nv_bfloat16>([&]<typename T> {
    return KernelRows{{.name = "implicit_gemm_wgrad_nhwc",
                       .family = Family::kGrouped,
                       .pass = Pass::kWgrad,
                       .dtype = kDTypeOf<T>,
                       .layout = Layout::kChannelsLast,
                       .min_arch = 80,
                       .tensor_cores = true,
                       .tile = "128 x 128, 256 x 64 or 128 x 32 results of 4 warps, 32 positions a stage",
                       .plan = plan_implicit_gemm<T>}};
  });
}

}  // namespace convbound::grouped
