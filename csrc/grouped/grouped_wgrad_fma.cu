// grouped_wgrad_nhwc_gemm in fp32: grouped_wgrad_mma.cu has the idea. A thread has 8 columns times 8 filters, each as
// two vectors of 4 that lie apart, so that a warp's loads are whole lines of banks.
//
// For each position a thread loads 4 times 16 bytes for 64 FFMA: 1024 FFMA and about 350 others for the 16
// positions of a stage. So it is bound by FMA issue, if shared memory keeps up (its counts are twice the least).
#include "csrc/common/via_nhwc.h"
#include "csrc/grouped/grouped_wgrad_gemm.h"

namespace convbound::grouped {

namespace {

constexpr int kVector = 4;           // elements of 16 bytes
constexpr int kVectorsOfThread = 2;  // of columns, and of filters
constexpr int kOfThread = kVector * kVectorsOfThread;

// A block's threads: each has 8 columns times 8 filters.
template <int kDown_, int kAcross_, int kBlocks_, int kCost100>
struct WgradFma {
  static constexpr int kDown = kDown_, kAcross = kAcross_, kThreads = kDown * kAcross, kBlocks = kBlocks_;
  static constexpr double kCost = kCost100 / 100.0;
  using Stages = WgradStages<float, kDown * kOfThread, kAcross * kOfThread, 16, 3, kThreads>;
  class Sums;
};

template <int kDown_, int kAcross_, int kBlocks_, int kCost100>
class WgradFma<kDown_, kAcross_, kBlocks_, kCost100>::Sums {
  float sum_[kOfThread][kOfThread] = {};
  float bias_[kOfThread] = {};
  int down_, across_;
  bool with_bias_;

 public:
  __device__ __forceinline__ explicit Sums(bool with_bias)
      : down_(static_cast<int>(threadIdx.x) % kDown),
        across_(static_cast<int>(threadIdx.x) / kDown),
        with_bias_(with_bias) {}

  __device__ __forceinline__ void add(const unsigned char* stage) {
    const float* const xs = reinterpret_cast<const float*>(stage) + down_ * kVector;
    const float* const ys = reinterpret_cast<const float*>(stage + Stages::kXBytes) + across_ * kVector;
#pragma unroll
    for (int k = 0; k < Stages::kDepth; k++) {
      float x[kOfThread], dy[kOfThread];
#pragma unroll
      for (int v = 0; v < kVectorsOfThread; v++) {
        const Vector<float> a = load_vector(xs + k * Stages::kColumns + v * kDown * kVector);
        const Vector<float> b = load_vector(ys + k * Stages::kFilters + v * kAcross * kVector);
#pragma unroll
        for (int e = 0; e < kVector; e++) x[v * kVector + e] = a.element[e], dy[v * kVector + e] = b.element[e];
      }
#pragma unroll
      for (int i = 0; i < kOfThread; i++) {
#pragma unroll
        for (int j = 0; j < kOfThread; j++) sum_[i][j] = fmaf(x[i], dy[j], sum_[i][j]);
      }
      if (!with_bias_) continue;
#pragma unroll
      for (int j = 0; j < kOfThread; j++) bias_[j] += dy[j];
    }
  }

  template <typename Write, typename WriteBias>
  __device__ __forceinline__ void write(const WgradBlock<float, Stages>& block, const Write& write,
                                        const WriteBias& write_bias) const {
    const auto column = [&](int i) {
      const ColumnVector vector = block.column(i / kVector * kDown + down_);
      return ColumnVector{vector.tap, vector.channel + i % kVector};
    };
    const auto filter = [&](int j) {
      return block.first_filter + (j / kVector * kAcross + across_) * kVector + j % kVector;
    };
    write_results<kOfThread, kOfThread>(
        block.params.plan, block.params.by_outputs, column, filter, [&](int i, int j) { return sum_[i][j]; }, write);
    if (!with_bias_ || down_ > 0) return;
#pragma unroll
    for (int j = 0; j < kOfThread; j++) {
      if (filter(j) < block.params.plan.channels) write_bias(filter(j), bias_[j]);
    }
  }
};

LaunchPlan plan_fma(const KernelRow& row, const ConvProblem& p, const Device& device) {
  return plan_cheapest<float, WgradFma<16, 16, 2, 100>, WgradFma<16, 4, 8, 120>>(row, p, device);
}

}  // namespace

KernelRows wgrad_fma_rows() {
  const KernelRow nhwc{.name = "grouped_wgrad_nhwc_gemm",
                       .family = Family::kGrouped,
                       .pass = Pass::kWgrad,
                       .dtype = DType::kFloat32,
                       .layout = Layout::kChannelsLast,
                       .tile = "128 x 128 or 128 x 32 results, 8 x 8 of a thread, 16 positions a stage",
                       .plan = plan_fma};
  return {nhwc, via_nhwc<float, plan_fma>(nhwc, "grouped_wgrad_nchw_gemm")};
}

}  // namespace convbound::grouped
