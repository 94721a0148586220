#include "csrc/cpu/depthwise_window.h"

#include <algorithm>
#include <numeric>

namespace convbound::cpu {

namespace {

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
    const int64_t even = (taps + 1) / 2;
    const int both = pattern(even, taps / 2);
    if (both < kTapPatternCount) return {{both, {chunk(0, 0, even), chunk(1, 0, taps / 2)}}};
  }
  std::vector<TapPass> passes;
  for (int64_t residue = 0; residue < std::min(taps, tap_step); ++residue) {
    const int64_t count = (taps - residue + tap_step - 1) / tap_step;
    for (int64_t done = 0; done < count;) {
      const int64_t left = count - done;
      const int64_t size = left >= 7 ? 7 : left == 6 ? 3 : left;
      passes.push_back({pattern(size, 0), {chunk(residue, done, size), {}}});
      done += size;
    }
  }
  return passes;
}

}  // namespace

Window::Window(const ConvProblem& problem, int i) {
  const int64_t common = std::gcd(problem.stride[i], problem.dilation[i]);
  axis.in = problem.input[i];
  axis.out = problem.output[i];
  axis.taps = problem.filter[i];
  axis.stride = problem.stride[i];
  axis.padding = problem.padding[i];
  axis.dilation = problem.dilation[i];
  axis.out_step = problem.dilation[i] / common;
  axis.tap_step = problem.stride[i] / common;
  axis.step = problem.stride[i] * axis.out_step;
  passes = cut_taps(axis.taps, axis.dilation, axis.tap_step, axis.step);
  axis.passes = passes.data();
  axis.pass_count = static_cast<int64_t>(passes.size());
}

CrossAxis make_cross(const ConvProblem& problem, int i) {
  return {problem.input[i],  problem.output[i],  problem.filter[i],
          problem.stride[i], problem.padding[i], problem.dilation[i]};
}

bool depthwise_axes_support(const ConvProblem& p) {
  constexpr int64_t kLargestSize = int64_t{1} << 29, kLargestStride = int64_t{1} << 24;
  if (p.groups != p.c || p.c < 1 || p.k < p.c || p.k % p.c != 0) return false;
  if (p.n < 1 || p.input_size() < 1 || p.output_size() < 1 || p.filter_size() < 1) return false;
  for (int i = 0; i < 3; ++i) {
    if (p.stride[i] > kLargestStride) return false;
    if (p.padding[i] < 0 || p.padding[i] > kLargestSize || p.input[i] > kLargestSize) return false;
    if (p.filter[i] > kLargestSize / p.dilation[i] || p.output[i] > kLargestSize / p.stride[i]) return false;
  }
  return true;
}

}  // namespace convbound::cpu
