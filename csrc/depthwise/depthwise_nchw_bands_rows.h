// From a problem to an instance of the bands kernel: widths that are known, pairs of columns where width and alignment
// allow them, else single ones.
#pragma once

#include <type_traits>

#include "csrc/depthwise/depthwise_nchw.h"
#include "csrc/depthwise/depthwise_nchw_bands.h"

namespace convbound::depthwise {

// Calls visit.template operator()<kPairs, kPlane>() with the instance for the problem `addresses` is the bitwise or of
// those of input and output.
template <typename T, int kFilter, int kStride, typename Visit>
auto choose_bands(const PlaneProblem& p, uintptr_t addresses, const Visit& visit) {
  constexpr int kCentre = kFilter / 2;
  const bool vectors = addresses % kVectorBytes == 0;
  const bool pairs = addresses % (2 * sizeof(T)) == 0 && p.in_w % 2 == 0 && p.pad_w == kCentre &&
                     (kStride == 2 || p.out_w % 2 == 0) && (p.out_w - 1) * kStride < p.in_w;
  if constexpr (kFilter == 3 && kStride == 1) {
    const auto is = [&](int size) {
      return p.in_h == size && p.in_w == size && p.out_h == size && p.out_w == size && p.multiplier == 1 &&
             p.pad_h == kCentre && p.pad_w == kCentre;
    };
    if (vectors && is(7)) return visit.template operator()<false, 7>();
    if (vectors && pairs && is(14)) return visit.template operator()<true, 14>();
    if (vectors && pairs && is(28)) return visit.template operator()<true, 28>();
    if (vectors && pairs && is(56)) return visit.template operator()<true, 56>();
  }
  return pairs ? visit.template operator()<true, 0>() : visit.template operator()<false, 0>();
}

// Calls f with the stride, 1 or 2, as a constant.
template <Pass kPass, typename F>
auto with_bands_stride(const ConvProblem& problem, const F& f) {
  if constexpr (kPass == Pass::kFprop) {
    if (problem.stride[1] == 2) return f(std::integral_constant<int, 2>());
  }
  return f(std::integral_constant<int, 1>());
}

template <Pass kPass, typename T, int kFilter>
LaunchShape nchw_bands_shape(const ConvProblem& problem) {
  const PlaneProblem p = plane_problem<kPass>(problem);
  return with_bands_stride<kPass>(problem, [&]<int kStride>(std::integral_constant<int, kStride>) {
    return choose_bands<T, kFilter, kStride>(p, 0, [&]<bool kPairs, int kPlane>() {
      return bands_shape(p, plan_bands(p, BandTraits<T, kFilter, kStride, kPairs, kPlane>::shape()));
    });
  });
}

template <Pass kPass, typename T, int kFilter>
bool nchw_bands_supports(const ConvProblem& problem) {
  constexpr int64_t kMostBlocks = 2147483647;
  const bool known_stride = problem.stride[1] == problem.stride[2] && problem.stride[1] <= 2;
  if (!known_stride || !supports_planes<kPass>(problem)) return false;
  const LaunchShape shape = nchw_bands_shape<kPass, T, kFilter>(problem);
  return shape.shared_bytes < kMostBytes && shape.grid_x < kMostBlocks;
}

template <Pass kPass, typename T, int kFilter>
void nchw_bands(const ConvProblem& problem, const Tensors& t, cudaStream_t stream) {
  constexpr bool kForward = kPass == Pass::kFprop;
  const PlaneProblem p = plane_problem<kPass>(problem);
  const uintptr_t addresses = reinterpret_cast<uintptr_t>(t.x) | reinterpret_cast<uintptr_t>(t.y);
  with_bands_stride<kPass>(problem, [&]<int kStride>(std::integral_constant<int, kStride>) {
    choose_bands<T, kFilter, kStride>(p, addresses, [&]<bool kPairs, int kPlane>() {
      launch_bands<T, kFilter, kStride, kPairs, kPlane>(
          kForward ? "depthwise_fprop_nchw_bands" : "depthwise_dgrad_nchw_bands", p, t, kForward, stream);
    });
  });
}

#define CONVBOUND_DEPTHWISE_NCHW_BANDS(pass, T, filter)                       \
  template bool nchw_bands_supports<pass, T, filter>(const ConvProblem&);     \
  template LaunchShape nchw_bands_shape<pass, T, filter>(const ConvProblem&); \
  template void nchw_bands<pass, T, filter>(const ConvProblem&, const Tensors&, cudaStream_t);
#define CONVBOUND_DEPTHWISE_NCHW_BANDS_TYPE(T, filter)    \
  CONVBOUND_DEPTHWISE_NCHW_BANDS(Pass::kFprop, T, filter) \
  CONVBOUND_DEPTHWISE_NCHW_BANDS(Pass::kDgrad, T, filter)

}  // namespace convbound::depthwise
