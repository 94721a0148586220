// Depthwise wgrad:
//
//   dw[k,t,r,s] = sum over n,o,p,q of dy[n,k,o,p,q] * x[n, k / multiplier, o * stride + t * dilation - padding, ...]
//   dbias[k]    = sum over n,o,p,q of dy[n,k,o,p,q]
//
// Bounds. x and dy are read from memory once: 4 (N C D H W + N K O P Q) bytes; the floor of arithmetic is N K O P Q T R
// S fused multiply-adds, as in fprop.
//
// Register blocks. The transpose of fprop's (depthwise_fprop.cpp): up to 7 outputs along the window axis lie in
// registers, x slides past them, and each x is loaded once for all the taps that it meets: (7 + J - 1) loads of x and 7
// of dy for 7 J multiply-adds. What stays in registers for a whole tile, and longer, are the sums. J of them alone
// would wait for each other (a multiply-add takes 4 cycles), so up to 10 sums of several taps across the window share
// the loads of dy. NCHW: window along H, vectors along W, a vector of partial sums per tap; NHWC: window along W,
// vectors along C. Edges are treated as in fprop.
//
// Tiles. Outputs are cut into tiles whose x and dy fit the first-level cache, for they are passed over once for each
// group of taps: once at 3 x 3, 7 times at 7 x 7. Small NCHW planes of several images share one pass.
//
// Threads. A work item is a run of tiles (a chunk) of one channel (NCHW) or one slab of channels (NHWC) and has sums of
// its own, which are added in the order of the chunks at the end. Chunks depend on the problem alone, so results do not
// depend on the number of threads.
#include "csrc/cpu/depthwise_wgrad.h"

#include <algorithm>
#include <vector>

#include "csrc/cpu/depthwise_wgrad_plan.h"
#include "csrc/cpu/depthwise_window.h"
#include "csrc/cpu/parallel.h"
#include "csrc/cpu/scratch.h"

namespace convbound::cpu {

#if defined(__x86_64__)

namespace {

constexpr int64_t kTileFloats = 6144;         // of x and dy: 24 KiB of a first-level cache of 32
constexpr int64_t kSlabTileFloats = 1 << 16;  // the same of all channels: 256 KiB of a second-level cache of 512
constexpr int64_t kMostTiles = 16;            // that share a pass
constexpr int64_t kSlabFloats = 12288;        // sums of a slab: 48 KiB, inside any second-level cache
constexpr int64_t kItems = 64;                // work items wanted, where there is work for as many
constexpr int64_t kItemWork = 1 << 19;        // multiply-adds below which an item is not worth its overhead
constexpr int64_t kChunkOutputs = 256;        // outputs of a chunk, per channel, that pay for another set of sums
constexpr int64_t kBlock = 7;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t reach(const ConvProblem& p, int axis, int64_t outputs) {
  return std::min(p.input[axis], (outputs - 1) * p.stride[axis] + (p.filter[axis] - 1) * p.dilation[axis] + 1);
}

// One group of taps that a sweep takes.
struct Taps {
  const TapPass* pass;
  int64_t first, count;  // across the window
};

std::vector<Taps> group_taps(const WgradPlan& plan, bool one_by_one) {
  std::vector<Taps> groups;
  for (int64_t i = 0; i < plan.window.pass_count; ++i) {
    const TapPass& pass = plan.window.passes[i];
    const int64_t count = ceil_div(plan.cross.taps, one_by_one ? 1 : kMostCrossTaps[pass.pattern]);
    for (int64_t j = 0; j < count; ++j) {
      const int64_t begin = plan.cross.taps * j / count, end = plan.cross.taps * (j + 1) / count;
      groups.push_back({&pass, begin, end - begin});
    }
  }
  return groups;
}

class Wgrad {
 public:
  Wgrad(const ConvProblem& problem, Layout layout, Isa isa, const Tensors& tensors)
      : problem_(problem),
        nchw_(layout == Layout::kChannelsFirst),
        window_(problem, nchw_ ? 1 : 2),
        x_(static_cast<const float*>(tensors.x)),
        dy_(static_cast<const float*>(tensors.y)),
        dw_(static_cast<float*>(tensors.w)),
        dbias_(static_cast<float*>(tensors.bias)) {
    const bool narrow = nchw_ && problem.output[2] <= 8;
    kernels_ = isa == Isa::kAvx2 ? &kDepthwiseWgradAvx2
               : narrow          ? &kDepthwiseWgradAvx512Narrow
                                 : &kDepthwiseWgradAvx512;
    vector_ = isa == Isa::kAvx512 && !narrow ? 16 : 8;
    make_plan();
    groups_ = group_taps(plan_, nchw_ && plan_.cross.stride > 2);
    cut();
  }

