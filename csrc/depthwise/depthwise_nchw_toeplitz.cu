// depthwise_fprop_nchw_toeplitz and depthwise_dgrad_nchw_toeplitz: depthwise_nchw_toeplitz.h has the kernel.
#include "csrc/depthwise/depthwise_nchw.h"
#include "csrc/depthwise/depthwise_nchw_toeplitz.h"

namespace convbound::depthwise {

template <Pass kPass>
LaunchShape nchw_toeplitz_shape(const ConvProblem& problem) {
  const PlaneProblem p = plane_problem<kPass>(problem);
  return toeplitz_shape(p, plan_toeplitz(p, problem.n));
}

template <Pass kPass>
bool nchw_toeplitz_supports(const ConvProblem& problem) {
  constexpr int64_t kMostBlocks = 2147483647, kLeastFilter = 49, kMostFilter = 4096, kMostSide = 16384;
  if (!supports_planes<kPass>(problem)) return false;
  if (problem.filter_size() < kLeastFilter || problem.filter_size() > kMostFilter) return false;
  for (int axis = 1; axis < 3; axis++) {
    const bool small = problem.input[axis] < kMostSide && problem.output[axis] < kMostSide &&
                       problem.padding[axis] < kMostSide && problem.padding[axis] > -kMostSide;
    if (problem.stride[axis] != 1 || !small) return false;
  }
  const PlaneProblem p = plane_problem<kPass>(problem);
  const ToeplitzPlan plan = plan_toeplitz(p, problem.n);
  return plan.shared_bytes() <= kMostToeplitzBytes && toeplitz_shape(p, plan).grid_x < kMostBlocks &&
         toeplitz_halves(p, plan);
}

namespace {

template <typename T>
using ToeplitzKernel = void (*)(ToeplitzParams<T>);

template <typename T, int kTiles, int kTall>
ToeplitzKernel<T> toeplitz_kernel_of(int strips) {
  constexpr ToeplitzKernel<T> kKernels[] = {toeplitz_kernel<T, 2, kTiles, kTall>, toeplitz_kernel<T, 3, kTiles, kTall>,
                                            toeplitz_kernel<T, 4, kTiles, kTall>, toeplitz_kernel<T, 5, kTiles, kTall>};
  return kKernels[strips - 2];
}

bool multiple(const void* pointer, uintptr_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

}  // namespace

template <Pass kPass, typename T>
void nchw_toeplitz(const ConvProblem& problem, const Tensors& t, cudaStream_t stream) {
  constexpr bool kForward = kPass == Pass::kFprop;
  const PlaneProblem p = plane_problem<kPass>(problem);
  const ToeplitzPlan plan = plan_toeplitz(p, problem.n);
  const T* const in = static_cast<const T*>(kForward ? t.x : t.y);
  T* const out = static_cast<T*>(kForward ? t.y : t.x);
  const bool rows_aligned = p.in_w % kStrip == 0 && multiple(in, kVectorBytes);
  const int unit_log2 = rows_aligned                         ? 3
                        : p.in_w % 4 == 0 && multiple(in, 8) ? 2
                        : p.in_w % 2 == 0 && multiple(in, 4) ? 1
                                                             : 0;
  const ToeplitzParams<T> params{in,
                                 static_cast<const T*>(t.w),
                                 static_cast<const T*>(t.bias),
                                 out,
                                 problem.n,
                                 p,
                                 plan,
                                 rows_aligned,
                                 unit_log2,
                                 p.out_w % 2 == 0 && multiple(out, 4),
                                 Divisor(plan.bands),
                                 Divisor(p.filters),
                                 IndexDivisor(p.multiplier),
                                 IndexDivisor(plan.images),
                                 IndexDivisor(plan.column_groups),
                                 IndexDivisor(std::max(1, plan.width >> unit_log2)),
                                 IndexDivisor(std::max(1, (plan.columns - plan.width) / kStrip)),
                                 IndexDivisor(plan.filter_pitch / 2)};
  const auto kernel = plan.shape.tiles == 7   ? toeplitz_kernel_of<T, 7, 1>(plan.shape.strips)
                      : plan.shape.tiles == 4 ? toeplitz_kernel_of<T, 4, 2>(plan.shape.strips)
                                              : toeplitz_kernel_of<T, 2, 2>(plan.shape.strips);
  launch(kForward ? "depthwise_fprop_nchw_toeplitz" : "depthwise_dgrad_nchw_toeplitz", kernel, toeplitz_shape(p, plan),
         stream, params);
}

#define CONVBOUND_TOEPLITZ(pass)                                                               \
  template bool nchw_toeplitz_supports<pass>(const ConvProblem&);                              \
  template LaunchShape nchw_toeplitz_shape<pass>(const ConvProblem&);                          \
  template void nchw_toeplitz<pass, __half>(const ConvProblem&, const Tensors&, cudaStream_t); \
  template void nchw_toeplitz<pass, __nv_bfloat16>(const ConvProblem&, const Tensors&, cudaStream_t);
CONVBOUND_TOEPLITZ(Pass::kFprop)
CONVBOUND_TOEPLITZ(Pass::kDgrad)
#undef CONVBOUND_TOEPLITZ

}  // namespace convbound::depthwise
