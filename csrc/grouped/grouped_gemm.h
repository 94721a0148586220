// grouped_fprop_nhwc_gemm and grouped_dgrad_nhwc_gemm: an implicit GEMM for every convolution in NHWC, of 1 to 3
// dimensions, any groups, stride, dilation and padding.
//
//   out[position, k] = sum over (tap, c) of in[position * stride + tap * dilation - padding, c] * w[k, tap, c]
//
// is a matrix product for each group: its rows are the output positions of all images, its columns the channels of the
// group that are written, its depth all (tap, channel). The matrix of inputs is never made. A row of it is known by
// the coordinates of its first tap, and a tap is the same distance for all rows.
//
// dgrad is the same with dy as its input. With a stride, the outputs of one phase meet the same taps
// (csrc/common/phases.h), so a block belongs to one phase. A filter as wide as its stride has one tap in each phase: a
// plain GEMM, whose rows are stored apart. Phases without taps write the bias, or zeros. In fprop without padding the
// taps of a row are one run of memory, and become one tap (taps_are_neighbours()).
//
// A block has a tile of positions and channels, and walks the depth in steps of 64 bytes: 4 granules of 16. A granule
// belongs to one tap, so that C/g is filled up to a multiple of 8 channels (fp32: 4) and no further. Steps come by
// cp.async, 3 or 4 stages. A thread copies the same granule of several rows. It goes from granule to granule; only
// where that brings a new tap it looks up its rows' coordinates and finds out which of them meet the input. No
// division, no list of taps. Shared memory is swizzled: copies, ldmatrix and the tile of outputs have no bank conflicts
// (dgrad's filter in narrow tiles: 2 lanes a bank). Outputs leave as 16-byte stores. Where channels of a group are no
// multiple of a granule, or tensors no multiple of 16 bytes, single elements are copied, through registers: right, but
// each step waits for them.
//
// Floor: 2 * taps * C/g FLOP per output; tensors once. From L2 a block reads the input once per tap:
//
//   tile (16 bits)              128x128   256x64   128x32   128x16
//   FLOP per byte from L2           64       51       26       14
//   bytes in flight, sm_80       96 KB    80 KB   120 KB   108 KB
//   shared wavefronts per mma      1.5      1.6      3.3      5.5     in the loop, copies included
//   instructions per step, fprop   159      177       94       90     sm_80, within a tap
//   of them HMMA                  40 %     36 %     17 %      9 %
//   instructions per step, dgrad   172      166       99       92
//
// fp32 has tiles of 128x64 and 128x16. In the inner loop of the wide one FFMA are 83 % of the instructions (fprop) and
// 78 % (dgrad), with one load of 16 bytes for 16 of them.
//
// Four warps of 128x128 give the tensor cores of an A100 512 cycles of work in a step, shared memory 384, the
// schedulers 159: tensor cores bind. On an H100, and for fewer channels, L2 does. Positions of groups with 32 channels
// and less are read from L2 once per tap; a kernel that keeps their halo in shared memory would read them once.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "csrc/common/shared.h"
#include "csrc/common/via_nhwc.h"
#include "csrc/grouped/grouped_gemm_copies.h"

namespace convbound::grouped {

// Writes a tile of outputs from shared memory, 16 bytes at a time where they lie at boundaries.
template <typename T, GemmTile kTile>
__device__ __forceinline__ void store_tile(const GemmParams<T>& params, const GemmRow* rows, const T* tile,
                                           int channels) {
  constexpr int kElements = kVectorElements<T>, kGranules = kTile.columns / kElements;
  constexpr int kSteps = kTile.rows * kGranules / kGemmThreads;
#pragma unroll 4
  for (int step = 0; step < kSteps; step++) {
    const int item = step * kGemmThreads + static_cast<int>(threadIdx.x);
    const int row = item / kGranules, channel = item % kGranules * kElements;
    const int64_t offset = rows[row].out;
    if (offset < 0 || channel >= channels) continue;
    T* const to = params.out + offset + channel;
    const T* const from = tile + swizzled<T, kGranules>(row, item % kGranules);
    if (params.out_vectors) {
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
    } else {
#pragma unroll
      for (int i = 0; i < kElements; i++) {
        if (channel + i < channels) to[i] = from[i];
      }
    }
  }
}

// Products multiplies the stages of a block: GemmMma or GemmFma.
template <typename T, Pass kPass, typename Products>
__global__ void __launch_bounds__(kGemmThreads, Products::kBlocks)
    grouped_gemm(const __grid_constant__ GemmParams<T> params) {
  constexpr GemmTile kTile = Products::kTile;
  constexpr int kStages = Products::kStages, kAhead = kStages - 1, kRows = kTile.rows;
  using Copies = GemmCopies<T, kPass, kTile>;
  const GemmShape& shape = params.shape;
  const GemmBlock<kPass> block(shape, kTile);
  if (block.first_position >= block.positions(shape)) return;
  GemmRow* const rows = dynamic_shared<GemmRow>();
  T* const stages = reinterpret_cast<T*>(rows + kRows);
  for (int row = static_cast<int>(threadIdx.x); row < kRows; row += kGemmThreads) rows[row] = row_of(block, shape, row);
  __syncthreads();

  Copies copies(params, block, rows);
  const int channels = min(shape.outputs - block.first_channel, kTile.columns);
  const T* const bias =
      params.bias == nullptr ? nullptr : params.bias + int64_t{block.group} * shape.outputs + block.first_channel;
  Products products(bias, channels);
  const int steps = (block.taps() * shape.granules + kGemmGranules - 1) / kGemmGranules;
#pragma unroll
  for (int stage = 0; stage < kAhead; stage++) {
    if (stage < steps) copies.copy(stages + stage * Copies::kStageElements);
    ptx::cp_async_commit();
  }
  int stage = 0;
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    ptx::cp_async_wait<kAhead - 1>();
    __syncthreads();  // the stage is there for all, and all have done with the one before it
    if (step + kAhead < steps) {
      copies.copy(stages + (stage == 0 ? kAhead : stage - 1) * Copies::kStageElements);
    }
    ptx::cp_async_commit();
    const T* const in = stages + stage * Copies::kStageElements;
    products.add(in, in + Copies::kInElements);
    stage = stage == kAhead ? 0 : stage + 1;
  }
  __syncthreads();
  products.stage(stages);
  __syncthreads();
  store_tile<T, kTile>(params, rows, stages, channels);
}

