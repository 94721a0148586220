// depthwise_fprop_nchw_tiled and depthwise_dgrad_nchw_tiled: depthwise_nchw_tiled.h has the kernel.
#include "csrc/depthwise/depthwise_nchw.h"
#include "csrc/depthwise/depthwise_nchw_tiled.h"

namespace convbound::depthwise {

namespace {

bool unit_stride(const PlaneProblem& p) { return p.stride_h == 1 && p.stride_w == 1; }

template <typename T>
TiledPlan plan_for(const PlaneProblem& p) {
  return plan_tiled(p, unit_stride(p) ? TiledTraits<T, true>::shape() : TiledTraits<T, false>::shape());
}

}  // namespace

template <Pass kPass, typename T>
LaunchShape nchw_tiled_shape(const ConvProblem& problem) {
  const PlaneProblem p = plane_problem<kPass>(problem);
  return tiled_shape(p, plan_for<T>(p));
}

template <Pass kPass, typename T>
bool nchw_tiled_supports(const ConvProblem& problem) {
  constexpr int64_t kMostBlocks = 2147483647, kMostFilter = 4096, kMostStride = 64;
  if (!supports_planes<kPass>(problem) || problem.filter_size() > kMostFilter) return false;
  if (problem.stride[1] > kMostStride || problem.stride[2] > kMostStride) return false;
  const LaunchShape shape = nchw_tiled_shape<kPass, T>(problem);
  return shape.shared_bytes < kMostTiledBytes && shape.grid_x < kMostBlocks;
}

template <Pass kPass, typename T>
void nchw_tiled(const ConvProblem& problem, const Tensors& t, cudaStream_t stream) {
  constexpr bool kForward = kPass == Pass::kFprop;
  const PlaneProblem p = plane_problem<kPass>(problem);
  const TiledPlan plan = plan_for<T>(p);
  const TiledParams<T> params{static_cast<const T*>(kForward ? t.x : t.y),
                              static_cast<const T*>(t.w),
                              static_cast<const T*>(t.bias),
                              static_cast<T*>(kForward ? t.y : t.x),
                              p.planes,
                              p,
                              plan,
                              Divisor(plan.tiles_h),
                              Divisor(plan.tiles_w),
                              Divisor(p.filters),
                              Divisor(p.multiplier)};
  launch(kForward ? "depthwise_fprop_nchw_tiled" : "depthwise_dgrad_nchw_tiled",
         unit_stride(p) ? tiled_kernel<T, true> : tiled_kernel<T, false>, tiled_shape(p, plan), stream, params);
}

#define CONVBOUND_TILED(pass, T)                                      \
  template bool nchw_tiled_supports<pass, T>(const ConvProblem&);     \
  template LaunchShape nchw_tiled_shape<pass, T>(const ConvProblem&); \
  template void nchw_tiled<pass, T>(const ConvProblem&, const Tensors&, cudaStream_t);
#define CONVBOUND_TILED_TYPE(T)    \
  CONVBOUND_TILED(Pass::kFprop, T) \
  CONVBOUND_TILED(Pass::kDgrad, T)
CONVBOUND_TILED_TYPE(__half)
CONVBOUND_TILED_TYPE(__nv_bfloat16)
CONVBOUND_TILED_TYPE(float)
#undef CONVBOUND_TILED_TYPE
#undef CONVBOUND_TILED

}  // namespace convbound::depthwise
