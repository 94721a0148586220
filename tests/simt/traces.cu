// The tracer against kernels whose traffic is known by hand. Instrumented build only: elsewhere there are no cases.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "csrc/common/launch.h"
#include "csrc/common/ptx.h"
#include "csrc/common/shared.h"
#include "tests/simt/harness.h"

namespace convbound::test {

namespace {

struct Copy {
  const float* x;
  float* y;
  int stride;
};

// 4096 floats in, 4096 out, whatever the kernel makes of them; 16 blocks of 256 threads unless said otherwise.
constexpr int kFloats = 4096;

simt::LaunchTrace trace(void (*kernel)(Copy), const LaunchShape& shape, int stride = 1, simt::Options options = {},
                        size_t inputs = kFloats, size_t outputs = kFloats, size_t shift = 0) {
  Buffer<float> x(inputs + shift), y(outputs);
  x.fill([](size_t i) { return static_cast<float>(i); });
  options.trace = true;
  simt::Session session(options);
  session.add_tensor("x", x.data + shift, inputs * sizeof(float), simt::Role::kInput);
  session.add_tensor("y", y.data, y.bytes(), simt::Role::kOutput);
  launch("traced", kernel, shape, nullptr, {x.data + shift, y.data, stride});
  check_equal(session.traces().size(), size_t{1}, "traces");
  simt::LaunchTrace result = session.traces()[0];
  result.locate();
  return result;
}

constexpr LaunchShape kShape = {.grid_x = 16, .block_x = 256};

__global__ void __launch_bounds__(256) copy(const __grid_constant__ Copy p) {
  const unsigned i = blockIdx.x * 256 + threadIdx.x;
  p.y[i] = p.x[i];
}

void plain_copy() {
  const simt::LaunchTrace t = trace(copy, kShape);
  check_equal(t.requests, 256u, "requests: 128 warps, a load and a store");
  check_equal(t.load_bytes, 16384u, "loads");
  check_equal(t.store_bytes, 16384u, "stores");
  check_equal(t.compulsory_bytes, 32768u, "compulsory");
  check_equal(t.dram_bytes, 32768u, "DRAM");
  check_equal(t.traffic_ratio(), 1.0, "ratio");
  check_equal(t.coalescing(), 1.0, "coalescing");
  check_equal(t.loaded_bytes_by_width[2], 16384u, "bytes loaded in 4-byte accesses");
  check_equal(t.stored_bytes_by_width[2], 16384u, "bytes stored in 4-byte accesses");
  check_equal(t.sites.size(), size_t{2}, "sites");
  check_text(t.sites[0].location, "traces.cu:");
  check_equal(t.sites[0].sectors, 512u, "sectors of the load");
  check_equal(t.kernel == "convbound::test::copy", true, t.kernel);
}

__global__ void __launch_bounds__(256) copy_vector(const __grid_constant__ Copy p) {
  const unsigned i = blockIdx.x * 256 + threadIdx.x;
  reinterpret_cast<float4*>(p.y)[i] = reinterpret_cast<const float4*>(p.x)[i];
}

void vector_copy() {
  const simt::LaunchTrace t = trace(copy_vector, {.grid_x = 4, .block_x = 256});
  check_equal(t.requests, 64u, "requests");
  check_equal(t.sectors, 1024u, "sectors: 16 for each 512-byte request");
  check_equal(t.traffic_ratio(), 1.0, "ratio");
  check_equal(t.loaded_bytes_by_width[4], 16384u, "bytes loaded in 16-byte accesses");
  check_equal(t.loaded_bytes_by_width[2], 0u, "bytes loaded in 4-byte accesses");
  check_equal(t.stored_bytes_by_width[4], 16384u, "bytes stored in 16-byte accesses");
}

__global__ void __launch_bounds__(256) strided(const __grid_constant__ Copy p) {
  const unsigned i = blockIdx.x * 256 + threadIdx.x;
  p.y[i] = p.x[i * static_cast<unsigned>(p.stride)];
}

// Every lane of a load at stride 8 has a sector of its own; 512 elements are written.
void strided_copy() {
  const simt::LaunchTrace t = trace(strided, {.grid_x = 2, .block_x = 256}, 8, {}, kFloats, 512);
  check_equal(t.load_bytes, 32u * 512, "loads");
  check_equal(t.store_bytes, 2048u, "stores");
  check_equal(t.compulsory_bytes, 16384u + 2048, "compulsory");
  check_equal(t.coalescing(), (16 * 32 + 16 * 4) / (16 * 4 + 16 * 4.0), "coalescing");
}

// 4 bytes beyond a sector's start: 5 sectors for 128 bytes, and the block's distinct sectors are 33 for 32.
void misaligned_copy() {
  const simt::LaunchTrace t = trace(copy, kShape, 1, {}, kFloats, kFloats, 1);
  check_equal(t.sites[0].sectors, 128u * 5, "sectors of the load");
  check_equal(t.load_bytes, 16u * 33 * 32, "loads: the neighbouring warps share a sector through L1");
  check_equal(t.request_load_bytes, 128u * 5 * 32, "loads without L1");
  check_equal(t.compulsory_bytes, 513u * 32 + 16384, "compulsory");
  check_equal(t.dram_bytes, 513u * 32 + 16384, "DRAM");
}

__global__ void __launch_bounds__(256) broadcast(const __grid_constant__ Copy p) {
  p.y[blockIdx.x * 256 + threadIdx.x] = p.x[blockIdx.x];
}

void broadcast_load() {
  const simt::LaunchTrace t = trace(broadcast, kShape, 1, {}, 16);
  check_equal(t.sites[0].requests, 128u, "requests of the load");
  check_equal(t.sites[0].sectors, 128u, "sectors of the load");
  check_equal(t.load_bytes, 16u * 32, "loads: one sector for each block");
  check_equal(t.compulsory_bytes, 64u + 16384, "compulsory");
  check_equal(t.coalescing(), 1.0, "coalescing");
}

// One 64-bit, one 32-bit and no 16-bit word of each sector of y.
__global__ void __launch_bounds__(32) partial_stores(const __grid_constant__ Copy p) {
  const unsigned i = threadIdx.x * 8;
  reinterpret_cast<float2*>(p.y)[i / 2] = float2{1, 2};
  p.y[i + 3] = 3;
}

void partially_written_sectors() {
  const simt::LaunchTrace t = trace(partial_stores, {.block_x = 32}, 1, {}, 16, 256);
  check_equal(t.store_bytes, 2u * 32 * 32, "stores: two requests of 32 sectors");
  check_equal(t.dram_bytes, 2u * 32 * 32, "DRAM: 32 sectors, and a fill for each");
  check_equal(t.stored_bytes_by_width[3], 256u, "bytes stored in 8-byte accesses");
}

template <int kPitch>
__global__ void __launch_bounds__(1024) transpose(const __grid_constant__ Copy p) {
  __shared__ float tile[32][kPitch];
  const unsigned column = blockIdx.x * 32 + threadIdx.x, row = blockIdx.y * 32 + threadIdx.y;
  tile[threadIdx.y][threadIdx.x] = p.x[row * 64 + column];
  __syncthreads();
  p.y[(blockIdx.x * 32 + threadIdx.y) * 64 + blockIdx.y * 32 + threadIdx.x] = tile[threadIdx.x][threadIdx.y];
}

constexpr LaunchShape kTiles = {.grid_x = 2, .grid_y = 2, .block_x = 32, .block_y = 32};

void transpose_without_padding() {
  const simt::LaunchTrace t = trace(transpose<32>, kTiles);
  check_equal(t.coalescing(), 1.0, "coalescing");
  check_equal(t.traffic_ratio(), 1.0, "ratio");
  check_equal(t.shared_requests, 256u, "shared requests");
  check_equal(t.wavefronts, 128u + 128 * 32, "wavefronts: 32 for each read of a column");
  check_equal(t.ideal_wavefronts, 256u, "ideal wavefronts");
}

void transpose_with_padding() {
  const simt::LaunchTrace t = trace(transpose<33>, kTiles);
  check_equal(t.wavefronts, 256u, "wavefronts");
  check_equal(t.bank_conflicts(), 1.0, "bank conflicts");
}

__global__ void __launch_bounds__(1024) transpose_directly(const __grid_constant__ Copy p) {
  const unsigned column = blockIdx.x * 32 + threadIdx.x, row = blockIdx.y * 32 + threadIdx.y;
  p.y[column * 64 + row] = p.x[row * 64 + column];
}

void transpose_without_shared_memory() {
  const simt::LaunchTrace t = trace(transpose_directly, kTiles);
  check_equal(t.store_bytes, 128u * 32 * 32, "stores: 32 sectors for each request");
  check_equal(t.load_bytes, 16384u, "loads");
  check_equal(t.coalescing(), (128 * 4 + 128 * 32) / (256 * 4.0), "coalescing");
  check_equal(t.dram_bytes, 32768u, "DRAM: in the end every sector is full");
}

// Vectors in shared memory: 16 bytes per lane are 4 wavefronts of 8 lanes, 8 bytes are 2 of 16, in order or not.
__global__ void __launch_bounds__(32) shared_vectors(const __grid_constant__ Copy p) {
  __shared__ float4 four[32];
  __shared__ float2 two[64];
  const unsigned t = threadIdx.x;
  four[t] = reinterpret_cast<const float4*>(p.x)[t];
  two[t] = float2{1, 2};
  two[t + 32] = float2{3, 4};
  __syncwarp();
  p.y[t] = four[31 - t].x + two[(t * 2) % 64].x;
}

void vectors_in_shared_memory() {
  const simt::LaunchTrace t = trace(shared_vectors, {.block_x = 32}, 1, {}, 128, 32);
  uint64_t by_bytes[17] = {};
  for (const simt::SiteTrace& site : t.sites) {
    if (site.space == simt::Space::kShared) by_bytes[site.bytes] += site.wavefronts;
  }
  check_equal(by_bytes[16], 4u, "wavefronts of the 16-byte store");
  check_equal(by_bytes[8], 4u, "wavefronts of the two 8-byte stores");
  check_equal(by_bytes[4], 4u + 4, "wavefronts of the 4-byte reads: at strides 4 and 4 words");
}

// Two planes read twice by one block. They fit in L1, or they do not: 16 KB against what a block has.
__global__ void __launch_bounds__(256) read_twice(const __grid_constant__ Copy p) {
  float sum = 0;
  for (int round = 0; round < 2; ++round) {
    for (unsigned i = threadIdx.x; i < kFloats; i += 256) sum += p.x[i];
  }
  p.y[blockIdx.x * 256 + threadIdx.x] = sum;
}

void share_of_l1() {
  // 132 SMs x 8 blocks of 256 threads and one more for each SM's share to be 1/8 of 256 KB: 32 KB.
  const simt::LaunchTrace fits = trace(read_twice, kShape);
  check_equal(fits.resident_blocks, 1, "resident blocks of a grid of 16");
  check_equal(fits.l1_share, 256u * 1024, "share of L1");
  check_equal(fits.blocks_in_l1, 16u, "blocks within their share");
  check_equal(fits.load_bytes, 16u * 16384, "loads");
  // sm_75: 96 KB for L1 and shared memory, of which the block asks 64 KB less 1: 32 KB are left. Two such blocks do not
  // fit.
  const simt::LaunchTrace less =
      trace(read_twice, {.grid_x = 16, .block_x = 256, .shared_bytes = 64 << 10}, 1, {.profile = "sm_75"});
  check_equal(less.l1_share, 32u * 1024, "share of L1 beside 64 KB of shared memory");
  // 12 blocks of 1 KB on one SM of a T4 would be 4 by threads: (96 - 4) / 4 = 23 KB.
  const simt::LaunchTrace many = trace(read_twice, {.grid_x = 160, .block_x = 256, .shared_bytes = 1024}, 1,
                                       {.profile = "sm_75"}, kFloats, 160 * 256);
  check_equal(many.resident_blocks, 4, "resident blocks");
  check_equal(many.l1_share, 23u * 1024, "share of L1 of one of four blocks");
}

void too_large_for_l1() {
  // 16 blocks for each of 40 SMs would share, 4 at a time, but with 15 KB of shared memory each: (96 - 60) / 4 = 9 KB.
  const simt::LaunchTrace t = trace(read_twice, {.grid_x = 160, .block_x = 256, .shared_bytes = 15 << 10}, 1,
                                    {.profile = "sm_75"}, kFloats, 160 * 256);
  check_equal(t.l1_share, 9u * 1024, "share of L1");
  check_equal(t.blocks_in_l1, 0u, "blocks within their share");
  check_equal(t.load_bytes, 160u * 2 * 16384, "loads: both rounds");
  check_equal(t.distinct_load_bytes, 160u * 16384, "loads if they had fit");
  // On a GPU with an SM for each block they fit.
  const simt::LaunchTrace alone = trace(read_twice, {.grid_x = 160, .block_x = 256, .shared_bytes = 15 << 10}, 1,
                                        {.profile = "sm_75", .sm_count = 160}, kFloats, 160 * 256);
  check_equal(alone.l1_share, 81u * 1024, "share of L1");
  check_equal(alone.load_bytes, 160u * 16384, "loads: one round");
}

// Of each sector: 16 floats that 8 blocks of 8 warps read each half of, and outputs that are written once.
void sectors_of_tensors() {
  const simt::LaunchTrace t = trace(broadcast, kShape, 1, {.sectors = true}, 16);
  check_equal(t.tensors.size(), size_t{2}, "tensors");
  for (const simt::TensorTrace& tensor : t.tensors) {
    const bool x = tensor.tensor == "x";
    check_equal(tensor.moved.size(), size_t{x ? 2u : 512u}, "sectors");
    for (const uint32_t requests : tensor.requested) check_equal(requests, x ? 64u : 1u, "requests of a sector");
    for (const uint32_t times : tensor.moved) check_equal(times, x ? 8u : 1u, "moves of a sector");
  }
  check_text(t.sites[0].tensor, "x");
  check_equal(trace(broadcast, kShape, 1, {}, 16).tensors.size(), size_t{0}, "tensors that were not asked for");
}

// Each block stages its 1 KB twice; cp.async of 16 bytes passes L1 by, of 4 bytes it does not.
template <int kBytes>
__global__ void __launch_bounds__(64) stage_twice(const __grid_constant__ Copy p) {
  float* stage = dynamic_shared<float>();
  for (int round = 0; round < 2; ++round) {
    for (unsigned i = threadIdx.x * (kBytes / 4); i < 256; i += 64 * (kBytes / 4)) {
      ptx::cp_async<kBytes>(stage + i, p.x + blockIdx.x * 256 + i);
    }
    ptx::cp_async_wait_all();
  }
  __syncthreads();
  for (unsigned i = threadIdx.x; i < 256; i += 64) p.y[blockIdx.x * 256 + i] = stage[i];
}

void async_copies() {
  const LaunchShape shape{.grid_x = 16, .block_x = 64, .shared_bytes = 1024};
  const simt::LaunchTrace wide = trace(stage_twice<16>, shape);
  check_equal(wide.load_bytes, 2u * 16384, "loads of 16 bytes: from L2 both times");
  check_equal(wide.loaded_bytes_by_width[4], 2u * 16384, "bytes loaded in 16-byte accesses");
  const simt::LaunchTrace narrow = trace(stage_twice<4>, shape);
  check_equal(narrow.load_bytes, 16384u, "loads of 4 bytes: through L1");
  check_equal(narrow.bank_conflicts(), 1.0, "bank conflicts");
}

// Taps that some lanes skip: the unrolled loop gives every tap a site of its own, so that ordinals do not shift.
__global__ void __launch_bounds__(32) predicated_taps(const __grid_constant__ Copy p) {
  const int t = static_cast<int>(threadIdx.x);
  float sum = 0;
#pragma unroll
  for (int tap = 0; tap < 3; ++tap) {
    const int i = t + tap - 1;
    if (i >= 0 && i < 32) sum += p.x[i];
  }
  p.y[t] = sum;
}

void predicated_loads() {
  const simt::LaunchTrace t = trace(predicated_taps, {.block_x = 32}, 1, {}, 32, 32);
  check_equal(t.sites.size(), size_t{4}, "sites: three taps and a store");
  check_equal(t.requests, 4u, "requests");
  check_equal(t.load_bytes, 128u, "loads");
}

// The counts do not depend on who runs which block when.
void independent_of_order() {
  const simt::LaunchTrace one = trace(transpose<32>, kTiles, 1, {.workers = 1});
  const simt::LaunchTrace other =
      trace(transpose<32>, kTiles, 1, {.order = simt::ThreadOrder::kRandom, .seed = 9, .workers = 2});
  check_equal(one.sectors * 1000000 + one.wavefronts, other.sectors * 1000000 + other.wavefronts, "counts");
  check_equal(one.load_bytes + one.dram_bytes, other.load_bytes + other.dram_bytes, "bytes");
  check_text(simt::to_string(one), "coalescing 1.00x");
}

void add(const char* name, void (*body)()) {
  if (simt::instrumented()) cases().push_back({name, body});
}

const bool kAdded = [] {
  add("trace-copy", plain_copy);
  add("trace-vector_copy", vector_copy);
  add("trace-strided_copy", strided_copy);
  add("trace-misaligned_copy", misaligned_copy);
  add("trace-broadcast", broadcast_load);
  add("trace-partial_stores", partially_written_sectors);
  add("trace-transpose_without_padding", transpose_without_padding);
  add("trace-transpose_with_padding", transpose_with_padding);
  add("trace-transpose_directly", transpose_without_shared_memory);
  add("trace-shared_vectors", vectors_in_shared_memory);
  add("trace-share_of_l1", share_of_l1);
  add("trace-too_large_for_l1", too_large_for_l1);
  add("trace-sectors", sectors_of_tensors);
  add("trace-async_copies", async_copies);
  add("trace-predicated_loads", predicated_loads);
  add("trace-independent_of_order", independent_of_order);
  return true;
}();

}  // namespace

}  // namespace convbound::test
