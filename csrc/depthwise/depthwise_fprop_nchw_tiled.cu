// depthwise_fprop_nchw_tiled and depthwise_dgrad_nchw_tiled: depthwise_nchw_tiled.h has the kernel.
#include "csrc/depthwise/depthwise_nchw.h"
#include "csrc/depthwise/depthwise_nchw_tiled.h"

namespace convbound::depthwise {

template <Pass kPass, typename T, bool kUnitStride>
LaunchShape nchw_tiled_shape(const ConvProblem& problem) {
  const PlaneProblem p = plane_problem<kPass>(problem);
  return tiled_shape(p, plan_tiled(p, TiledTraits<T, kUnitStride>::shape()));
}

template <Pass kPass, typename T, bool kUnitStride>
bool nchw_tiled_supports(const ConvProblem& problem) {
  constexpr int64_t kMostBlocks = 2147483647, kMostFilter = 4096, kMostStride = 64;
  if (!supports_planes<kPass>(problem) || problem.filter_size() > kMostFilter) return false;
  if (kUnitStride && (problem.stride[1] != 1 || problem.stride[2] != 1)) return false;
  if (problem.stride[1] > kMostStride || problem.stride[2] > kMostStride) return false;
  const LaunchShape shape = nchw_tiled_shape<kPass, T, kUnitStride>(problem);
  return shape.shared_bytes < kMostTiledBytes && shape.grid_x < kMostBlocks;
}

template <Pass kPass, typename T, bool kUnitStride>
void nchw_tiled(const ConvProblem& problem, const Tensors& t, cudaStream_t stream) {
  constexpr bool kForward = kPass == Pass::kFprop;
  const PlaneProblem p = plane_problem<kPass>(problem);
  const TiledPlan plan = plan_tiled(p, TiledTraits<T, kUnitStride>::shape());
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
  launch(kForward ? "depthwise_fprop_nchw_tiled" : "depthwise_dgrad_nchw_tiled", tiled_kernel<T, kUnitStride>,
         tiled_shape(p, plan), stream, params);
}

#define CONVBOUND_TILED(pass, T, unit_stride)                                      \
  template bool nchw_tiled_supports<pass, T, unit_stride>(const ConvProblem&);     \
  template LaunchShape nchw_tiled_shape<pass, T, unit_stride>(const ConvProblem&); \
  template void nchw_tiled<pass, T, unit_stride>(const ConvProblem&, const Tensors&, cudaStream_t);
#define CONVBOUND_TILED_TYPE(T)           \
  CONVBOUND_TILED(Pass::kFprop, T, true)  \
  CONVBOUND_TILED(Pass::kFprop, T, false) \
  CONVBOUND_TILED(Pass::kDgrad, T, true)
CONVBOUND_TILED_TYPE(__half)
CONVBOUND_TILED_TYPE(__nv_bfloat16)
CONVBOUND_TILED_TYPE(float)
#undef CONVBOUND_TILED_TYPE
#undef CONVBOUND_TILED

}  // namespace convbound::depthwise
