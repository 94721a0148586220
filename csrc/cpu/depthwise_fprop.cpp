#include "depthwise_fprop.h"

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

constexpr int64_t kTileFloats = 12 * 1024;            // aim: 48 KiB, of which a block of rows uses a part at a time
constexpr int64_t kMostTileFloats = 2 * 1024 * 1024;  // refuse beyond: 8 MiB per thread
constexpr int64_t kRows = 7;                          // rows (pixels in NHWC) per register block

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
  std::vector<int64_t> columns;
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

// Splits planes into row tiles for the sake of enough work items.
void split_rows(Plan& plan, int64_t threads) {
  int64_t p = plan.tile_p;
  while (p > kRows && plan.n * plan.c * plan.column_tiles * ceil_div(plan.window.out, p) < 4 * threads) p = ceil_div(p, 2);
  plan.tile_p = std::min(plan.window.out, p < plan.window.out ? round_up(p, kRows) : p);
  plan.row_tiles = ceil_div(plan.window.out, plan.tile_p);
  plan.items = plan.n * plan.c * plan.row_tiles * plan.column_tiles;
}

// Stride 1 along W: operands straight from x.
void plan_direct(Plan& plan, int64_t threads) {
  plan.row_floats = plan.cross.in;
  for (int64_t s = 0; s < plan.cross.taps; ++s) plan.columns.push_back(s * plan.cross.dilation - plan.cross.padding);
  plan.tile_p = plan.window.out;
  plan.tile_q = plan.window.out > 1 ? plan.cross.out : std::min<int64_t>(plan.cross.out, 4096);
  plan.column_tiles = ceil_div(plan.cross.out, plan.tile_q);
  split_rows(plan, threads);
}

// A stride along W: tiles. The rows of a tile overlap those of the next by the filter's reach, so tiles are as tall as
// the cache allows; they are narrower than the output only where a few rows would not fit.
void plan_tiles(Plan& plan, int64_t threads) {
  const WindowAxis& window = plan.window;
  const CrossAxis& cross = plan.cross;
  const int64_t reach = (window.taps - 1) * window.dilation + 1;
  const int64_t shift = (cross.taps - 1) * cross.dilation / cross.stride;
  // The copy stores whole vectors; the kernels load whole vectors of outputs.
  const auto set_pitch = [&](int64_t q) {
    plan.phase_pitch = round_up(round_up(q, plan.vector) + shift + plan.vector, 16);
    plan.pitch = plan.phase_pitch * cross.stride;
    if (plan.pitch % 256 == 0) plan.pitch += 16;  // rows 1 KiB apart would share a few cache sets
  };
  const auto rows = [&](int64_t p) { return std::min(window.in, (p - 1) * window.stride + reach); };
  const int64_t fewest = std::min(window.out, kRows * 2);
  plan.tile_q = cross.out;
  set_pitch(plan.tile_q);
  if (rows(fewest) * plan.pitch > kTileFloats && cross.out > 128) {
    const int64_t room = kTileFloats / rows(fewest) / cross.stride - shift - 3 * plan.vector;
    const int64_t most = std::clamp<int64_t>(room / 32 * 32, 128, cross.out);
    plan.tile_q = round_up(ceil_div(cross.out, ceil_div(cross.out, most)), 32);
    set_pitch(plan.tile_q);
  }
  plan.column_tiles = ceil_div(cross.out, plan.tile_q);
  plan.tile_p = window.out;
  while (plan.tile_p > fewest && rows(plan.tile_p) * plan.pitch > kTileFloats) plan.tile_p = ceil_div(plan.tile_p, 2);
  split_rows(plan, threads);
  plan.tile_floats = rows(plan.tile_p) * plan.pitch + 2 * plan.vector;
  plan.row_floats = plan.pitch;
  for (int64_t s = 0; s < cross.taps; ++s) {
    const int64_t column = s * cross.dilation;
    plan.columns.push_back(column % cross.stride * plan.phase_pitch + column / cross.stride);
  }
}

