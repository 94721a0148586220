// The tiles of depthwise wgrad: how outputs are cut, and where a tile's x and dy lie.
#pragma once

#include "csrc/conv_problem.h"
#include "csrc/cpu/convert.h"
#include "csrc/cpu/depthwise_wgrad_plan.h"

namespace convbound::cpu {

class WgradTiles {
 public:
  static constexpr int64_t kMost = 16;   // tiles that share a pass
  static constexpr int64_t kNoTap = -1;  // along the depth: dy alone is wanted

  WgradTiles() = default;
  // vector: floats that a pass takes of a pixel in NHWC. convert: null for fp32, which is read in place.
  WgradTiles(const ConvProblem& problem, bool nchw, int64_t vector, const Tensors& tensors, const Converter* convert);

  // Puts the distances between rows and pixels into the plan, whose slabs are known by then.
  void set_pitch(WgradPlan& plan);

  bool in_place() const { return convert_ == nullptr; }
  int64_t count() const { return row_tiles_ * column_tiles_ * problem_->n * problem_->output[0]; }
  int64_t together() const { return together_; }        // tiles that share a pass
  int64_t pass_panels() const { return pass_panels_; }  // NHWC: panels whose tiles fit the first-level cache together
  int64_t memory_floats() const { return memory_floats_; }  // that place() needs: one thread's converted tiles

  // Describes tiles [first, last) as tap t along the depth meets them, from channel k on, those left out that it
  // misses, and returns how many there are.
  int64_t place(const WgradPlan& plan, int64_t first, int64_t last, int64_t k, int64_t t, float* memory,
                WgradTile* tiles) const;

 private:
  int64_t met(int axis, int64_t outputs) const;
  int64_t floats(int64_t rows, int64_t columns) const;

  const ConvProblem* problem_ = nullptr;
  bool nchw_ = true;
  int64_t vector_ = 0;
  const Tensors* tensors_ = nullptr;
  const Converter* convert_ = nullptr;
  int64_t tile_p_ = 0, tile_q_ = 0, row_tiles_ = 0, column_tiles_ = 0;
  int64_t together_ = 1, pass_panels_ = 1;
  int64_t x_floats_ = 0, memory_floats_ = 0;
  int64_t slab_c_ = 0, slab_k_ = 0;  // NHWC: channels that a converted pixel keeps
};

}  // namespace convbound::cpu