  void run() {
    const int64_t work = problem_.n * problem_.k * problem_.output_size() * (problem_.filter_size() + 8);
    const int64_t items = chunks_ * slabs_;
    const int64_t slots = std::clamp<int64_t>(work / 65536, 1, std::min<int64_t>(max_threads(), items));
    partial_floats_ = nchw_ ? problem_.k * plan_.sum_rows : panels_ * plan_.sum_rows * vector_;
    partial_ = allocate_scratch(chunks_ * partial_floats_);
    const int64_t lanes_floats = plan_.sum_rows * vector_;
    const Scratch lanes = allocate_scratch(nchw_ ? slots * lanes_floats : 0);
    parallel_for(slots, 1, [&](int64_t begin, int64_t end) {
      for (int64_t slot = begin; slot < end; ++slot) {
        for (int64_t item = items * slot / slots; item < items * (slot + 1) / slots; ++item) {
          const int64_t chunk = item / slabs_, slab = item % slabs_;
          float* partial = partial_.get() + chunk * partial_floats_;
          if (nchw_) {
            float* sums = lanes.get() + slot * lanes_floats;
            add_chunk(chunk, slab, sums);
            kernels_->add_lanes(sums, plan_.sum_rows, partial + slab * plan_.sum_rows);
          } else {
            add_chunk(chunk, slab, partial + slab * plan_.slab_panels * lanes_floats);
          }
        }
      }
    });
    add_chunks();
  }

 private:
  void make_plan() {
    const ConvProblem& p = problem_;
    plan_.window = window_.axis;
    plan_.cross = make_cross(p, nchw_ ? 2 : 1);
    plan_.x_unit = nchw_ ? 1 : p.c;
    plan_.dy_unit = nchw_ ? 1 : p.k;
    plan_.x_row = p.input[2] * plan_.x_unit;
    plan_.dy_row = p.output[2] * plan_.dy_unit;
    plan_.sum_window = nchw_ ? p.filter[2] : 1;
    plan_.sum_cross = nchw_ ? 1 : p.filter[2];
    plan_.sum_rows = p.filter_size() + 1;
    plan_.k = p.k;
    plan_.multiplier = p.k / p.c;
    panels_ = ceil_div(p.k, vector_);
    if (!nchw_) {
      sources_.resize(static_cast<size_t>(panels_ * vector_));
      for (int64_t k = 0; k < panels_ * vector_; ++k) {
        sources_[k] = static_cast<int32_t>(k / plan_.multiplier - k / vector_ * vector_ / plan_.multiplier);
      }
      plan_.sources = sources_.data();
    }
  }

  // Tiles, chunks of tiles, slabs of channels.
  void cut() {
    const ConvProblem& p = problem_;
    const int64_t depth = nchw_ ? 1 : vector_;  // floats of a pixel that one pass touches
    const auto floats = [&](int64_t rows, int64_t columns) {
      return depth * (reach(p, 1, rows) * reach(p, 2, columns) + rows * columns);
    };
    tile_p_ = p.output[1];
    tile_q_ = p.output[2];
    while (tile_p_ > kBlock && floats(tile_p_, tile_q_) > kTileFloats)
      tile_p_ = ceil_div(ceil_div(tile_p_, 2), kBlock) * kBlock;
    const int64_t least_q = nchw_ ? 16 * vector_ : 4 * kBlock;
    if (!nchw_) {
      while (tile_p_ > 1 && floats(tile_p_, tile_q_) > kTileFloats) tile_p_ = ceil_div(tile_p_, 2);
    }
    const auto too_long = [&] {
      const int64_t of_a_pass = floats(tile_p_, tile_q_);
      return of_a_pass > 2 * kTileFloats || (!nchw_ && of_a_pass / vector_ * p.k > kSlabTileFloats);
    };
    while (tile_q_ > least_q && too_long()) tile_q_ = ceil_div(ceil_div(tile_q_, 2), least_q) * least_q;
    row_tiles_ = ceil_div(p.output[1], tile_p_);
    column_tiles_ = ceil_div(p.output[2], tile_q_);
    tiles_ = p.n * p.output[0] * row_tiles_ * column_tiles_;
    together_ = std::clamp<int64_t>(kTileFloats / floats(tile_p_, tile_q_), 1, kMostTiles);

    const int64_t outputs = p.n * p.output_size();
    const int64_t wanted = std::clamp<int64_t>(outputs * p.k * p.filter_size() / kItemWork, 1, kItems);
    if (nchw_) {
      slabs_ = p.k;
      chunks_ = ceil_div(wanted, slabs_);
    } else {
      chunks_ = wanted;
    }
    chunks_ = std::clamp<int64_t>(std::min(chunks_, outputs / kChunkOutputs), 1, tiles_);
    if (!nchw_) {
      const int64_t largest = std::clamp<int64_t>(kSlabFloats / (plan_.sum_rows * vector_), 1, panels_);
      plan_.slab_panels = std::min(largest, ceil_div(panels_, ceil_div(wanted, chunks_)));
      slabs_ = ceil_div(panels_, plan_.slab_panels);
      // A pass goes over the panels whose tiles fit the first-level cache together.
      pass_panels_ = std::clamp<int64_t>(kTileFloats / (together_ * floats(tile_p_, tile_q_)), 1, plan_.slab_panels);
    }
  }

