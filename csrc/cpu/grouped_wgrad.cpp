// Grouped wgrad with few channels per group:
//
//   dw[k,c,t,r,s] = sum over n,o,p,q of dy[n,k,o,p,q] * x[n,c,d,h,w]
//   dbias[k]      = sum over n,o,p,q of dy[n,k,o,p,q]
//
// Bounds. As fprop: N K P Q C/g R S multiply-adds, of which a vector holds 16 (AVX2: 8); x and dy are read once.
//
// Tiles. x as in grouped_gather.cpp, dy beside it with rows of the same pitch and zeros between them: then each tap is
// a constant offset of x against dy, and the sum runs over whole vectors of positions. What stands beside x's rows is
// zeros or x's own values, so a NaN in x also spreads to the taps that miss it by an edge.
//
// Register blocks. 4 channels of dy x 6 taps (AVX2: 2) are summed in registers over a stack of tiles, as many as the
// second-level cache holds: 4 loads of dy and 6 of x for 24 multiply-adds. At the end of a stack the lanes are added.
//
// Threads. An item is a chunk of the tiles for one bundle of groups, with a filter of sums of its own; these are added
// in the order of the chunks. Chunks depend on the problem alone, so results do not depend on the number of threads.
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

constexpr int64_t kNear = 1 << 16;      // floats of a stack of tiles: 256 KiB, inside any second-level cache
constexpr int64_t kLongest = 2048;      // positions of a row, beyond which it is several tiles
constexpr int64_t kItems = 32;          // work items wanted, where there is work for as many
constexpr int64_t kItemWork = 1 << 20;  // multiply-adds below which an item is not worth its sums

class Wgrad {
 public:
  Wgrad(const ConvProblem& problem, DType dtype, Layout layout, Isa isa, const Tensors& tensors)
      : p_(problem),
        nhwc_(layout == Layout::kChannelsLast),
        element_(dtype == DType::kFloat32   ? 0
                 : dtype == DType::kFloat16 ? 1
                                            : 2),
        kernels_(isa == Isa::kAvx512 ? kGroupedAvx512 : kGroupedAvx2),
        tensors_(tensors),
        axes_(problem, Pass::kWgrad) {
    const int64_t taps = p_.filter_size();
    plan_.x = tensors.x;
    plan_.dy = tensors.y;
    plan_.n = p_.n;
    plan_.groups = p_.groups;
    plan_.c_fan = p_.c_per_group();
    plan_.k_fan = p_.k_per_group();
    plan_.w_group = plan_.k_fan * plan_.c_fan * taps;
    plan_.w_lane = plan_.c_fan * taps;
    plan_.w_floats = p_.groups * plan_.w_group;
    plan_.bias = tensors.bias != nullptr;
    plan_.bundle = groups_per_tile(nhwc_, p_.groups, plan_.c_fan);
    plan_.bundles = ceil_div(p_.groups, plan_.bundle);
    choose_tile();
    taps_.emplace_back(p_, axes_, plan_.x_tile, plan_.c_fan, nhwc_ ? 1 : taps, nhwc_ ? plan_.c_fan : 1);
    plan_.taps = taps_.front().lists.front().taps;
    plan_.tap_count = taps_.front().lists.front().count;
  }

  void run() const {
    const int64_t items = plan_.chunks * plan_.bundles, all = plan_.w_floats + (plan_.bias ? p_.k : 0);
    const int64_t slots = std::clamp<int64_t>(work() >> 20, 1, std::min<int64_t>(max_threads(), items));
    const int64_t floats = plan_.stack * (plan_.x_floats + plan_.dy_floats);
    const Scratch memory = allocate_scratch(slots * floats), sums = allocate_scratch(plan_.chunks * all);
    const GroupedWgradItem add = (nhwc_ ? kernels_.wgrad_nhwc : kernels_.wgrad_nchw)[element_];
    parallel_for(slots, 1, [&](int64_t begin, int64_t end) {
      for (int64_t slot = begin; slot < end; ++slot) {
        for (int64_t item = items * slot / slots; item < items * (slot + 1) / slots; ++item) {
          const int64_t chunk = item / plan_.bundles;
          add(plan_, chunk, item % plan_.bundles, memory.get() + slot * floats, sums.get() + chunk * all);
        }
      }
    });
    parallel_for(all, 16384, [&](int64_t begin, int64_t end) {
      for (int64_t chunk = 1; chunk < plan_.chunks; ++chunk) {
        const float* from = sums.get() + chunk * all;
        for (int64_t i = begin; i < end; ++i) sums.get()[i] += from[i];
      }
      write(sums.get(), begin, std::min(end, plan_.w_floats), tensors_.w, 0);
      if (plan_.bias) write(sums.get(), std::max(begin, plan_.w_floats), end, tensors_.bias, plan_.w_floats);
    });
  }

