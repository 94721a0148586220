// Depthwise convolution, forward, fp32:
//
//   y[n,k,p,q] = bias[k] + sum over r,s of x[n, k / multiplier, p * stride + r * dilation - padding, ...] * w[k,r,s]
//
// as one chain of fused multiply-adds per output. Stride-1 dgrad is the same with the filter flipped.
//
// Bounds. Compulsory traffic is 4 (N C H W + N K P Q) bytes and the filter; the floor of arithmetic is N K P Q R S
// fused multiply-adds. At 3 x 3 that is 2.25 flop per byte, so it is bound by memory on anything; two AVX-512 cores at
// 110 Gflop/s each with 25 to 50 GB/s between them turn to arithmetic at about 5 x 5.
//
// Register blocks. A block is 7 outputs along the window axis times a vector across it. NCHW: 7 rows, vectors along W;
// NHWC: 7 pixels along W, vectors along C. Taps are held in registers in chunks of up to 7, and every operand is loaded
// once per chunk and serves all the outputs that meet it: (7 + J - 1) operands and J taps for 7 J multiply-adds, 4/7 of
// a load each at J = 3 and 20/49 at J = 7, where the load ports allow one. 7 sums, 7 taps and an operand are 15
// registers, which is what AVX2 has; 7 sums also cover the latency of a multiply-add (4 cycles, 2 a cycle, over two
// steps), and 7 divides 7, 14, 28, 56 and 112. AVX-512 sets two vectors side by side in NCHW. Strides and dilations
// along the window axis cost nothing: outputs that are dilation / gcd apart and taps that are stride / gcd apart form
// the same dense pattern (see WindowAxis).
//
// Edges. Along the window axis, coordinates outside the input are skipped (blocks near an edge test each coordinate),
// so padding is not multiplied there: at 7 x 7 on a 7 x 7 image that is half the work. Across it, NCHW masks the vector
// loads, so x is read in place, nothing is padded or copied, and no byte outside x is touched. NHWC has no edge there
// but the last channels, which are masked too. With a stride of 2 along W, NCHW loads two vectors and keeps the even
// lanes; with larger ones it gathers, which is slow.
//
// What is read and written. Every row of x comes from memory once: NCHW meets it again in R - 1 rows of the next block
// (1.3 times from the cache at 3 x 3), NHWC R times, with R rows of W C floats wanted in the second-level cache. Blocks
// hop between rows, which hardware prefetchers lose track of (2 to 4 times slower from memory), so the loops prefetch x
// in the order of its addresses. NHWC copies the filter to one [R S][vector] panel per vector of channels.
//
// Streaming. Above a third of the last-level cache, outputs would evict the inputs, and each line would be fetched
// before it is overwritten. There, blocks go to a small stage, and leave it in order by non-temporal stores.
#include "depthwise_fprop.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "depthwise_fprop_plan.h"
#include "depthwise_window.h"
#include "parallel.h"
#include "scratch.h"

