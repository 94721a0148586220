#include "depthwise_fprop.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "depthwise_fprop_plan.h"
#include "parallel.h"

namespace convbound::cpu {
namespace {

constexpr int64_t kRows = 7;             // rows (pixels in NHWC) per register block
constexpr int64_t kLongestRow = 4096;    // 1-D: longer rows are several work items
constexpr int64_t kLargestStage = 16384;  // floats: 64 KiB per thread, inside any second-level cache
constexpr int64_t kLargestSize = int64_t{1} << 29;  // the kernels compare columns in 32 bits

struct Free {
  void operator()(float* p) const { ::operator delete(p, std::align_val_t{64}); }
};
using Scratch = std::unique_ptr<float, Free>;

Scratch allocate(int64_t floats) {
  return Scratch(static_cast<float*>(::operator new(static_cast<size_t>(floats) * sizeof(float), std::align_val_t{64})));
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

int64_t vector_width(Isa isa) { return isa == Isa::kAvx512 ? 16 : 8; }

// The taps of one axis, cut into passes that the kernels unroll.
std::vector<TapPass> cut_taps(int64_t taps, int64_t dilation, int64_t tap_step, int64_t step) {
  const auto chunk = [&](int64_t residue, int64_t done, int64_t size) {
    return TapChunk{size, residue + done * tap_step, residue * dilation + done * step};
  };
  const auto pattern = [](int64_t first, int64_t second) {
    const auto same = [&](const TapPattern& p) { return p.first == first && p.second == second; };
    return static_cast<int>(std::find_if(kTapPatterns, kTapPatterns + kTapPatternCount, same) - kTapPatterns);
  };
  if (tap_step == 2) {
    const int64_t even = ceil_div(taps, 2);
    const int both = pattern(even, taps / 2);
    if (both < kTapPatternCount) return {{both, {chunk(0, 0, even), chunk(1, 0, taps / 2)}}};
  }
  std::vector<TapPass> passes;
  for (int64_t residue = 0; residue < std::min(taps, tap_step); ++residue) {
    const int64_t count = ceil_div(taps - residue, tap_step);
    for (int64_t done = 0; done < count;) {
      const int64_t left = count - done;
      const int64_t size = left >= 7 ? 7 : left == 6 ? 3 : left;
      passes.push_back({pattern(size, 0), {chunk(residue, done, size), {}}});
      done += size;
    }
  }
  return passes;
}

struct Plan : DepthwisePlan {
  std::vector<TapPass> passes;
};

void set_window(Plan& plan, const ConvProblem& problem, int axis) {
  const int64_t common = std::gcd(problem.stride[axis], problem.dilation[axis]);
  WindowAxis& window = plan.window;
  window.in = problem.input[axis];
  window.out = problem.output[axis];
  window.taps = problem.filter[axis];
  window.stride = problem.stride[axis];
  window.padding = problem.padding[axis];
  window.dilation = problem.dilation[axis];
  window.out_step = problem.dilation[axis] / common;
  window.tap_step = problem.stride[axis] / common;
  window.step = problem.stride[axis] * window.out_step;
  plan.passes = cut_taps(window.taps, window.dilation, window.tap_step, window.step);
  window.passes = plan.passes.data();
  window.pass_count = static_cast<int64_t>(plan.passes.size());
}

// One item per plane, or smaller ones where planes are too few or rows too long.
void plan_tiles(Plan& plan, int64_t threads) {
  const int64_t p_count = plan.window.out;
  const int64_t planes = plan.n * plan.k;
  plan.tile_q = p_count > 1 ? plan.cross.out : std::min(plan.cross.out, kLongestRow);
  plan.column_tiles = ceil_div(plan.cross.out, plan.tile_q);
  int64_t p = p_count;
  while (p > kRows && planes * plan.column_tiles * ceil_div(p_count, p) < 4 * threads) p = ceil_div(p, 2);
  plan.tile_p = p < p_count ? std::min(p_count, round_up(p, kRows)) : p_count;
  plan.row_tiles = ceil_div(p_count, plan.tile_p);
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

// A stage for streaming stores, where the outputs of a thread are one run of memory and large enough to be worth it.
void plan_stage(Plan& plan, bool nchw) {
  const int64_t row = nchw ? plan.tile_q : plan.window.out * plan.k;
  const int64_t block = nchw ? kRows * plan.tile_q : kRows * plan.k;
  const int64_t whole = nchw ? plan.tile_p * row : row;  // dilated windows write out of order within it
  const int64_t floats = (plan.window.out_step == 1 ? block : whole) + 2 * plan.vector;
  const bool run = nchw ? plan.column_tiles == 1 || plan.window.out == 1 : true;
  const int64_t inputs = plan.n * plan.c * plan.window.in * plan.cross.in;
  const int64_t outputs = plan.n * plan.k * plan.window.out * plan.cross.out;
  const char* e = getenv("DW_STREAM");
  const bool large = e ? atof(e) * 1e6 < static_cast<double>((inputs + outputs) * 4) : (inputs + outputs) * 4 > last_level_cache() / 3;
  plan.stage_floats = run && large && floats <= kLargestStage ? round_up(floats, 16) : 0;
}

Plan make_plan(const ConvProblem& problem, Layout layout, Isa isa, int64_t threads) {
  const bool nchw = layout == Layout::kChannelsFirst;
  Plan plan{};
  plan.n = problem.n;
  plan.c = problem.c;
  plan.k = problem.k;
  plan.multiplier = problem.k / problem.c;
  plan.x_floats = problem.n * problem.c * problem.input_size();
  plan.vector = vector_width(isa);
  set_window(plan, problem, nchw ? 1 : 2);
  const int other = nchw ? 2 : 1;
  plan.cross = {problem.input[other],  problem.output[other],  problem.filter[other],
                problem.stride[other], problem.padding[other], problem.dilation[other]};
  if (nchw) {
    plan_tiles(plan, threads);
  } else {
    plan.panels = ceil_div(plan.k, plan.vector);
    plan.items = plan.n * plan.cross.out;
  }
  plan_stage(plan, nchw);
  return plan;
}

// [panel]: R * S rows of taps, one of biases (zero beyond K), one of the channels that the outputs read.
int64_t panel_rows(const ConvProblem& problem) { return problem.filter_size() + 2; }

void pack_panels(const Plan& plan, const ConvProblem& problem, const float* w, const float* bias, bool flip,
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
#if defined(__x86_64__)
  if (isa == Isa::kGeneric || dtype != DType::kFloat32) return false;
  if (problem.groups != problem.c || problem.c < 1 || problem.k < problem.c || problem.k % problem.c != 0) return false;
  if (problem.input[0] != 1 || problem.filter[0] != 1 || problem.output[0] != 1 || problem.padding[0] != 0) return false;
  if (problem.n < 1 || problem.input_size() < 1 || problem.output_size() < 1 || problem.filter_size() < 1) return false;
  for (int i = 1; i < 3; ++i) {
    if (problem.padding[i] < 0 || problem.padding[i] > kLargestSize || problem.input[i] > kLargestSize) return false;
    if (problem.filter[i] > kLargestSize / problem.dilation[i] || problem.output[i] > kLargestSize / problem.stride[i]) return false;
  }
  return true;
#else
  return false;
#endif
}

void depthwise_fprop(const ConvProblem& problem, Layout layout, const float* x, const float* w, const float* bias,
                     float* y, bool flip_filter) {
  const Isa use = isa();
  if (!depthwise_fprop_supports(problem, DType::kFloat32, layout, use)) {
    throw std::invalid_argument("depthwise_fprop: not a problem that depthwise_fprop_supports accepts");
  }
#if defined(__x86_64__)
  const bool nchw = layout == Layout::kChannelsFirst;
  const int64_t threads = max_threads();
  Plan plan = make_plan(problem, layout, use, threads);
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
    packed = allocate(plan.panels * panel_rows(problem) * plan.vector);
    pack_panels(plan, problem, w, bias, flip_filter, packed.get());
    plan.w = packed.get();
  }
  // More threads than this would each do less than the time it takes to wake one.
  const int64_t work = problem.n * problem.k * problem.output_size() * (problem.filter_size() + 8);
  const int64_t slots = std::clamp<int64_t>(work / 65536, 1, std::min(threads, plan.items));
  const Scratch stage = allocate(plan.stage_floats * slots);
  const DepthwiseKernels& kernels = use == Isa::kAvx512 ? kDepthwiseFpropAvx512 : kDepthwiseFpropAvx2;
  const DepthwiseRange range = nchw ? kernels.nchw : kernels.nhwc;
  const auto item = [&](int64_t slot) { return plan.items / slots * slot + std::min(slot, plan.items % slots); };
  parallel_for(slots, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) range(plan, item(i), item(i + 1), stage.get() + i * plan.stage_floats);
  });
#endif
}

}  // namespace convbound::cpu