 private:
  int64_t work() const { return p_.n * p_.k * p_.output_size() * p_.c_per_group() * p_.filter_size(); }

  void choose_tile() {
    const int64_t channels = plan_.bundle * plan_.c_fan, gradients = plan_.bundle * plan_.k_fan;
    static constexpr int64_t kNoResidue[1] = {0};
    const auto plain = [&](int i) { return TileAxis{p_.output[i], p_.output[i], 1, 1, 0, 0, 1, kNoResidue}; };
    for (const TileSize& size : tile_sizes(axes_, kLongest)) {
      TilePlan& x = plan_.x_tile;
      x = axes_.tile(p_.c, size.rows, size.columns);
      TilePlan& dy = plan_.dy_tile;
      dy = {plain(0), plain(1), plain(2), p_.k, size.rows, size.columns, x.pitch, 0, 1, x.positions, nullptr};
      dy.plane = round_up(size.rows * x.pitch, 16) + 16;
      plan_.x_floats = channels * x.planes * x.plane;
      plan_.dy_floats = gradients * dy.plane;
      if (plan_.x_floats + plan_.dy_floats <= kNear) break;
    }
    if (!nhwc_) {
      spread_ = {spread_rows(plan_.x_tile, kernels_.vector), spread_rows(plan_.dy_tile, kernels_.vector)};
      if (!spread_[0].empty()) plan_.x_tile.spread = spread_[0].data();
      if (!spread_[1].empty()) plan_.dy_tile.spread = spread_[1].data();
    }
    plan_.row_tiles = ceil_div(p_.output[1], plan_.x_tile.rows);
    plan_.column_tiles = ceil_div(p_.output[2], plan_.x_tile.columns);
    plan_.tiles = p_.n * p_.output[0] * plan_.row_tiles * plan_.column_tiles;
    const int64_t wanted = std::min(ceil_div(kItems, plan_.bundles), work() / plan_.bundles / kItemWork);
    plan_.chunks = std::clamp<int64_t>(wanted, 1, plan_.tiles);
    plan_.stack =
        std::clamp<int64_t>(kNear / (plan_.x_floats + plan_.dy_floats), 1, ceil_div(plan_.tiles, plan_.chunks));
  }

  // Sums [begin, end), of which `base` stands first in `to`.
  void write(const float* sums, int64_t begin, int64_t end, void* to, int64_t base) const {
    if (begin >= end) return;
    if (element_ == 0) {
      std::copy(sums + begin, sums + end, static_cast<float*>(to) + begin - base);
    } else {
      const Converters& converters = kernels_.vector == 16 ? kConvertAvx512 : kConvertAvx2;
      (element_ == 1 ? converters.fp16 : converters.bf16)
          .narrow(sums + begin, static_cast<uint16_t*>(to) + begin - base, end - begin);
    }
  }

  const ConvProblem& p_;
  bool nhwc_;
  int element_;
  const GroupedKernels& kernels_;
  Tensors tensors_;
  GroupedAxes axes_;
  GroupedWgradPlan plan_{};
  std::vector<GroupedTaps> taps_;
  std::vector<std::vector<RowLanes>> spread_;
};

}  // namespace

void grouped_wgrad(const ConvProblem& problem, DType dtype, Layout layout, const Tensors& tensors) {
  Wgrad(problem, dtype, layout, isa(), tensors).run();
}

#else

void grouped_wgrad(const ConvProblem&, DType, Layout, const Tensors&) {}

#endif

}  // namespace convbound::cpu
