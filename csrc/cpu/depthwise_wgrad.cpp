// Depthwise wgrad:
//
//   dw[k,t,r,s] = sum over n,o,p,q of dy[n,k,o,p,q] * x[n, k / multiplier, o * stride + t * dilation - padding, ...]
//   dbias[k]    = sum over n,o,p,q of dy[n,k,o,p,q]
//
// Bounds. x and dy are read from memory once: 4 (N C D H W + N K O P Q) bytes; the floor of arithmetic is N K O P Q T R
// S fused multiply-adds, as in fprop.
//
// Register blocks. The transpose of fprop's (depthwise_gather.cpp): up to 7 outputs along the window axis lie in
// registers, x slides past them, and each x is loaded once for all the taps that it meets: (7 + J - 1) loads of x and 7
// of dy for 7 J multiply-adds. What stays in registers for a whole tile, and longer, are the sums. J of them alone
// would wait for each other (a multiply-add takes 4 cycles), so up to 10 sums of several taps across the window share
// the loads of dy. NCHW: window along H, vectors along W, a vector of partial sums per tap; NHWC: window along W,
// vectors along C. Edges are treated as in fprop.
//
// Tiles. Outputs are cut into tiles whose x and dy fit the first-level cache, for they are passed over once for each
// group of taps: once at 3 x 3, 7 times at 7 x 7. Small NCHW planes of several images share one pass. 16-bit types are
// converted to fp32 tile by tile.
//
// Threads. A work item is a run of tiles (a chunk) of one channel (NCHW) or one slab of channels (NHWC) and has sums of
// its own, which are added in the order of the chunks at the end. Chunks depend on the problem alone, so results do not
// depend on the number of threads.
#include "csrc/cpu/depthwise_wgrad.h"

#include <algorithm>
#include <vector>

#include "csrc/cpu/depthwise_wgrad_tiles.h"
#include "csrc/cpu/depthwise_window.h"
#include "csrc/cpu/half.h"
#include "csrc/cpu/integers.h"
#include "csrc/cpu/parallel.h"
#include "csrc/cpu/scratch.h"

namespace convbound::cpu {

#if defined(__x86_64__)

namespace {

constexpr int64_t kSlabFloats = 12288;   // sums of a slab: 48 KiB, inside any second-level cache
constexpr int64_t kItems = 64;           // work items wanted, where there is work for as many
constexpr int64_t kItemWork = 1 << 19;   // multiply-adds below which an item is not worth its overhead,
constexpr int64_t kFewItems = 4;         // unless there were fewer than these,
constexpr int64_t kLeastWork = 1 << 16;  // which may be as small as this
constexpr int64_t kChunkOutputs = 256;   // outputs of a chunk, per channel, that pay for another set of sums

// One group of taps that a sweep takes.
struct Taps {
  const TapPass* pass;
  int64_t first, count;  // across the window
};

std::vector<Taps> group_taps(const WgradPlan& plan, bool one_by_one) {
  std::vector<Taps> groups;
  for (int64_t i = 0; i < plan.window.classes->pass_count; ++i) {
    const TapPass& pass = plan.window.classes->passes[i];
    const int64_t count = ceil_div(plan.across.taps, one_by_one ? 1 : kMostCrossTaps[pass.pattern]);
    for (int64_t j = 0; j < count; ++j) {
      const int64_t begin = plan.across.taps * j / count, end = plan.across.taps * (j + 1) / count;
      groups.push_back({&pass, begin, end - begin});
    }
  }
  return groups;
}

class Wgrad {
 public:
  Wgrad(const ConvProblem& problem, DType dtype, Layout layout, Isa isa, const Tensors& tensors)
      : p_(problem),
        dtype_(dtype),
        nchw_(layout == Layout::kChannelsFirst),
        tensors_(tensors),
        window_(problem, Pass::kWgrad, nchw_ ? 1 : 2) {
    const bool narrow = nchw_ && p_.output[2] <= 8;
    kernels_ = isa == Isa::kAvx2 ? &kDepthwiseWgradAvx2
               : narrow          ? &kDepthwiseWgradAvx512Narrow
                                 : &kDepthwiseWgradAvx512;
    vector_ = isa == Isa::kAvx512 && !narrow ? 16 : 8;
    make_plan();
    groups_ = group_taps(plan_, nchw_ && plan_.across.stride > 2);
    const Converters& converters = isa == Isa::kAvx512 ? kConvertAvx512 : kConvertAvx2;
    tiles_ = WgradTiles(p_, nchw_, vector_, tensors,
                        dtype == DType::kFloat16    ? &converters.fp16
                        : dtype == DType::kBFloat16 ? &converters.bf16
                                                    : nullptr);
    cut();
    tiles_.set_pitch(plan_);
  }

