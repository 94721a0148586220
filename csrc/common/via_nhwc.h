// NCHW rows that an NHWC kernel serves: what is read is copied to NHWC first, what is written is copied back.
//
// Tensor cores want the channels of a position side by side: `ldmatrix` reads 8 of them as 16 bytes, and a row of NCHW
// cannot start at any column. Traffic: each tensor is read once and written once more than the kernel does by itself,
// so a kernel at the floor takes three times the compulsory traffic. That suits kernels that arithmetic binds. Copies
// that would move nothing, of a tensor with one channel or one position, are left out.
//
// Per element the copy is one load and one store of shared memory and of global memory, about as many slots as a copy
// at DRAM speed leaves free. Both sides move whole sectors where rows are aligned.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <string>
#include <utility>

#include "csrc/common/divisor.h"
#include "csrc/common/integers.h"
#include "csrc/common/kernel.h"
#include "csrc/common/shared.h"

namespace convbound {

constexpr int kRelayoutTile = 32, kRelayoutRows = 8;  // threads: a tile's width, by so many rows

// [outer][rows][columns] -> [outer][columns][rows]
template <typename T>
struct RelayoutParams {
  const T* from;
  T* to;
  int64_t rows, columns;
  Divisor row_tiles, column_tiles;
};

template <typename T>
__global__ void __launch_bounds__(kRelayoutTile* kRelayoutRows, 8)
    relayout_kernel(const __grid_constant__ RelayoutParams<T> params) {
  constexpr int kPitch = kRelayoutTile + 1, kSteps = kRelayoutTile / kRelayoutRows;
  T* const tile = dynamic_shared<T>();
  int64_t outer = blockIdx.x;
  const int64_t column = int64_t{take(outer, params.column_tiles)} * kRelayoutTile;
  const int64_t row = int64_t{take(outer, params.row_tiles)} * kRelayoutTile;
  const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const T* const from = params.from + (outer * params.rows + row) * params.columns + column;
  T* const to = params.to + (outer * params.columns + column) * params.rows + row;
#pragma unroll
  for (int i = 0; i < kSteps; i++) {
    const int r = y + i * kRelayoutRows;
    if (row + r < params.rows && column + x < params.columns) tile[r * kPitch + x] = from[r * params.columns + x];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kSteps; i++) {
    const int c = y + i * kRelayoutRows;
    if (column + c < params.columns && row + x < params.rows) to[c * params.rows + x] = tile[x * kPitch + c];
  }
}

// A tensor of [outer][channels][positions] in NCHW, and where its copy lies in the workspace.
struct Relayout {
  int64_t outer, channels, positions;

  bool same() const { return channels == 1 || positions == 1; }
  int64_t elements() const { return outer * channels * positions; }

  template <typename T>
  size_t bytes() const {
    return same() ? 0 : static_cast<size_t>(round_up(elements() * static_cast<int64_t>(sizeof(T)), 16));
  }

  template <typename T>
  void copy(const std::string& name, const void* from, void* to, bool to_nhwc, cudaStream_t stream) const {
    if (same() || from == nullptr) return;
    const int64_t rows = to_nhwc ? channels : positions, columns = to_nhwc ? positions : channels;
    const int64_t row_tiles = divide_up(rows, kRelayoutTile), column_tiles = divide_up(columns, kRelayoutTile);
    const RelayoutParams<T> params{static_cast<const T*>(from), static_cast<T*>(to),  rows, columns,
                                   Divisor(row_tiles),          Divisor(column_tiles)};
    launch(name.c_str(), relayout_kernel<T>,
           {.grid_x = outer * row_tiles * column_tiles,
            .block_x = kRelayoutTile,
            .block_y = kRelayoutRows,
            .shared_bytes = kRelayoutTile * (kRelayoutTile + 1) * sizeof(T)},
           stream, params);
  }
};

template <typename T, LaunchPlan (*kNhwcPlan)(const KernelRow&, const ConvProblem&, const Device&)>
LaunchPlan plan_via_nhwc(const KernelRow& row, const ConvProblem& p, const Device& device) {
  LaunchPlan nhwc = kNhwcPlan(row, p, device);
  if (!nhwc.refusal.empty()) return nhwc;
  const std::array<Relayout, 3> tensors{
      {{p.n, p.c, p.input_size()}, {p.k, p.c_per_group(), p.filter_size()}, {p.n, p.k, p.output_size()}}};
  const int written = row.pass == Pass::kDgrad ? 0 : row.pass == Pass::kWgrad ? 1 : 2;
  LaunchPlan plan = nhwc;
  std::array<size_t, 3> at{};  // in the workspace, behind the kernel's own
  plan.workspace_bytes = static_cast<size_t>(round_up(static_cast<int64_t>(nhwc.workspace_bytes), 16));
  for (int i = 0; i < 3; i++) at[i] = std::exchange(plan.workspace_bytes, plan.workspace_bytes + tensors[i].bytes<T>());
  for (const Relayout& tensor : tensors) {
    constexpr int64_t kMost = int64_t{1} << 31;
    const bool fits = tensor.channels < kMost && tensor.positions < kMost;
    if (!fits) return refuse("a tensor of 2^31 positions or channels");
    const int64_t tiles = divide_up(tensor.channels, kRelayoutTile) * divide_up(tensor.positions, kRelayoutTile);
    if (!tensor.same() && tensor.outer > (kMost - 1) / tiles) return refuse("more blocks than a grid has to copy");
  }
  plan.launch = [=, name = std::string(row.name), run = nhwc.launch](const Tensors& given, cudaStream_t stream) {
    void* const from[] = {given.x, given.w, given.y};
    void* copied[3];
    for (int i = 0; i < 3; i++) {
      copied[i] = tensors[i].same() ? from[i] : static_cast<char*>(given.workspace) + at[i];
      if (i != written) tensors[i].template copy<T>(name + "_to_nhwc", from[i], copied[i], true, stream);
    }
    run({copied[0], copied[1], copied[2], given.bias, given.workspace}, stream);
    tensors[written].template copy<T>(name + "_to_nchw", copied[written], from[written], false, stream);
  };
  return plan;
}

// The row of an NHWC kernel, and under another name the one for NCHW by copies.
template <typename T, LaunchPlan (*kNhwcPlan)(const KernelRow&, const ConvProblem&, const Device&)>
KernelRow via_nhwc(const KernelRow& nhwc, const char* name) {
  KernelRow nchw = nhwc;
  nchw.name = name;
  nchw.layout = Layout::kChannelsFirst;
  nchw.plan = plan_via_nhwc<T, kNhwcPlan>;
  return nchw;
}

}  // namespace convbound
