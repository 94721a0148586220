#include "csrc/cpu/depthwise_window.h"

#include <algorithm>
#include <numeric>

#include "csrc/cpu/within.h"

namespace convbound::cpu {

namespace {

int find_pattern(int64_t first, int64_t second) {
  const auto same = [&](const TapPattern& p) { return p.first == first && p.second == second; };
  return static_cast<int>(std::find_if(kTapPatterns, kTapPatterns + kTapPatternCount, same) - kTapPatterns);
}

// Cuts `count` taps that meet inputs `step` apart into chunks of sizes that the kernels unroll.
void cut(std::vector<TapPass>& passes, int64_t count, TapChunk first, int64_t tap_step, int64_t step) {
  for (int64_t done = 0; done < count;) {
    const int64_t left = count - done;
    const int64_t size = left >= 7 ? 7 : left == 6 ? 3 : left;
    passes.push_back({find_pattern(size, 0), {{size, first.tap + done * tap_step, first.start + done * step}, {}}});
    done += size;
  }
}

// The taps of fprop, which all outputs meet.
std::vector<TapPass> cut_fprop(int64_t taps, int64_t dilation, int64_t tap_step, int64_t step) {
  if (tap_step == 2) {
    const int64_t even = (taps + 1) / 2;
    const int both = find_pattern(even, taps / 2);
    if (both < kTapPatternCount) return {{both, {{even, 0, 0}, {taps / 2, 1, dilation}}}};
  }
  std::vector<TapPass> passes;
  for (int64_t residue = 0; residue < std::min(taps, tap_step); ++residue) {
    cut(passes, (taps - residue + tap_step - 1) / tap_step, {0, residue, residue * dilation}, tap_step, step);
  }
  return passes;
}

// The taps that position `at` of dx meets: the first one, how many, and the position of dy that the first one meets.
CrossClass dgrad_class(const ConvProblem& p, int i, int64_t at) {
  const int64_t apart = p.stride[i] / std::gcd(p.stride[i], p.dilation[i]);
  for (int64_t tap = 0; tap < std::min(p.filter[i], apart); ++tap) {
    const int64_t distance = at + p.padding[i] - tap * p.dilation[i];
    if (distance % p.stride[i] == 0) return {tap, (p.filter[i] - tap + apart - 1) / apart, distance / p.stride[i]};
  }
  return {0, 0, 0};
}

}  // namespace

Window::Window(const ConvProblem& p, Pass pass, int i) {
  constexpr int64_t kNowhere = -(int64_t{1} << 31);
  const int64_t common = std::gcd(p.stride[i], p.dilation[i]);
  const int64_t apart = p.stride[i] / common, dense = p.dilation[i] / common;
  if (pass == Pass::kDgrad) {
    axis = {p.output[i], p.input[i], p.stride[i] * dense, -apart, dense, 1, nullptr};
    std::vector<int64_t> counts;
    for (int64_t c = 0; c < std::min(axis.out_step, axis.out); ++c) {
      const CrossClass taps = dgrad_class(p, i, c);
      const size_t before = passes.size();
      // From the last tap to the first, which meet dy from left to right.
      const int64_t last = taps.taps - 1;
      cut(passes, taps.taps, {0, taps.tap + last * apart, -last * dense}, -apart, dense);
      if (taps.taps == 0) passes.push_back({find_pattern(1, 0), {{1, 0, kNowhere}, {}}});
      counts.push_back(static_cast<int64_t>(passes.size() - before));
      classes.push_back({taps.start, nullptr, counts.back()});
    }
    const TapPass* next = passes.data();
    for (WindowClass& c : classes) {
      c.passes = next;
      next += c.pass_count;
    }
  } else {
    axis = {p.input[i], p.output[i], dense, apart, p.stride[i] * dense, (p.filter[i] - 1) * p.dilation[i] + 1, nullptr};
    passes = cut_fprop(p.filter[i], p.dilation[i], apart, axis.step);
    for (int64_t c = 0; c < std::min(axis.out_step, axis.out); ++c) {
      classes.push_back({c * p.stride[i] - p.padding[i], passes.data(), static_cast<int64_t>(passes.size())});
    }
  }
  axis.classes = classes.data();
}

Cross::Cross(const ConvProblem& p, Pass pass, int i) {
  const int64_t common = std::gcd(p.stride[i], p.dilation[i]);
  if (pass == Pass::kDgrad) {
    axis = {p.output[i], p.input[i], p.stride[i], 1, p.stride[i] / common, -(p.dilation[i] / common), nullptr};
    for (int64_t c = 0; c < std::min(axis.out_step, axis.out); ++c) classes.push_back(dgrad_class(p, i, c));
  } else {
    axis = {p.input[i], p.output[i], 1, p.stride[i], 1, p.dilation[i], nullptr};
    classes = {{0, p.filter[i], -p.padding[i]}};
  }
  axis.classes = classes.data();
}

Reach make_reach(const ConvProblem& p, Pass pass, int i) {
  const int64_t width = (p.filter[i] - 1) * p.dilation[i];
  if (pass == Pass::kDgrad) return {1, p.stride[i], p.padding[i] - width, p.padding[i]};
  return {p.stride[i], 1, -p.padding[i], width - p.padding[i]};
}

bool depthwise_axes_support(const ConvProblem& p) {
  constexpr int64_t kLargestSize = int64_t{1} << 29, kLargestStride = int64_t{1} << 24;
  if (p.groups != p.c || p.c < 1 || p.k < p.c || p.k % p.c != 0) return false;
  if (p.n < 1 || p.input_size() < 1 || p.output_size() < 1 || p.filter_size() < 1) return false;
  for (int i = 0; i < 3; ++i) {
    if (p.stride[i] > kLargestStride) return false;
  }
  return axes_within(p, kLargestSize);
}

}  // namespace convbound::cpu