namespace convbound::cpu {

#if defined(__x86_64__)

namespace {

constexpr int64_t kBlock = 7;             // rows (NHWC: pixels) per register block
constexpr int64_t kLongestRow = 4096;     // 1-D: longer rows are several work items
constexpr int64_t kLargestStage = 16384;  // floats: 64 KiB per thread, inside any second-level cache
constexpr int64_t kStreamShare = 3;       // of the last-level cache: x and y together may take one part of so many

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t vector_width(Isa isa) { return isa == Isa::kAvx512 ? 16 : 8; }

// Halves a range until there are enough items for the threads; parts are whole register blocks.
int64_t divide(int64_t range, int64_t items, int64_t threads) {
  int64_t part = range;
  while (part > kBlock && items * ceil_div(range, part) < 4 * threads) part = ceil_div(part, 2);
  return part < range ? std::min(range, ceil_div(part, kBlock) * kBlock) : range;
}

void plan_tiles(DepthwisePlan& plan, bool nchw, int64_t threads) {
  const int64_t p_count = nchw ? plan.window.out : plan.cross.out;
  const int64_t q_count = nchw ? plan.cross.out : plan.window.out;
  const int64_t planes = nchw ? plan.n * plan.k : plan.n;
  plan.tile_p = nchw ? divide(p_count, planes, threads) : 1;
  plan.tile_q = nchw ? q_count : divide(q_count, planes * p_count, threads);
  if (nchw && p_count == 1) plan.tile_q = std::min(q_count, kLongestRow);
  plan.row_tiles = ceil_div(p_count, plan.tile_p);
  plan.column_tiles = ceil_div(q_count, plan.tile_q);
  plan.items = planes * plan.row_tiles * plan.column_tiles;
}

int64_t last_level_cache() {
  constexpr int64_t kUsual = int64_t{32} << 20;
#if defined(_SC_LEVEL3_CACHE_SIZE)
  static const int64_t bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
  if (bytes > 0) return bytes;
#endif
  return kUsual;
}

// A stage for streaming stores, where outputs are large enough to be worth it. Dilated blocks write out of order, so
// their stage holds a whole tile.
void plan_stage(DepthwisePlan& plan, bool nchw, int64_t y_floats) {
  const int64_t row = nchw ? plan.tile_q : plan.k;  // outputs of one step along the window axis
  const int64_t rows = plan.window.out_step == 1 ? kBlock : nchw ? plan.tile_p : plan.tile_q;
  const int64_t floats = ceil_div(rows * row + 2 * plan.vector, 16) * 16;
  const int64_t bytes = (plan.x_floats + y_floats) * static_cast<int64_t>(sizeof(float));
  plan.stage_floats = bytes > last_level_cache() / kStreamShare && floats <= kLargestStage ? floats : 0;
}

DepthwisePlan make_plan(const ConvProblem& problem, const WindowAxis& window, Layout layout, Isa isa, int64_t threads) {
  const bool nchw = layout == Layout::kChannelsFirst;
  DepthwisePlan plan{};
  plan.n = problem.n;
  plan.c = problem.c;
  plan.k = problem.k;
  plan.multiplier = problem.k / problem.c;
  plan.x_floats = problem.n * problem.c * problem.input_size();
  plan.vector = vector_width(isa);
  plan.window = window;
  plan.cross = make_cross(problem, nchw ? 2 : 1);
  plan.panels = ceil_div(plan.k, plan.vector);
  plan_tiles(plan, nchw, threads);
  plan_stage(plan, nchw, problem.n * problem.k * problem.output_size());
  return plan;
}

// [panel]: R * S rows of taps, one of biases (zero beyond K), one of the channels that the outputs read.
int64_t panel_rows(const ConvProblem& problem) { return problem.filter_size() + 2; }

void pack_panels(const DepthwisePlan& plan, const ConvProblem& problem, const float* w, const float* bias, bool flip,
                 float* packed) {
  const int64_t taps = problem.filter_size();
  const int64_t panel_floats = panel_rows(problem) * plan.vector;
  parallel_for(plan.panels, std::max<int64_t>(1, 16384 / panel_floats), [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      float* out = packed + panel * panel_floats;
      const int64_t k0 = panel * plan.vector;
      const int64_t lanes = std::min(plan.vector, plan.k - k0);
      if (lanes < plan.vector) std::memset(out, 0, static_cast<size_t>(panel_floats) * sizeof(float));
      for (int64_t tap = 0; tap < taps; ++tap, out += plan.vector) {
        const float* from = w + k0 * taps + (flip ? taps - 1 - tap : tap);
        for (int64_t i = 0; i < lanes; ++i) out[i] = from[i * taps];
      }
      for (int64_t i = 0; i < lanes; ++i) out[i] = bias == nullptr ? 0.0f : bias[k0 + i];
      out += plan.vector;
      for (int64_t i = 0; i < lanes; ++i) {
        const int32_t source = static_cast<int32_t>((k0 + i) / plan.multiplier - k0 / plan.multiplier);
        std::memcpy(out + i, &source, sizeof(source));
      }
    }
  });
}

}  // namespace

bool depthwise_fprop_supports(const ConvProblem& problem, DType dtype, Layout, Isa isa) {
  if (isa == Isa::kGeneric || dtype != DType::kFloat32) return false;
  if (problem.input[0] != 1 || problem.filter[0] != 1 || problem.output[0] != 1 || problem.padding[0] != 0)
    return false;
  return depthwise_axes_support(problem);
}

void depthwise_fprop(const ConvProblem& problem, Layout layout, const float* x, const float* w, const float* bias,
                     float* y, bool flip_filter) {
  const Isa use = isa();
  if (!depthwise_fprop_supports(problem, DType::kFloat32, layout, use)) {
    throw std::invalid_argument("depthwise_fprop: not a problem that depthwise_fprop_supports accepts");
  }
  const bool nchw = layout == Layout::kChannelsFirst;
  const int64_t threads = max_threads();
  const Window window(problem, nchw ? 1 : 2);
  DepthwisePlan plan = make_plan(problem, window.axis, layout, use, threads);
  plan.x = x;
  plan.y = y;
  Scratch packed;
  if (nchw) {
    const int64_t taps = problem.filter_size();
    plan.w = w;
    plan.bias = bias;
    plan.w_origin = flip_filter ? taps - 1 : 0;
    plan.w_tap = flip_filter ? -plan.cross.taps : plan.cross.taps;
    plan.w_cross = flip_filter ? -1 : 1;
  } else {
    packed = allocate_scratch(plan.panels * panel_rows(problem) * plan.vector);
    pack_panels(plan, problem, w, bias, flip_filter, packed.get());
    plan.w = packed.get();
  }
  // More threads than this would each do less than the time it takes to wake one.
  const int64_t work = problem.n * problem.k * problem.output_size() * (problem.filter_size() + 8);
  const int64_t slots = std::clamp<int64_t>(work / 65536, 1, std::min(threads, plan.items));
  const Scratch stage = allocate_scratch(plan.stage_floats * slots);
  const DepthwiseKernels& kernels = use == Isa::kAvx512 ? kDepthwiseFpropAvx512 : kDepthwiseFpropAvx2;
  const DepthwiseRange range = nchw ? kernels.nchw : kernels.nhwc;
  const auto item = [&](int64_t slot) { return plan.items / slots * slot + std::min(slot, plan.items % slots); };
  parallel_for(slots, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) range(plan, item(i), item(i + 1), stage.get() + i * plan.stage_floats);
  });
}

#else

bool depthwise_fprop_supports(const ConvProblem&, DType, Layout, Isa) { return false; }

void depthwise_fprop(const ConvProblem&, Layout, const float*, const float*, const float*, float*, bool) {
  throw std::invalid_argument("depthwise_fprop: there is no kernel for this processor");
}

#endif

}  // namespace convbound::cpu