  // The sums of one chunk for one channel (NCHW) or slab (NHWC), written to `sums`.
  void add_chunk(int64_t chunk, int64_t slab, float* sums) const {
    const int64_t begin = tiles_ * chunk / chunks_, end = tiles_ * (chunk + 1) / chunks_;
    const int64_t plane_taps = problem_.filter[1] * problem_.filter[2];
    WgradTile tiles[kMostTiles];
    WgradStep step{};
    step.tiles = tiles;
    for (int64_t first = begin; first < end; first += together_) {
      const int64_t last = std::min(end, first + together_);
      step.fresh = first == begin;
      if (dbias_ != nullptr) {
        step.tile_count = place(tiles, first, last, slab, -1);
        add_bias(step, slab, sums + problem_.filter_size() * vector_);
      }
      for (int64_t t = 0; t < problem_.filter[0]; ++t) {
        step.tile_count = place(tiles, first, last, slab, t);
        if (step.tile_count > 0 || step.fresh) add_taps(step, slab, sums + t * plane_taps * vector_);
      }
    }
  }

  void add_bias(WgradStep& step, int64_t slab, float* sums) const {
    step.panel = slab * plan_.slab_panels;
    step.panel_end = std::min(panels_, step.panel + plan_.slab_panels);
    (nchw_ ? kernels_->nchw_bias : kernels_->nhwc_bias)(plan_, step, sums);
  }

  void add_taps(WgradStep& step, int64_t slab, float* sums) const {
    const int64_t panel_begin = nchw_ ? 0 : slab * plan_.slab_panels;
    const int64_t panel_end = nchw_ ? 1 : std::min(panels_, panel_begin + plan_.slab_panels);
    const int64_t panels = nchw_ ? 1 : pass_panels_;
    for (step.panel = panel_begin; step.panel < panel_end; step.panel += panels) {
      if (!nchw_) prefetch_next(step, panel_begin, panel_end - panel_begin, panels);
      step.panel_end = std::min(panel_end, step.panel + panels);
      step.prefetch = nchw_ && problem_.output[1] > 1;
      for (const Taps& taps : groups_) {
        step.pass = taps.pass;
        step.cross_tap = taps.first;
        step.cross_taps = taps.count;
        (nchw_ ? kernels_->nchw : kernels_->nhwc)(plan_, step, sums);
        step.prefetch = false;
      }
    }
  }

  // Asks for this pass's share of what the next tiles of the slab will add: pixels beyond those of the last tile. The
  // sweeps touch one vector of each pixel at a time, which hardware prefetchers take for disorder.
  void prefetch_next(const WgradStep& step, int64_t panel_begin, int64_t panels, int64_t pass_panels) const {
    if (step.tile_count == 0) return;
    const ConvProblem& p = problem_;
    const WgradTile& tile = step.tiles[step.tile_count - 1];
    const auto end = [&](int axis, int64_t outputs) {
      const int64_t met = (outputs - 1) * p.stride[axis] + (p.filter[axis] - 1) * p.dilation[axis] + 1;
      return std::clamp<int64_t>(met - p.padding[axis], 1, p.input[axis]);
    };
    const int64_t run = std::min(plan_.slab_panels * vector_, p.c);
    const auto ask = [&](const float* from, int64_t pixels, int64_t unit) {
      const int64_t begin = pixels * (step.panel - panel_begin) / panels;
      const int64_t last = pixels * std::min(panels, step.panel - panel_begin + pass_panels) / panels;
      for (int64_t i = begin; i < last; ++i) {
        for (int64_t j = 0; j < run; j += 16) __builtin_prefetch(from + i * unit + j, 0, 2);  // never faults
      }
    };
    ask(tile.x + (end(1, tile.p1) - 1) * plan_.x_row + end(2, tile.q1) * plan_.x_unit,
        step.tile_count * p.n * p.input_size() / tiles_, plan_.x_unit);
    ask(tile.dy + (tile.p1 - 1) * plan_.dy_row + tile.q1 * plan_.dy_unit,
        step.tile_count * p.n * p.output_size() / tiles_, plan_.dy_unit);
  }

