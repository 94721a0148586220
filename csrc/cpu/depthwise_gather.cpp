// Depthwise fprop and dgrad, in two dimensions (three sum over planes, one is a plane of height 1):
//
//   y[n,k,p,q]  = bias[k] + sum over r,s   of x[n, k / multiplier, p * stride + r * dilation - padding, ...] * w[k,r,s]
//   dx[n,c,h,w] = bias[c] + sum over k,r,s of dy[n, k, (h + padding - r * dilation) / stride, ...] * w[k,r,s]
//
// as one chain of fused multiply-adds per output; both gather, see depthwise_axes.h. Below, x is what is read and y
// what is written. dgrad's positions fall into stride classes along each axis, each a stride-1 convolution with a part
// of the taps: no zeros are inserted and no division is left in the loops.
//
// Bounds. Compulsory traffic is 4 (N C H W + N K P Q) bytes and the filter; the floor of arithmetic is N K P Q R S
// fused multiply-adds. At 3 x 3 that is 2.25 flop per byte, so it is bound by memory on anything; two AVX-512 cores at
// 110 Gflop/s each with 25 to 50 GB/s between them turn to arithmetic at about 5 x 5.
//
// Register blocks. A block is 7 outputs along the window axis times a vector across it. NCHW: 7 rows, vectors along W;
// NHWC: 7 pixels along W, vectors along C. Taps are held in registers in chunks of up to 7, and every operand is loaded
// once per chunk and serves all the outputs that meet it: (7 + J - 1) operands and J taps for 7 J multiply-adds, 4/7 of
// a load each at J = 3 and 20/49 at J = 7, where the load ports allow one. 7 sums, 7 taps and an operand are 15
// registers, which is what AVX2 has; 7 sums also cover the latency of a multiply-add (4 cycles, 2 a cycle, over two
// steps), and 7 divides 7, 14, 28, 56 and 112. AVX-512 sets two vectors side by side in NCHW. Strides and dilations
// along the window axis cost nothing: outputs that are dilation / gcd apart and taps that are stride / gcd apart form
// the same dense pattern (see WindowAxis).
//
// Edges. Along the window axis, coordinates outside the input are skipped (blocks near an edge test each coordinate),
// so padding is not multiplied there: at 7 x 7 on a 7 x 7 image that is half the work. Across it, NCHW masks the vector
// loads, so x is read in place, nothing is padded or copied, and no byte outside x is touched. NHWC has no edge there
// but the last channels, which are masked too. With a stride of 2 along W, NCHW loads two vectors and keeps the even
// lanes; with larger ones it gathers, which is slow. dgrad reads with stride 1 there, and interleaves its classes of
// columns at the end.
//
// What is read and written. Every row of x comes from memory once: NCHW meets it again in R - 1 rows of the next block
// (1.3 times from the cache at 3 x 3), NHWC R times, with R rows of W C floats wanted in the second-level cache. Blocks
// hop between rows, which hardware prefetchers lose track of (2 to 4 times slower from memory), so the loops prefetch x
// in the order of its addresses. NHWC copies the filter to one [R S][vector] panel per vector of channels.
//
// 16-bit types. The inputs of a tile are converted to fp32 first, and its outputs at the end, a block at a time: twice
// the loads of a kernel that converts in registers, but from the nearest caches, and all the rest is one code.
//
// Streaming. Above a third of the last-level cache, outputs would evict the inputs, and each line would be fetched
// before it is overwritten; layers that read y next gain less from finding it there (measured with a ReLU after a
// 3 x 3: even at a third, 1.3 times as fast at half of the cache). So outputs leave by non-temporal stores: in NHWC out
// of the registers, where these are lines of memory, else in order from a small stage to which blocks go first.
#include "csrc/cpu/depthwise_gather.h"

#include <algorithm>
#include <cstring>
#include <fstream>

#include "csrc/cpu/depthwise_gather_plan.h"
#include "csrc/cpu/depthwise_window.h"
#include "csrc/cpu/integers.h"
#include "csrc/cpu/parallel.h"
#include "csrc/cpu/scratch.h"