// The bytes of shared memory: rows, and stages that are later the tile of outputs.
template <typename T, typename Products>
constexpr size_t gemm_shared_bytes() {
  constexpr GemmTile kTile = Products::kTile;
  constexpr size_t kStages = Products::kStages * (kTile.rows + kTile.columns) * kGemmGranules * kVectorBytes;
  return kTile.rows * sizeof(GemmRow) + std::max(kStages, kTile.rows * kTile.columns * sizeof(T));
}

template <typename T>
using GemmKernel = void (*)(GemmParams<T>);

// The plan of a row, with the best of the tiles.
template <typename T, Pass kPass, template <typename, Pass, GemmTile> typename Products, GemmTile... kTiles>
LaunchPlan plan_gemm_row(const KernelRow& row, const ConvProblem& problem, const Device& device) {
  if (std::string reason = gemm_refuses(kPass, problem); !reason.empty()) return refuse(std::move(reason));
  const GemmPlan gemm = plan_gemm(kPass, problem, device, {kTiles...});
  const GemmShape shape = gemm_shape(kPass, problem, kVectorElements<T>, gemm.tile.columns);
  LaunchShape launch_shape{.grid_x = gemm.blocks, .block_x = kGemmThreads};
  GemmKernel<T> kernel = nullptr;
  const auto choose = [&]<GemmTile kTile> {
    if (kTile.columns != gemm.tile.columns) return;
    kernel = grouped_gemm<T, kPass, Products<T, kPass, kTile>>;
    launch_shape.shared_bytes = gemm_shared_bytes<T, Products<T, kPass, kTile>>();
  };
  (choose.template operator()<kTiles>(), ...);
  return plan_launch_of(row, kernel, launch_shape, [shape](const Tensors& t) {
    GemmParams<T> params = with_tensors(GemmParams<T>{{}, shape, false, false}, kPass, t);
    params.copy_vectors = shape.whole && at_boundary(params.in) && at_boundary(params.filter);
    params.out_vectors = shape.outputs % kVectorElements<T> == 0 && at_boundary(params.out);
    return params;
  });
}

// The rows for a type of element.
template <typename T, template <typename, Pass, GemmTile> typename Products, GemmTile... kTiles>
KernelRows gemm_rows(int min_arch, bool tensor_cores) {
  std::string tile;
  for (const GemmTile& t : {kTiles...}) {
    tile += std::to_string(t.rows) + " positions x " + std::to_string(t.columns) + " channels, or ";
  }
  tile.resize(tile.size() - 5);
  KernelRow fprop{.name = "grouped_fprop_nhwc_gemm",
                  .family = Family::kGrouped,
                  .pass = Pass::kFprop,
                  .dtype = kDTypeOf<T>,
                  .layout = Layout::kChannelsLast,
                  .min_arch = min_arch,
                  .tensor_cores = tensor_cores,
                  .tile = tile + "; " + std::to_string(kGemmGranules * kVectorElements<T>) + " deep",
                  .plan = plan_gemm_row<T, Pass::kFprop, Products, kTiles...>};
  KernelRows rows = with_dgrad(fprop, "grouped_dgrad_nhwc_gemm");
  rows[1].plan = plan_gemm_row<T, Pass::kDgrad, Products, kTiles...>;
  rows.push_back(via_nhwc<T, plan_gemm_row<T, Pass::kFprop, Products, kTiles...>>(rows[0], "grouped_fprop_nchw_gemm"));
  rows.push_back(via_nhwc<T, plan_gemm_row<T, Pass::kDgrad, Products, kTiles...>>(rows[1], "grouped_dgrad_nchw_gemm"));
  return rows;
}

}  // namespace convbound::grouped
