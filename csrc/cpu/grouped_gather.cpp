// Grouped fprop and dgrad with few channels per group, in two dimensions (three have more planes, one is a row):
//
//   y[n,k,p,q]  = bias[k] + sum over c/g,r,s of x[n,c,h,w] * w[k,c,r,s]
//   dx[n,c,h,w] = bias[c] + sum over k/g,r,s of dy[n,k,p,q] * w[k,c,r,s]
//
// Both gather: a target position sums products of source values and taps. dgrad's positions fall into classes by the
// remainders that strides leave, each a stride-1 convolution with a part of the taps: nothing is inserted, and no
// division is left in the loops.
//
// Bounds. C/g R S multiply-adds per output (dgrad: K/g R S / strides) against 4 bytes read and 4 written: at C/g = 4
// and 3 x 3 that is 9 flop per byte, so arithmetic bounds everything but 1 x 1 filters. The floor is N K P Q C/g R S /
// 16 vector multiply-adds with AVX-512, / 8 with AVX2; a core of the machines at hand does one, or two, a cycle.
//
// Tiles. K/g = 4 channels fill a quarter of a vector, so vectors lie along positions in both layouts. A work item first
// reads its tile of the source, with its halo, into memory of its own that stays in the nearest caches: padded with
// zeros, fp16 and bf16 converted, NHWC transposed 4 channels at a time, columns and rows that a stride sets apart put
// into planes apart. There, each tap is one constant offset, and the rows of a tile are one run of positions: 7 columns
// of a row do not leave 9 lanes of a vector idle. The zeros that end a row begin the next, so a row of 7 takes 8
// positions, of 56 57, and those between the rows are computed in vain.
//
// Register blocks. 4 target channels x 6 vectors of positions (AVX2: 3) stay in registers over all taps and channels: 6
// loads and 4 broadcasts for 24 multiply-adds. The filter is read where it is, one run per target channel.
//
// Results leave through a tile of their own, which interleaves the classes of a strided dgrad, transposes, and narrows.
// Where none of this is to do and AVX-512 can pack lanes, they go from registers to the target; whole rows of the
// source come in likewise, spread over lanes as they are read.
//
// What is read and written. Source and target once, but for the rows of the halo; each tile twice more, in cache. The
// lines that results go to, and the next tile, are prefetched among the arithmetic, one or a few at each tap. NHWC
// items take as many groups as fill cache lines with their channels.
#include <algorithm>
#include <vector>

#include "csrc/cpu/convert.h"
#include "csrc/cpu/grouped.h"
#include "csrc/cpu/grouped_tiles.h"
#include "csrc/cpu/parallel.h"
#include "csrc/cpu/scratch.h"

namespace convbound::cpu {

#if defined(__x86_64__)

namespace {

constexpr int64_t kNearest = 7168;  // floats of a tile and its results that the first-level cache holds
constexpr int64_t kNear = 1 << 17;  // and the second-level cache
constexpr int64_t kLongest = 2048;  // 1-D: longer rows are several items

class Gather {
 public:
  Gather(const ConvProblem& problem, Pass pass, DType dtype, Layout layout, Isa isa, const Tensors& tensors)
      : p_(problem),
        dgrad_(pass == Pass::kDgrad),
        nhwc_(layout == Layout::kChannelsLast),
        element_(dtype == DType::kFloat32   ? 0
                 : dtype == DType::kFloat16 ? 1
                                            : 2),
        kernels_(isa == Isa::kAvx512 ? kGroupedAvx512 : kGroupedAvx2),
        axes_(problem, pass) {
    const int64_t taps = p_.filter_size(), c = p_.c_per_group(), k = p_.k_per_group();
    plan_.source = dgrad_ ? tensors.y : tensors.x;
    plan_.target = dgrad_ ? tensors.x : tensors.y;
    plan_.n = p_.n;
    plan_.groups = p_.groups;
    plan_.in_fan = dgrad_ ? k : c;
    plan_.out_fan = dgrad_ ? c : k;
    plan_.w_group = k * c * taps;
    const int64_t w_k = c * taps, w_c = nhwc_ ? 1 : taps, w_tap = nhwc_ ? c : 1;
    plan_.w_lane = dgrad_ ? w_c : w_k;
    plan_.depth_classes = static_cast<int64_t>(axes_.depth.classes.size());
    plan_.height_classes = static_cast<int64_t>(axes_.height.classes.size());
    plan_.width_classes = static_cast<int64_t>(axes_.width.classes.size());
    plan_.bundle = groups_per_tile(nhwc_, p_.groups, plan_.in_fan);
    plan_.bundles = ceil_div(p_.groups, plan_.bundle);
    choose_tile();
    pack_rows();
    taps_.emplace_back(p_, axes_, plan_.tile, plan_.in_fan, dgrad_ ? w_k : w_c, w_tap);
    plan_.classes = taps_.front().lists.data();
    plan_.w = widened(tensors.w, p_.k * c * taps, w_);
    plan_.bias = widened(tensors.bias, plan_.groups * plan_.out_fan, bias_);
  }