namespace convbound::cpu {

#if defined(__x86_64__)

namespace {

constexpr int64_t kBlock = 7;               // rows (NHWC: pixels) per register block
constexpr int64_t kLongestRow = 4096;       // 1-D: longer rows are several work items
constexpr int64_t kLargestStage = 16384;    // floats: 64 KiB per thread, inside any second-level cache
constexpr int64_t kLargestInput = 1 << 16;  // likewise, of converted inputs
constexpr int64_t kStreamShare = 3;         // of the last-level cache: x and y together may take one part of so many
constexpr int64_t kMostClasses = 64;        // NCHW, dgrad: strides along W

// Of one of the processor's last-level caches, in bytes; 0 where the system does not tell.
int64_t read_last_level_cache() {
  // Not sysconf: C libraries have answered with the sum over all of a processor's.
  std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index3/size");
  int64_t size = 0;
  char unit = ' ';
  file >> size >> unit;
  return unit == 'K' ? size << 10 : unit == 'M' ? size << 20 : 0;
}

int64_t last_level_cache() {
  constexpr int64_t kUsual = int64_t{32} << 20;
  static const int64_t bytes = read_last_level_cache();
  return bytes > 0 ? bytes : kUsual;
}

class Gather {
 public:
  Gather(const ConvProblem& problem, Pass pass, DType dtype, Layout layout, Isa isa, const Tensors& tensors)
      : p_(problem),
        dgrad_(pass == Pass::kDgrad),
        nchw_(layout == Layout::kChannelsFirst),
        isa_(isa),
        window_(problem, pass, nchw_ ? 1 : 2),
        cross_(problem, pass, nchw_ ? 2 : 1),
        depth_(problem, pass, 0),
        threads_(max_threads()) {
    const Converters& converters = isa == Isa::kAvx512 ? kConvertAvx512 : kConvertAvx2;
    plan_.convert = dtype == DType::kFloat16    ? &converters.fp16
                    : dtype == DType::kBFloat16 ? &converters.bf16
                                                : nullptr;
    plan_.element_bytes = plan_.convert == nullptr ? 4 : 2;
    plan_.x = dgrad_ ? tensors.y : tensors.x;
    plan_.y = dgrad_ ? tensors.x : tensors.y;
    plan_.n = p_.n;
    plan_.in_channels = dgrad_ ? p_.k : p_.c;
    plan_.out_channels = dgrad_ ? p_.c : p_.k;
    plan_.fan = dgrad_ ? p_.k / p_.c : 1;
    plan_.share = dgrad_ ? 1 : p_.k / p_.c;
    std::copy(p_.filter, p_.filter + 3, plan_.filter);
    plan_.window = window_.axis;
    plan_.cross = cross_.axis;
    plan_.depth = depth_.axis;
    plan_.rows_met = make_reach(problem, pass, 1);
    plan_.columns_met = make_reach(problem, pass, 2);
    plan_.vector = isa == Isa::kAvx512 ? 16 : 8;
    plan_.panels = ceil_div(plan_.out_channels, plan_.vector);
    cut();
    pack(tensors.w, tensors.bias);
  }

  void run() const {
    // More threads than this would each do less than the time it takes to wake one.
    const int64_t work = p_.n * std::max(p_.k * p_.output_size() * (p_.filter_size() + 8), p_.c * p_.input_size() * 8);
    const int64_t slots = std::clamp<int64_t>(work / 65536, 1, std::min(threads_, plan_.items));
    const int64_t list_floats = round_up(list_rows() * kListBytes / 4, 16);
    const int64_t floats = list_floats + plan_.input_floats + plan_.tile_floats + plan_.stage_floats;
    const Scratch scratch = allocate_scratch(slots * floats);
    const GatherKernels& kernels = isa_ == Isa::kAvx512 ? kDepthwiseGatherAvx512 : kDepthwiseGatherAvx2;
    const GatherRange range = nchw_ ? kernels.nchw : kernels.nhwc;
    parallel_for(slots, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        float* own = scratch.get() + i * floats;
        float* input = own + list_floats;
        float* tile = input + plan_.input_floats;
        range(plan_, plan_.items * i / slots, plan_.items * (i + 1) / slots,
              {own, input, tile, tile + plan_.tile_floats});
      }
    });
  }

 private:
  int64_t list_rows() const { return std::max<int64_t>(1, plan_.fan * p_.filter[0] * (nchw_ ? 1 : p_.filter[1])); }

  // Inputs along an axis that so many outputs meet, at most.
  static int64_t inputs(const Reach& reach, int64_t outputs, int64_t in) {
    const int64_t between = (outputs - 1) * reach.rise + reach.high - reach.low;
    return std::min(in, ceil_div(between, reach.run) + 1);
  }

  int64_t p_count() const { return nchw_ ? plan_.window.out : plan_.cross.out; }
  int64_t q_count() const { return nchw_ ? plan_.cross.out : plan_.window.out; }

