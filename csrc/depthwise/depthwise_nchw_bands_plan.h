// How the bands kernel (depthwise_nchw_bands.h) shares planes out to blocks, warps and lanes. Host code.
#pragma once

#include <algorithm>

#include "csrc/common/integers.h"
#include "csrc/depthwise/depthwise_nchw.h"

namespace convbound::depthwise {

// Input and output of a block: several blocks have to fit on a multiprocessor. A few planes of up to 56 x 56 floats
// fit whole; larger planes are cut into bands.
constexpr int kBlockBytes = 28 * 1024;
// Until here a block takes more planes, to have more to do at once.
constexpr int kManyPlanesBytes = 20 * 1024;
// Warps of a block, as a rule; and where that many planes have to lie beside each other.
constexpr int kWarps = 4;
constexpr int kMostWarps = 8;
constexpr int kLanes = 32;

struct BandPlan {
  int columns;           // groups of outputs that one thread computes side by side, per row
  int band_rows, bands;  // rows of output in a block, and blocks for one plane
  int planes;            // per block and image; 1 where there are bands
  int images;            // per block, of the same channels
  int segments, lanes;   // a row wider than a warp is cut into segments of so many columns, one for each lane
  int slot_log2;         // lanes of a slot; a warp has 32 / slot planes
  int apart_log2;        // the planes of a warp lie this many planes apart, so that they fall on other banks
  int sets_log2;         // warps beside each other on further planes
  int threads;
  int x_bytes, w_bytes, y_bytes;  // of shared memory, x and y of each image, each with room for any address modulo 16

  int64_t shared_bytes() const { return images * (int64_t{x_bytes} + y_bytes) + w_bytes; }
};

// What a kernel instance is made for.
struct BandShape {
  int element, columns, strip, access;  // bytes; outputs of a thread along W and H; bytes of a shared load
};

// The most 4-byte words on one bank when lanes load what they share out so: 1 is ideal. Lanes with 8 bytes go by
// half-warps.
constexpr int bank_conflicts(int plane_bytes, int lane_bytes, int columns, int slot_log2, int apart, int access) {
  const int at_once = access == 8 ? kLanes / 2 : kLanes, per_lane = std::max(1, access / 4);
  int most = 1;
  for (int first = 0; first < kLanes; first += at_once) {
    int words[kLanes * 2] = {}, count = 0, on_bank[kLanes] = {};
    for (int i = 0; i < at_once; i++) {
      const int lane = first + i, column = lane & ((1 << slot_log2) - 1);
      if (column >= columns) continue;
      for (int k = 0; k < per_lane; k++) {
        words[count++] = ((lane >> slot_log2) * apart * plane_bytes + column * lane_bytes) / 4 + k;
      }
    }
    std::sort(words, words + count);
    count = static_cast<int>(std::unique(words, words + count) - words);
    for (int i = 0; i < count; i++) most = std::max(most, ++on_bank[words[i] % kLanes]);
  }
  return most;
}

// Bytes of a row of input, a row of output, and a whole plane of both.
struct PlaneBytes {
  int64_t in_row, out_row, whole;

