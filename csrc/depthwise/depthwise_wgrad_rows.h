// From a row of the registry to a tile of taps: the functions that the rows name. See depthwise_wgrad.h.
#pragma once

#include "csrc/depthwise/depthwise_wgrad_kernel.h"

namespace convbound::depthwise {

// Calls f(tile) with the tile that serves the problem best.
template <Layout kLayout, int kFilter, typename F>
auto with_wgrad_tile(const ConvProblem& p, const F& f) {
  constexpr bool kChannelsLast = kLayout == Layout::kChannelsLast;
  constexpr int kWarps = kChannelsLast ? 8 : 4;
  if constexpr (kFilter > 0) {
    return p.stride[1] == 1 ? f(Sliding<kFilter, kFilter, 1, kWarps>{}) : f(Sliding<kFilter, kFilter, 2, kWarps>{});
  } else {
    const bool sliding = p.stride[1] == 1 && p.stride[2] == 1 && p.dilation[1] == 1 && p.dilation[2] == 1;
    const int64_t r = p.filter[1], s = p.filter[2];
    const auto taps = [&](int64_t tile) { return divide_up(r, tile) * divide_up(s, tile) * tile * tile; };
    if constexpr (kChannelsLast) {
      // In one dimension the walk is along it.
      if (sliding && (s == 1 || (p.input[1] == 1 && r == 1))) {
        return r * s < 5 ? f(Sliding<4, 1, 1, kWarps>{}) : f(Sliding<8, 1, 1, kWarps>{});
      }
      if (!sliding || r < 4 || s < 4) return f(Plain<3, 3, kWarps>{});
      return taps(5) < taps(7) ? f(Sliding<5, 5, 1, kWarps>{}) : f(Sliding<7, 7, 1, kWarps>{});
    } else {
      if (p.input[1] == 1 && r == 1 && p.output[1] == 1 && p.padding[1] == 0) {
        return s < 5 ? f(Folded<4, kWarps>{}) : f(Folded<8, kWarps>{});
      }
      if (!sliding) return f(Plain<3, 3, kWarps>{});
      if (s < 3) return f(Sliding<8, 1, 1, 16>{});
      if (r < 3) return f(Sliding<1, 8, 1, 16>{});
      return taps(5) < taps(8) ? f(Sliding<5, 5, 1, 16>{}) : f(Sliding<8, 8, 1, 16>{});
    }
  }
}

template <typename T, Layout kLayout, int kFilter>
bool wgrad_supports(const ConvProblem& p) {
  if (!fits_wgrad(p)) return false;
  if (kFilter > 0) {
    const bool square = p.stride[1] == p.stride[2] && p.dilation[1] == 1 && p.dilation[2] == 1;
    if (!square || p.stride[1] > 2 || p.filter[1] != kFilter || p.filter[2] != kFilter) return false;
  }
  return with_wgrad_tile<kLayout, kFilter>(p, [&](auto tile) {
    const WgradPlan plan = make_wgrad_plan<T, kLayout, decltype(tile)>(p);
    return plan.threads > 0 && wgrad_launch_shape(plan).grid_x < (int64_t{1} << 31);
  });
}

template <typename T, Layout kLayout, int kFilter>
LaunchShape wgrad_shape(const ConvProblem& p) {
  return with_wgrad_tile<kLayout, kFilter>(
      p, [&](auto tile) { return wgrad_launch_shape(make_wgrad_plan<T, kLayout, decltype(tile)>(p)); });
}

template <typename T, Layout kLayout, int kFilter>
size_t wgrad_workspace(const ConvProblem& p) {
  return with_wgrad_tile<kLayout, kFilter>(p, [&](auto tile) -> size_t {
    const WgradPlan plan = make_wgrad_plan<T, kLayout, decltype(tile)>(p);
    return plan.splits > 1 ? static_cast<size_t>(plan.splits * plan.outputs) * sizeof(float) : 0;
  });
}

template <typename T, Layout kLayout, int kFilter>
void wgrad(const ConvProblem& p, const Tensors& tensors, cudaStream_t stream) {
  with_wgrad_tile<kLayout, kFilter>(p,
                                    [&](auto tile) { launch_wgrad<T, kLayout, decltype(tile)>(p, tensors, stream); });
}

}  // namespace convbound::depthwise

#define CONVBOUND_INSTANTIATE_WGRAD(T, layout, filter)                     \
  template bool wgrad_supports<T, layout, filter>(const ConvProblem&);     \
  template LaunchShape wgrad_shape<T, layout, filter>(const ConvProblem&); \
  template size_t wgrad_workspace<T, layout, filter>(const ConvProblem&);  \
  template void wgrad<T, layout, filter>(const ConvProblem&, const Tensors&, cudaStream_t);