  // The tiles [first, last) as tap t along the depth meets them, those left out that it misses; t = -1: dy alone.
  int64_t place(WgradTile* tiles, int64_t first, int64_t last, int64_t slab, int64_t t) const {
    const ConvProblem& p = problem_;
    const int64_t k = nchw_ ? slab : slab * plan_.slab_panels * vector_;
    const int64_t c = k / plan_.multiplier;
    int64_t count = 0;
    for (int64_t i = first; i < last; ++i) {
      const int64_t plane = i / (row_tiles_ * column_tiles_);
      const int64_t n = plane / p.output[0], o = plane % p.output[0];
      const int64_t d = t < 0 ? 0 : o * p.stride[0] - p.padding[0] + t * p.dilation[0];
      if (d < 0 || d >= p.input[0]) continue;
      WgradTile& tile = tiles[count++];
      tile.p0 = i / column_tiles_ % row_tiles_ * tile_p_;
      tile.p1 = std::min(p.output[1], tile.p0 + tile_p_);
      tile.q0 = i % column_tiles_ * tile_q_;
      tile.q1 = std::min(p.output[2], tile.q0 + tile_q_);
      const int64_t x_plane = p.input[1] * p.input[2], dy_plane = p.output[1] * p.output[2];
      if (nchw_) {
        tile.x = x_ + ((n * p.c + c) * p.input[0] + d) * x_plane;
        tile.dy = dy_ + ((n * p.k + k) * p.output[0] + o) * dy_plane;
      } else {
        tile.x = x_ + (n * p.input[0] + d) * x_plane * p.c + c;
        tile.dy = dy_ + (n * p.output[0] + o) * dy_plane * p.k + k;
      }
    }
    return count;
  }

  // The chunks' sums, one after the other.
  void add_chunks() {
    const int64_t taps = problem_.filter_size();
    parallel_for(problem_.k, std::max<int64_t>(1, 16384 / (taps * chunks_)), [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const int64_t step = nchw_ ? 1 : vector_;
        const int64_t offset = nchw_ ? k * plan_.sum_rows : k / vector_ * plan_.sum_rows * vector_ + k % vector_;
        for (int64_t row = 0; row < plan_.sum_rows - (dbias_ == nullptr ? 1 : 0); ++row) {
          const float* from = partial_.get() + offset + row * step;
          float sum = from[0];
          for (int64_t chunk = 1; chunk < chunks_; ++chunk) sum += from[chunk * partial_floats_];
          (row < taps ? dw_[k * taps + row] : dbias_[k]) = sum;
        }
      }
    });
  }

  const ConvProblem& problem_;
  bool nchw_;
  Window window_;
  const float* x_;
  const float* dy_;
  float* dw_;
  float* dbias_;
  const WgradKernels* kernels_;
  int64_t vector_;
  WgradPlan plan_{};
  std::vector<int32_t> sources_;
  std::vector<Taps> groups_;
  int64_t panels_, pass_panels_ = 1;
  int64_t tile_p_, tile_q_, row_tiles_, column_tiles_, tiles_;
  int64_t together_;  // tiles that share a pass
  int64_t chunks_, slabs_;
  int64_t partial_floats_;
  Scratch partial_;  // [chunk][k][sum_rows] (NCHW) or [chunk][panel][sum_rows][vector]
};

}  // namespace

bool depthwise_wgrad_supports(const ConvProblem& problem, DType dtype, Layout, Isa isa) {
  return isa != Isa::kGeneric && dtype == DType::kFloat32 && depthwise_axes_support(problem);
}

void depthwise_wgrad(const ConvProblem& problem, DType, Layout layout, const Tensors& tensors) {
  Wgrad(problem, layout, isa(), tensors).run();
}

#else

bool depthwise_wgrad_supports(const ConvProblem&, DType, Layout, Isa) { return false; }
void depthwise_wgrad(const ConvProblem&, DType, Layout, const Tensors&) {}

#endif

}  // namespace convbound::cpu