  constexpr PlaneBytes(const ConvView& p, int element)
      : in_row(int64_t{p.w.input} * element),
        out_row(int64_t{p.w.output} * element),
        whole(p.h.input * in_row + p.h.output * out_row) {}
};

// Bands of a plane that is too large for a block, of as many strips as fit.
constexpr void cut_bands(BandPlan& plan, const ConvView& p, const BandShape& shape, const PlaneBytes& bytes) {
  plan.band_rows = p.h.output;
  plan.bands = 1;
  if (bytes.whole <= kBlockBytes) return;
  int rows = shape.strip;
  for (int more = rows + shape.strip; more < p.h.output; more += shape.strip) {
    const int64_t in_rows = std::min<int64_t>(p.h.input, (int64_t{more} - 1) * p.h.stride + p.h.filter);
    if (in_rows * bytes.in_row + more * bytes.out_row <= kBlockBytes) rows = more;
  }
  plan.bands = divide_up(p.h.output, rows);
  plan.band_rows = round_up(divide_up(p.h.output, plan.bands), shape.strip);
  plan.bands = divide_up(p.h.output, plan.band_rows);
}

// Planes of a block: as many as a warp has slots for, more where that saves bank conflicts or fills the warps.
constexpr void take_planes(BandPlan& plan, const ConvView& p, const BandShape& shape, const PlaneBytes& bytes) {
  plan.slot_log2 = log2_up(plan.columns);
  const int groups = kLanes >> plan.slot_log2, strips = divide_up(plan.band_rows, shape.strip);
  const auto conflicts = [&](int apart) {
    return bank_conflicts(static_cast<int>(p.h.input * bytes.in_row), shape.columns * p.w.stride * shape.element,
                          plan.columns, plan.slot_log2, apart, shape.access) +
           bank_conflicts(static_cast<int>(p.h.output * bytes.out_row), shape.columns * shape.element, plan.columns,
                          plan.slot_log2, apart, shape.columns == 2 ? shape.access : shape.element);
  };
  int fewest = conflicts(1);
  for (int log2 = 1; log2 < 4; log2++) {
    const int found = conflicts(1 << log2);
    if (found < fewest && (groups << log2) * bytes.whole <= kBlockBytes) {
      fewest = found;
      plan.apart_log2 = log2;
    }
  }
  plan.planes = groups << plan.apart_log2;
  constexpr int kTooMany = kWarps / 2 + 1;  // warps, to have twice as many
  for (int warps = strips << plan.apart_log2; warps < kTooMany; warps *= 2) {
    if (2 * plan.planes * bytes.whole <= kManyPlanesBytes) {
      plan.sets_log2++;
      plan.planes *= 2;
    }
  }
  const int plane_warps = 1 << (plan.apart_log2 + plan.sets_log2);
  const int passes = divide_up(strips, std::max(1, kWarps / plane_warps));
  plan.threads = plane_warps * divide_up(strips, passes) * kLanes;
}

constexpr BandPlan plan_bands(const ConvView& p, const BandShape& shape) {
  BandPlan plan{};
  const PlaneBytes bytes(p, shape.element);
  cut_bands(plan, p, shape, bytes);
  plan.columns = divide_up(p.w.output, shape.columns);
  plan.segments = divide_up(plan.columns, kLanes);
  plan.lanes = divide_up(plan.columns, plan.segments);
  if (plan.bands > 1 || plan.segments > 1) {
    const int units = divide_up(plan.band_rows, shape.strip) * plan.segments;
    plan.planes = 1;
    plan.slot_log2 = 5;
    plan.threads = divide_up(units, divide_up(units, kWarps)) * kLanes;
  } else {
    take_planes(plan, p, shape, bytes);
  }
  // Filters of more than a fifth of the planes' size are read once for two images.
  const int planes_size = p.h.input * p.w.input + p.h.output * p.w.output;
  const bool large_filter = plan.bands == 1 && 5 * p.h.filter * p.w.filter > planes_size;
  const bool even_groups = p.outputs == 1 && p.out_channels() % plan.planes == 0 && p.images > 1;
  plan.images = large_filter && even_groups && 2 * plan.planes * bytes.whole <= kBlockBytes ? 2 : 1;

  const auto padded = [&](int64_t elements) {
    return static_cast<int>(std::min<int64_t>((elements * shape.element + 31) / 16 * 16, 1 << 30));
  };
  const int x_planes = p.outputs == 1 ? plan.planes : (plan.planes - 1) / p.outputs + 2;
  const int64_t in_rows = plan.bands == 1 ? p.h.input : (plan.band_rows - 1) * int64_t{p.h.stride} + p.h.filter;
  plan.x_bytes = padded(x_planes * std::min<int64_t>(p.h.input, in_rows) * p.w.input);
  plan.w_bytes = padded(int64_t{plan.planes} * p.h.filter * p.w.filter);
  plan.y_bytes = padded(int64_t{plan.planes} * plan.band_rows * p.w.output);
  return plan;
}

inline LaunchShape bands_shape(const ConvView& p, const BandPlan& plan) {
  return {.grid_x = plan.images == 1 ? divide_up(planes_of(p), plan.planes) * plan.bands
                                     : divide_up(p.images, plan.images) * (p.out_channels() / plan.planes),
          .block_x = plan.threads,
          .shared_bytes = static_cast<size_t>(plan.shared_bytes())};
}

}  // namespace convbound::depthwise