  // Floats of a tile's inputs, where they are converted.
  int64_t input_floats() const {
    const int64_t h = inputs(plan_.rows_met, plan_.tile_p, nchw_ ? plan_.window.in : plan_.cross.in);
    const int64_t w = inputs(plan_.columns_met, plan_.tile_q, nchw_ ? plan_.cross.in : plan_.window.in);
    const int64_t taps = plan_.filter[0];
    const int64_t d = nchw_ ? std::min(plan_.depth.in, taps)
                            : std::min(plan_.depth.in, (taps - 1) * std::abs(plan_.depth.tap_jump) + 1);
    return h * w * d * (nchw_ ? plan_.fan : plan_.in_channels) + (nchw_ ? 0 : plan_.in_channels);
  }

  // Halves a tile along one axis until `fits` or it is a block; parts are whole register blocks.
  template <class Fits>
  static void halve(int64_t& tile, int64_t unit, const Fits& fits) {
    while (tile > unit && !fits()) tile = std::max(unit, round_up(ceil_div(tile, 2), unit));
  }

  void cut() {
    const int64_t out = plan_.n * plan_.depth.out * (nchw_ ? plan_.out_channels : 1);
    const bool converted = plan_.convert != nullptr || (!nchw_ && plan_.fan > 1);
    const int64_t classes = nchw_ ? plan_.cross.out_step : 1;
    const auto enough = [&] {
      return out * ceil_div(p_count(), plan_.tile_p) * ceil_div(q_count(), plan_.tile_q) >= 4 * threads_;
    };
    const auto small = [&] { return !converted || input_floats() <= kLargestInput; };
    plan_.tile_p = nchw_ || converted ? p_count() : 1;
    plan_.tile_q = q_count();
    if (nchw_ && p_count() == 1) plan_.tile_q = std::min(q_count(), round_up(kLongestRow, classes));
    if (nchw_) {
      halve(plan_.tile_p, kBlock, [&] { return enough() && small() && group() * plan_.tile_q <= kLargestStage; });
    } else {
      halve(plan_.tile_p, 1, [&] { return enough() && small(); });
      if (converted) halve(plan_.tile_q, kBlock, small);
      if (plan_.tile_p == 1) halve(plan_.tile_q, kBlock, enough);
    }
    plan_.tile_p = std::min(plan_.tile_p, p_count());
    plan_.tile_q = std::min(plan_.tile_q, q_count());
    plan_.row_tiles = ceil_div(p_count(), plan_.tile_p);
    plan_.column_tiles = ceil_div(q_count(), plan_.tile_q);
    plan_.items = out * plan_.row_tiles * plan_.column_tiles;
    plan_.x_unit = nchw_ ? 1 : converted ? plan_.in_channels / plan_.fan : plan_.in_channels;
    const int64_t columns = nchw_ ? plan_.cross.in : plan_.window.in;
    plan_.x_row = plan_.x_unit * (converted ? inputs(plan_.columns_met, plan_.tile_q, columns) : columns);
    plan_.input_floats = converted ? round_up(input_floats(), 16) : 0;
    plan_.group = group();
    plan_.class_row = classes == 1 ? 0 : ceil_div(plan_.tile_q, classes);
    reserve();
  }

  // Outputs that are finished together: a register block of each class, for the classes interleave.
  int64_t group() const { return std::min(kBlock * plan_.window.out_step, nchw_ ? plan_.tile_p : plan_.tile_q); }

  // Whether all outputs leave registers once, as vectors that are lines of memory.
  bool whole_vectors() const {
    const WindowAxis& axis = plan_.window;
    const auto once = [](const WindowClass& taps) { return taps.pass_count == 1; };
    return !nchw_ && plan_.share == 1 && plan_.out_channels % plan_.vector == 0 &&
           reinterpret_cast<uintptr_t>(plan_.y) % (4 * static_cast<uintptr_t>(plan_.vector)) == 0 &&
           std::all_of(axis.classes, axis.classes + axis.out_step, once);
  }