  void run() {
    const int64_t work = p_.n * p_.k * p_.output_size() * (p_.filter_size() + 8);
    const int64_t items = chunks_ * slabs_;
    const int64_t slots = std::clamp<int64_t>(work / 65536, 1, std::min<int64_t>(max_threads(), items));
    const int64_t sums_floats = plan_.sum_rows * vector_;
    const int64_t slot_floats = tiles_.memory_floats() + (nchw_ ? sums_floats : 0);
    partial_floats_ = nchw_ ? p_.k * plan_.sum_rows : panels_ * sums_floats;
    partial_ = allocate_scratch(chunks_ * partial_floats_);
    const Scratch memory = allocate_scratch(slots * slot_floats);
    parallel_for(slots, 1, [&](int64_t begin, int64_t end) {
      for (int64_t slot = begin; slot < end; ++slot) {
        float* own = memory.get() + slot * slot_floats;
        for (int64_t item = items * slot / slots; item < items * (slot + 1) / slots; ++item) {
          const int64_t slab = item % slabs_;
          float* partial = partial_.get() + item / slabs_ * partial_floats_;
          if (nchw_) {
            float* sums = own + tiles_.memory_floats();
            add_chunk(item / slabs_, slab, sums, own);
            kernels_->add_lanes(sums, plan_.sum_rows, partial + slab * plan_.sum_rows);
          } else {
            add_chunk(item / slabs_, slab, partial + slab * plan_.slab_panels * sums_floats, own);
          }
        }
      }
    });
    if (dtype_ == DType::kFloat32) add_chunks<float>();
    if (dtype_ == DType::kFloat16) add_chunks<Half>();
    if (dtype_ == DType::kBFloat16) add_chunks<BFloat16>();
  }

 private:
  PlainAxis plain_axis(int i) const {
    return {p_.input[i], p_.output[i], p_.filter[i], p_.stride[i], p_.padding[i], p_.dilation[i]};
  }

  void make_plan() {
    plan_.window = window_.axis;
    plan_.along = plain_axis(nchw_ ? 1 : 2);
    plan_.across = plain_axis(nchw_ ? 2 : 1);
    plan_.sum_window = nchw_ ? p_.filter[2] : 1;
    plan_.sum_cross = nchw_ ? 1 : p_.filter[2];
    plan_.sum_rows = p_.filter_size() + 1;
    plan_.k = p_.k;
    plan_.multiplier = p_.k / p_.c;
    panels_ = ceil_div(p_.k, vector_);
    if (nchw_) return;
    sources_.resize(static_cast<size_t>(panels_ * vector_));
    for (int64_t k = 0; k < panels_ * vector_; ++k) {
      sources_[k] = static_cast<int32_t>(k / plan_.multiplier - k / vector_ * vector_ / plan_.multiplier);
    }
    plan_.sources = sources_.data();
  }

  // Chunks of tiles, slabs of channels.
  void cut() {
    const int64_t outputs = p_.n * p_.output_size();
    const int64_t work = outputs * p_.k * p_.filter_size();
    const int64_t wanted = std::clamp(work / kItemWork, std::clamp<int64_t>(work / kLeastWork, 1, kFewItems), kItems);
    const int64_t most = std::clamp<int64_t>(outputs / kChunkOutputs, 1, tiles_.count());
    chunks_ = std::min(most, nchw_ ? ceil_div(wanted, p_.k) : wanted);
    if (nchw_) {
      slabs_ = p_.k;
      plan_.slab_panels = 1;
    } else {
      const int64_t largest = std::clamp<int64_t>(kSlabFloats / (plan_.sum_rows * vector_), 1, panels_);
      plan_.slab_panels = std::min(largest, ceil_div(panels_, ceil_div(wanted, chunks_)));
      slabs_ = ceil_div(panels_, plan_.slab_panels);
    }
  }