  void run() const {
    const int64_t work = p_.n * p_.k * p_.output_size() * p_.c_per_group() * p_.filter_size();
    const int64_t slots = std::clamp<int64_t>(work >> 20, 1, std::min<int64_t>(max_threads(), plan_.items));
    const int64_t floats = plan_.source_floats + plan_.result_floats;
    const Scratch scratch = allocate_scratch(slots * floats);
    const GroupedRange range = (nhwc_ ? kernels_.nhwc : kernels_.nchw)[element_];
    parallel_for(slots, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        range(plan_, plan_.items * i / slots, plan_.items * (i + 1) / slots, scratch.get() + i * floats);
      }
    });
  }

 private:
  // The tile that takes the fewest vector operations in all, where those on what leaves the first-level cache count
  // more, and with as many items as keep all threads busy.
  void choose_tile() {
    const int64_t channels = plan_.bundle * plan_.in_fan, targets = plan_.bundle * plan_.out_fan;
    const int64_t depth_steps = axes_.depth.steps(), classes = plan_.height_classes * plan_.width_classes;
    double best = 0;
    for (const TileSize& size : tile_sizes(axes_, kLongest)) {
      GroupedPlan plan = plan_;
      plan.tile = axes_.tile(plan_.groups * plan_.in_fan, size.rows, size.columns);
      plan.row_tiles = ceil_div(axes_.height.steps(), size.rows);
      plan.column_tiles = ceil_div(axes_.width.steps(), size.columns);
      plan.items = p_.n * plan.bundles * depth_steps * plan.row_tiles * plan.column_tiles;
      plan.source_floats = channels * plan.tile.planes * plan.tile.plane;
      plan.result_plane = round_up(plan.tile.positions, 16) + 16;
      plan.result_floats = (nhwc_ ? targets : std::min<int64_t>(plan_.out_fan, 4)) * classes * plan.result_plane;
      const int64_t held = plan.source_floats + plan.result_floats;
      const double vectors = static_cast<double>(ceil_div(plan.tile.positions, kernels_.vector));
      const double products = vectors * static_cast<double>(targets * plan_.in_fan * p_.filter_size());
      const double moves = static_cast<double>(3 * plan.source_floats / kernels_.vector) +
                           3 * vectors * static_cast<double>(targets * classes);
      const double cost = (products * (held <= kNearest ? 1.0
                                       : held <= kNear  ? 1.06
                                                        : 1.3) +
                           moves + 200) *
                          static_cast<double>(round_up(plan.items, max_threads()));
      if (best == 0 || cost < best) {
        best = cost;
        plan_ = plan;
      }
    }
  }

  void pack_rows() {
    if (nhwc_) return;
    spread_ = spread_rows(plan_.tile, kernels_.vector);
    if (!spread_.empty()) plan_.tile.spread = spread_.data();
    const bool direct = element_ == 0 && plan_.height_classes == 1 && plan_.width_classes == 1 &&
                        kernels_.vector == 16 && axes_.width.tile.out_step == 1 && axes_.height.tile.out_step == 1;
    if (!direct) return;
    pack_ = row_lanes(plan_.tile.positions, plan_.tile.pitch, 0, plan_.tile.columns, kernels_.vector);
    plan_.pack = pack_.data();
  }

  const float* widened(const void* from, int64_t count, Scratch& to) const {
    if (element_ == 0 || from == nullptr) return static_cast<const float*>(from);
    const Converters& converters = kernels_.vector == 16 ? kConvertAvx512 : kConvertAvx2;
    to = allocate_scratch(count);
    (element_ == 1 ? converters.fp16 : converters.bf16).widen(from, to.get(), count);
    return to.get();
  }

  const ConvProblem& p_;
  bool dgrad_, nhwc_;
  int element_;
  const GroupedKernels& kernels_;
  GroupedAxes axes_;
  GroupedPlan plan_{};
  std::vector<GroupedTaps> taps_;
  std::vector<RowLanes> spread_, pack_;
  Scratch w_, bias_;
};

}  // namespace

void grouped_fprop(const ConvProblem& problem, DType dtype, Layout layout, const Tensors& tensors) {
  Gather(problem, Pass::kFprop, dtype, layout, isa(), tensors).run();
}

void grouped_dgrad(const ConvProblem& problem, DType dtype, Layout layout, const Tensors& tensors) {
  Gather(problem, Pass::kDgrad, dtype, layout, isa(), tensors).run();
}

#else

void grouped_fprop(const ConvProblem&, DType, Layout, const Tensors&) {}
void grouped_dgrad(const ConvProblem&, DType, Layout, const Tensors&) {}

#endif

}  // namespace convbound::cpu