  // Room for the outputs that wait, and a stage for streaming stores, where outputs are large enough to be worth it.
  void reserve() {
    const int64_t classes = nchw_ ? plan_.cross.out_step : 1;
    const int64_t row = nchw_ ? std::max(plan_.tile_q, plan_.class_row * classes) : plan_.out_channels;
    if (plan_.convert != nullptr || plan_.class_row > 0) {
      plan_.tile_floats = round_up(plan_.group * row + plan_.tile_q + 2 * plan_.vector, 16);
    }
    const int64_t floats = round_up((plan_.class_row > 0 ? 1 : plan_.group) * row + 2 * plan_.vector, 16);
    const int64_t bytes = 4 * (p_.n * p_.c * p_.input_size() + p_.n * p_.k * p_.output_size());
    const bool streams = plan_.convert == nullptr && bytes > last_level_cache() / kStreamShare;
    plan_.streams_vectors = streams && whole_vectors();
    const bool in_order = nchw_ || plan_.tile_p == 1 || plan_.tile_q == q_count();
    const bool staged = streams && !plan_.streams_vectors && in_order && floats <= kLargestStage;
    plan_.stage_floats = staged ? floats : 0;
  }

  void pack(const void* w, const void* bias) {
    const int64_t taps = p_.filter_size();
    const auto widened = [&](const void* from, int64_t count, Scratch& to) {
      if (plan_.convert == nullptr || from == nullptr) return static_cast<const float*>(from);
      to = allocate_scratch(count);
      plan_.convert->widen(from, to.get(), count);
      return static_cast<const float*>(to.get());
    };
    plan_.w = widened(w, p_.k * taps, w_);
    plan_.bias = widened(bias, plan_.out_channels, bias_);
    if (!nchw_) pack_panels();
  }

  void pack_panels() {
    const int64_t taps = p_.filter_size(), width = plan_.vector, fan = plan_.fan;
    const int64_t panel_floats = (fan * taps + 2) * width;
    packed_ = allocate_scratch(plan_.panels * panel_floats);
    parallel_for(plan_.panels, std::max<int64_t>(1, 16384 / panel_floats), [&](int64_t begin, int64_t end) {
      for (int64_t panel = begin; panel < end; ++panel) {
        float* out = packed_.get() + panel * panel_floats;
        const int64_t k0 = panel * width;
        const int64_t lanes = std::min(width, plan_.out_channels - k0);
        if (lanes < width) std::memset(out, 0, static_cast<size_t>(panel_floats) * sizeof(float));
        for (int64_t i = 0; i < fan * taps; ++i, out += width) {
          const float* from = plan_.w + (k0 * fan + i / taps) * taps + i % taps;
          for (int64_t lane = 0; lane < lanes; ++lane) out[lane] = from[lane * fan * taps];
        }
        for (int64_t lane = 0; lane < lanes; ++lane) out[lane] = plan_.bias == nullptr ? 0.0f : plan_.bias[k0 + lane];
        out += width;
        for (int64_t lane = 0; lane < lanes; ++lane) {
          const int32_t source = static_cast<int32_t>((k0 + lane) / plan_.share - k0 / plan_.share);
          std::memcpy(out + lane, &source, sizeof(source));
        }
      }
    });
    plan_.w = packed_.get();
  }

  const ConvProblem& p_;
  bool dgrad_, nchw_;
  Isa isa_;
  Window window_;
  Cross cross_, depth_;
  int64_t threads_;
  GatherPlan plan_{};
  Scratch w_, bias_, packed_;
};

bool gathers(const ConvProblem& problem, DType dtype, Isa isa) {
  return isa != Isa::kGeneric && dtype != DType::kFloat64 && depthwise_axes_support(problem);
}

}  // namespace

bool depthwise_fprop_supports(const ConvProblem& problem, DType dtype, Layout, Isa isa) {
  return gathers(problem, dtype, isa);
}

void depthwise_fprop(const ConvProblem& problem, DType dtype, Layout layout, const Tensors& tensors) {
  Gather(problem, Pass::kFprop, dtype, layout, isa(), tensors).run();
}

bool depthwise_dgrad_supports(const ConvProblem& problem, DType dtype, Layout layout, Isa isa) {
  return gathers(problem, dtype, isa) && (layout == Layout::kChannelsLast || problem.stride[2] <= kMostClasses);
}

void depthwise_dgrad(const ConvProblem& problem, DType dtype, Layout layout, const Tensors& tensors) {
  Gather(problem, Pass::kDgrad, dtype, layout, isa(), tensors).run();
}

#else

bool depthwise_fprop_supports(const ConvProblem&, DType, Layout, Isa) { return false; }
void depthwise_fprop(const ConvProblem&, DType, Layout, const Tensors&) {}
bool depthwise_dgrad_supports(const ConvProblem&, DType, Layout, Isa) { return false; }
void depthwise_dgrad(const ConvProblem&, DType, Layout, const Tensors&) {}

#endif

}  // namespace convbound::cpu