  // The sums of one chunk for one channel (NCHW) or slab (NHWC), written to `sums`.
  void add_chunk(int64_t chunk, int64_t slab, float* sums, float* memory) const {
    const int64_t begin = tiles_.count() * chunk / chunks_, end = tiles_.count() * (chunk + 1) / chunks_;
    const int64_t plane_taps = p_.filter[1] * p_.filter[2];
    const int64_t k = nchw_ ? slab : slab * plan_.slab_panels * vector_;
    WgradTile tiles[WgradTiles::kMost];
    WgradStep step{};
    step.tiles = tiles;
    for (int64_t first = begin; first < end; first += tiles_.together()) {
      const int64_t last = std::min(end, first + tiles_.together());
      step.fresh = first == begin;
      if (tensors_.bias != nullptr) {
        step.tile_count = tiles_.place(plan_, first, last, k, WgradTiles::kNoTap, memory, tiles);
        set_panels(step, slab);
        (nchw_ ? kernels_->nchw_bias : kernels_->nhwc_bias)(plan_, step, sums + p_.filter_size() * vector_);
      }
      for (int64_t t = 0; t < p_.filter[0]; ++t) {
        step.tile_count = tiles_.place(plan_, first, last, k, t, memory, tiles);
        if (step.tile_count > 0 || step.fresh) add_taps(step, slab, sums + t * plane_taps * vector_);
      }
    }
  }

  void set_panels(WgradStep& step, int64_t slab) const {
    step.panel = nchw_ ? 0 : slab * plan_.slab_panels;
    step.panel_end = nchw_ ? 1 : std::min(panels_, step.panel + plan_.slab_panels);
  }

  void add_taps(WgradStep& step, int64_t slab, float* sums) const {
    set_panels(step, slab);
    const int64_t begin = step.panel, end = step.panel_end;
    const int64_t together = std::min(tiles_.pass_panels(), end - begin);
    for (; step.panel < end; step.panel += together) {
      step.panel_end = std::min(end, step.panel + together);
      step.prefetch = tiles_.in_place() && (!nchw_ || p_.output[1] > 1);
      for (const Taps& taps : groups_) {
        step.pass = taps.pass;
        step.cross_tap = taps.first;
        step.cross_taps = taps.count;
        (nchw_ ? kernels_->nchw : kernels_->nhwc)(plan_, step, sums);
        step.prefetch = false;
      }
    }
  }

  // The chunks' sums, one after the other.
  template <typename T>
  void add_chunks() {
    const int64_t taps = p_.filter_size();
    T* const dw = static_cast<T*>(tensors_.w);
    T* const dbias = static_cast<T*>(tensors_.bias);
    parallel_for(p_.k, std::max<int64_t>(1, 16384 / (taps * chunks_)), [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const int64_t step = nchw_ ? 1 : vector_;
        const int64_t offset = nchw_ ? k * plan_.sum_rows : k / vector_ * plan_.sum_rows * vector_ + k % vector_;
        for (int64_t row = 0; row < (dbias == nullptr ? taps : taps + 1); ++row) {
          const float* from = partial_.get() + offset + row * step;
          float sum = from[0];
          for (int64_t chunk = 1; chunk < chunks_; ++chunk) sum += from[chunk * partial_floats_];
          (row < taps ? dw[k * taps + row] : dbias[k]) = T(sum);
        }
      }
    });
  }

  const ConvProblem& p_;
  DType dtype_;
  bool nchw_;
  const Tensors& tensors_;
  Window window_;
  const WgradKernels* kernels_;
  int64_t vector_;
  WgradPlan plan_{};
  std::vector<int32_t> sources_;
  std::vector<Taps> groups_;
  WgradTiles tiles_;
  int64_t panels_, chunks_, slabs_;
  int64_t partial_floats_;
  Scratch partial_;  // [chunk][k][sum_rows] (NCHW) or [chunk][panel][sum_rows][vector]
};

}  // namespace

bool depthwise_wgrad_supports(const ConvProblem& problem, DType dtype, Layout, Isa isa) {
  return isa != Isa::kGeneric && dtype != DType::kFloat64 && depthwise_axes_support(problem);
}

void depthwise_wgrad(const ConvProblem& problem, DType dtype, Layout layout, const Tensors& tensors) {
  Wgrad(problem, dtype, layout, isa(), tensors).run();
}

#else

bool depthwise_wgrad_supports(const ConvProblem&, DType, Layout, Isa) { return false; }
void depthwise_wgrad(const ConvProblem&, DType, Layout, const Tensors&) {}

#endif

}  // namespace convbound::cpu