Plan make_plan(const ConvProblem& problem, Layout layout, Isa isa, int64_t threads) {
  const bool nchw = layout == Layout::kChannelsFirst;
  Plan plan{};
  plan.n = problem.n;
  plan.c = problem.c;
  plan.k = problem.k;
  plan.multiplier = problem.k / problem.c;
  plan.vector = vector_width(isa);
  set_window(plan, problem, nchw ? 1 : 2);
  const int other = nchw ? 2 : 1;
  plan.cross = {problem.input[other],  problem.output[other],  problem.filter[other],
                problem.stride[other], problem.padding[other], problem.dilation[other]};
  if (nchw) {
    plan.cross.stride == 1 ? plan_direct(plan, threads) : plan_tiles(plan, threads);
    plan.column = plan.columns.data();
  } else {
    plan.panels = ceil_div(plan.k, plan.vector);
    plan.group = plan.panels;
    plan.groups = 1;
    plan.items = plan.n * plan.groups * plan.cross.out;
  }
  return plan;
}

// [panel][R][S][vector] and one row of biases, zero beyond K.
void pack_filter(const Plan& plan, const float* w, const float* bias, bool flip, float* packed) {
  const int64_t taps = plan.window.taps * plan.cross.taps;
  const int64_t panel_floats = (taps + 1) * plan.vector;
  parallel_for(plan.panels, std::max<int64_t>(1, 16384 / panel_floats), [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      float* out = packed + panel * panel_floats;
      const int64_t k0 = panel * plan.vector;
      const int64_t lanes = std::min(plan.vector, plan.k - k0);
      if (lanes < plan.vector) std::memset(out, 0, static_cast<size_t>(panel_floats) * sizeof(float));
      for (int64_t tap = 0; tap < taps; ++tap) {
        const float* from = w + k0 * taps + (flip ? taps - 1 - tap : tap);
        for (int64_t i = 0; i < lanes; ++i) out[tap * plan.vector + i] = from[i * taps];
      }
      for (int64_t i = 0; i < lanes; ++i) out[taps * plan.vector + i] = bias == nullptr ? 0.0f : bias[k0 + i];
    }
  });
}

}  // namespace

bool depthwise_fprop_supports(const ConvProblem& problem, DType dtype, Layout layout, Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kGeneric || dtype != DType::kFloat32) return false;
  if (problem.groups != problem.c || problem.c < 1 || problem.k < problem.c || problem.k % problem.c != 0) return false;
  if (problem.input[0] != 1 || problem.filter[0] != 1 || problem.output[0] != 1 || problem.padding[0] != 0) return false;
  if (problem.n < 1 || problem.input_size() < 1 || problem.output_size() < 1 || problem.filter_size() < 1) return false;
  return layout == Layout::kChannelsLast || make_plan(problem, layout, isa, 1).tile_floats <= kMostTileFloats;
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
  const int64_t threads = max_threads();
  Plan plan = make_plan(problem, layout, use, threads);
  const DepthwiseKernels& kernels = use == Isa::kAvx512 ? kDepthwiseFpropAvx512 : kDepthwiseFpropAvx2;
  plan.x = x;
  plan.y = y;
  // More threads than this would each do less than the time it takes to wake one.
  const int64_t work = problem.n * problem.k * problem.output_size() * (problem.filter_size() + 8);
  const int64_t slots = std::clamp<int64_t>(work / 65536, 1, std::min(threads, plan.items));
  const auto item = [&](int64_t slot) { return plan.items / slots * slot + std::min(slot, plan.items % slots); };
  if (layout == Layout::kChannelsFirst) {
    const int64_t taps = problem.filter_size();
    const int64_t s = problem.filter[2];
    plan.w = w;
    plan.bias = bias;
    plan.w_origin = flip_filter ? taps - 1 : 0;
    plan.w_tap = flip_filter ? -s : s;
    plan.w_cross = flip_filter ? -1 : 1;
    const int64_t stride = round_up(plan.tile_floats, 16);
    const Scratch scratch = allocate(stride * slots);
    parallel_for(slots, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) kernels.nchw(plan, item(i), item(i + 1), scratch.get() + i * stride);
    });
  } else {
    const Scratch packed = allocate(plan.panels * (problem.filter_size() + 1) * plan.vector);
    pack_filter(plan, w, bias, flip_filter, packed.get());
    plan.w = packed.get();
    parallel_for(slots, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) kernels.nhwc(plan, item(i), item(i + 1), nullptr);
    });
  }
#endif
}

}  // namespace convbound::cpu
