// Kernels that are wrong on purpose, each with the layer that has to catch it: the emulator itself (every build), the
// checker (the instrumented build), or the result, compared exactly with what it should be. A kernel here that passes
// means that the layer is broken.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "csrc/common/launch.h"
#include "csrc/common/ptx.h"
#include "csrc/common/shared.h"
#include "tests/simt/harness.h"

// All of std::string in a file where every access is reported, linked before the emulator, which then uses it for its
// reports: it must not report itself.
template class std::basic_string<char>;

namespace convbound::test {

namespace {

using simt::ErrorKind;

constexpr int kThreads = 64;
constexpr int kSize = 4 * kThreads;

struct Row {
  const float* x;
  float* y;
  int size;
};

using RowKernel = void (*)(Row);

// Runs a kernel on a row of floats, 1, 2, 3...; x is known to the checker as an input, y as an output.
struct Run {
  Buffer<float> x{kSize}, y{kSize};

  explicit Run(RowKernel kernel, simt::Options options = {}, size_t shared_bytes = 0) {
    x.fill([](size_t i) { return static_cast<float>(i + 1); });
    simt::Session session(options);
    session.add_tensor("x", x.data, x.bytes(), simt::Role::kInput);
    session.add_tensor("y", y.data, y.bytes(), simt::Role::kOutput);
    launch("wrong", kernel, {.grid_x = kSize / kThreads, .block_x = kThreads, .shared_bytes = shared_bytes}, nullptr,
           {x.data, y.data, kSize});
    session.finish();
  }

  // How many elements differ from the expected function of their index. NaN differs from everything.
  int wrong(const std::function<float(int)>& expected) {
    int count = 0;
    for (int i = 0; i < kSize; ++i) count += !(y[static_cast<size_t>(i)] == expected(i));
    return count;
  }
};

// In an instrumented build, every order of threads must end in this error. Otherwise there is nothing to see.
void caught_by_checker(ErrorKind kind, const std::string& text, RowKernel kernel, size_t shared_bytes = 0) {
  if (!simt::instrumented()) return;
  for (const auto order : {simt::ThreadOrder::kForward, simt::ThreadOrder::kReverse, simt::ThreadOrder::kRandom}) {
    const simt::Error error = expect_error(kind, [&] { Run(kernel, {.order = order, .check = true}, shared_bytes); });
    check_text(error.what(), text);
    check_text(error.site, "wrong_kernels.cu:");
  }
}

__global__ void __launch_bounds__(kThreads) missing_barrier(const __grid_constant__ Row p) {
  __shared__ float tile[kThreads];
  const unsigned i = blockIdx.x * kThreads + threadIdx.x;
  tile[threadIdx.x] = p.x[i];
  p.y[i] = tile[kThreads - 1 - threadIdx.x];
}

void missing_barrier_is_seen() {
  const auto expected = [](int i) { return static_cast<float>(i / kThreads * kThreads + kThreads - i % kThreads); };
  check(Run(missing_barrier).wrong(expected) > 0, "the result shows it: half of the tile is still NaN");
  if (!simt::instrumented()) return;
  // Threads that read before the write find memory uninitialised, the others race with the write.
  expect_error(ErrorKind::kUninitializedShared, [] { Run(missing_barrier, {.check = true}); });
  const simt::Error error =
      expect_error(ErrorKind::kRace, [] { Run(missing_barrier, {.check = true, .check_uninitialized = false}); });
  check_text(error.what(), "missing_barrier: race: block (0, 0, 0), thread (");
  check_text(error.what(), "of tile at byte");
}

// Exchange within a warp: a shuffle stands where a __syncwarp() belongs. It runs well here in every order, and races.
__global__ void __launch_bounds__(kThreads) shuffle_as_barrier(const __grid_constant__ Row p) {
  __shared__ float tile[kThreads];
  const unsigned i = blockIdx.x * kThreads + threadIdx.x;
  tile[threadIdx.x] = p.x[i];
  __shfl_sync(0xffffffffu, 0, 0);
  p.y[i] = tile[threadIdx.x ^ 1];
}

__global__ void __launch_bounds__(kThreads) warp_barrier(const __grid_constant__ Row p) {
  __shared__ float tile[kThreads];
  const unsigned i = blockIdx.x * kThreads + threadIdx.x;
  tile[threadIdx.x] = p.x[i];
  __syncwarp();
  p.y[i] = tile[threadIdx.x ^ 1];
}

// __syncwarp orders a warp, not a block.
__global__ void __launch_bounds__(kThreads) warp_barrier_for_block(const __grid_constant__ Row p) {
  __shared__ float tile[kThreads];
  const unsigned i = blockIdx.x * kThreads + threadIdx.x;
  tile[threadIdx.x] = p.x[i];
  __syncwarp();
  p.y[i] = tile[threadIdx.x ^ 32];
}

void shuffles_are_no_barriers() {
  const auto expected = [](int i) { return static_cast<float>((i ^ 1) + 1); };
  check_equal(Run(shuffle_as_barrier).wrong(expected), 0, "wrong elements, for the emulator's shuffle does order");
  caught_by_checker(ErrorKind::kRace, "no barrier between them", shuffle_as_barrier);
  check_equal(Run(warp_barrier, {.check = simt::instrumented()}).wrong(expected), 0, "wrong elements with __syncwarp");
  if (!simt::instrumented()) return;
  expect_error(ErrorKind::kRace, [] { Run(warp_barrier_for_block, {.check = true, .check_uninitialized = false}); });
}

// The second barrier is missing: a tile is overwritten while others read it.
__global__ void __launch_bounds__(kThreads) missing_second_barrier(const __grid_constant__ Row p) {
  __shared__ float tile[kThreads];
  float sum = 0;
  for (int round = 0; round < 2; ++round) {
    tile[threadIdx.x] = p.x[(blockIdx.x * kThreads + threadIdx.x + round) % p.size];
    __syncthreads();
    sum += tile[kThreads - 1 - threadIdx.x];
  }
  p.y[blockIdx.x * kThreads + threadIdx.x] = sum;
}

void missing_second_barrier_is_seen() {
  const auto expected = [](int i) {
    const int mirrored = i / kThreads * kThreads + kThreads - 1 - i % kThreads;
    return static_cast<float>(mirrored + 1 + (mirrored + 1) % kSize + 1);
  };
  check(Run(missing_second_barrier).wrong(expected) > 0, "the result shows it");
  caught_by_checker(ErrorKind::kRace, "races with", missing_second_barrier);
}

__global__ void __launch_bounds__(kThreads) off_by_one(const __grid_constant__ Row p) {
  const int i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  float sum = 0;
  for (int tap = 0; tap <= 3; ++tap) sum += p.x[(i + tap) % p.size];  // three taps were meant
  p.y[i] = sum;
}

void off_by_one_is_seen() {
  const auto expected = [](int i) {
    float sum = 0;
    for (int tap = 0; tap < 3; ++tap) sum += static_cast<float>((i + tap) % kSize + 1);
    return sum;
  };
  check_equal(Run(off_by_one).wrong(expected), kSize, "wrong elements");
}

__global__ void __launch_bounds__(kThreads) misaligned(const __grid_constant__ Row p) {
  const unsigned i = (blockIdx.x * kThreads + threadIdx.x) * 4;
  if (i + 4 >= static_cast<unsigned>(p.size)) return;
  const float4 four = *reinterpret_cast<const float4*>(p.x + i + 1);
  *reinterpret_cast<float4*>(p.y + i) = four;
}

void misaligned_is_seen() { caught_by_checker(ErrorKind::kMisaligned, "16-byte read at byte", misaligned); }

__global__ void __launch_bounds__(kThreads) halo_out_of_bounds(const __grid_constant__ Row p) {
  const int i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  p.y[i] = p.x[i] + p.x[i + 1];
}

__global__ void __launch_bounds__(kThreads) halo_unsigned(const __grid_constant__ Row p) {
  const unsigned i = blockIdx.x * kThreads + threadIdx.x;
  const unsigned left = i - 1;  // wraps at 0, and is then no smaller than anything
  p.y[i] = p.x[static_cast<int>(left)];
}

__global__ void __launch_bounds__(kThreads) shared_out_of_bounds(const __grid_constant__ Row p) {
  float* tile = dynamic_shared<float>();
  tile[threadIdx.x + 1] = p.x[threadIdx.x];
  __syncthreads();
  p.y[blockIdx.x * kThreads + threadIdx.x] = tile[threadIdx.x + 1];
}

void out_of_bounds_is_seen() {
  if (!simt::instrumented()) return;
  const auto run = [](RowKernel kernel, size_t shared) {
    return expect_error(ErrorKind::kOutOfBounds, [&] { Run(kernel, {.check = true, .workers = 2}, shared); });
  };
  const simt::Error halo = run(halo_out_of_bounds, 0);
  check_text(halo.what(), "4-byte read at 0 bytes past the end of 'x' (1024 bytes)");
  check_equal(halo.block.x * 1000 + halo.thread.x, 3063u, "the last thread of the last block");
  check_text(run(halo_unsigned, 0).what(), "4 bytes before 'x'");
  check_equal(run(shared_out_of_bounds, kThreads * 4).thread.x, 63u, "the last thread");
}

__global__ void __launch_bounds__(kThreads) divergent_barrier(const __grid_constant__ Row p) {
  const unsigned i = blockIdx.x * kThreads + threadIdx.x;
  if (threadIdx.x == 40) return;
  __syncthreads();
  p.y[i] = p.x[i];
}

__global__ void __launch_bounds__(kThreads) two_barriers(const __grid_constant__ Row p) {
  const unsigned i = blockIdx.x * kThreads + threadIdx.x;
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    p.y[i] = 0;
    __syncthreads();
  }
}

void divergent_barriers_are_seen() {
  for (const auto order : {simt::ThreadOrder::kForward, simt::ThreadOrder::kReverse, simt::ThreadOrder::kRandom}) {
    const simt::Error error =
        expect_error(ErrorKind::kBarrierDivergence, [&] { Run(divergent_barrier, {.order = order}); });
    check_text(error.what(), "divergent_barrier: barrier divergence: block (0, 0, 0)");
    check_text(error.what(), "thread (40, 0, 0) has returned");
    expect_error(ErrorKind::kBarrierDivergence, [&] { Run(two_barriers, {.order = order}); });
  }
  check_equal(Run(warp_barrier).wrong([](int i) { return static_cast<float>((i ^ 1) + 1); }), 0,
              "the emulator works on");
}

__global__ void __launch_bounds__(kThreads) half_warp_shuffle(const __grid_constant__ Row p) {
  if (threadIdx.x % 32 < 16) p.y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, p.x[threadIdx.x], 1);
}

__global__ void __launch_bounds__(kThreads) foreign_mask(const __grid_constant__ Row p) {
  p.y[threadIdx.x] = __shfl_sync(0x0000ffffu, p.x[threadIdx.x], 1);
}

__global__ void __launch_bounds__(kThreads) shuffle_against_vote(const __grid_constant__ Row p) {
  if (threadIdx.x % 2 == 0) {
    p.y[threadIdx.x] = __shfl_sync(0xffffffffu, p.x[threadIdx.x], 1);
  } else {
    p.y[threadIdx.x] = static_cast<float>(__ballot_sync(0xffffffffu, 1));
  }
}

void wrong_masks_are_seen() {
  check_text(expect_error(ErrorKind::kWarpMask, [] { Run run(half_warp_shuffle); }).what(), "(16, 0, 0) has returned");
  expect_error(ErrorKind::kWarpMask, [] { Run run(foreign_mask); });
  expect_error(ErrorKind::kWarpMask, [] { Run run(shuffle_against_vote); });
}

struct HalfSum {
  const __half* x;
  __half* y;
  int size;
};

__global__ void __launch_bounds__(32) accumulate_in_half(const __grid_constant__ HalfSum p) {
  if (threadIdx.x != 0) return;
  __half sum = __float2half(0);
  for (int i = 0; i < p.size; ++i) sum = __hadd(sum, p.x[i]);
  p.y[0] = sum;
}

// All-positive data whose sum exceeds 4096: 8192 ones, of which a half counts 2048.
void accumulation_in_half_is_seen() {
  Buffer<__half> x(8192), y(1);
  x.fill([](size_t) { return __float2half(1); });
  launch("accumulate_in_half", accumulate_in_half, {.block_x = 32}, nullptr, {x.data, y.data, 8192});
  check_equal(__half2float(y[0]), 2048.0f, "the sum, where 8192 would be right");
}

__global__ void __launch_bounds__(kThreads) written_twice(const __grid_constant__ Row p) {
  const unsigned i = blockIdx.x * kThreads + threadIdx.x;
  p.y[i] = p.x[i];
  if (i + 1 < static_cast<unsigned>(p.size) && threadIdx.x == kThreads - 1) p.y[i + 1] = p.x[i + 1];
}

__global__ void __launch_bounds__(kThreads) never_written(const __grid_constant__ Row p) {
  const unsigned i = blockIdx.x * kThreads + threadIdx.x;
  if (i != 100) p.y[i] = p.x[i];
}

__global__ void __launch_bounds__(kThreads) input_written(const __grid_constant__ Row p) {
  const_cast<float*>(p.x)[blockIdx.x * kThreads + threadIdx.x] = 0;
}

__global__ void __launch_bounds__(kThreads) output_read(const __grid_constant__ Row p) {
  p.y[blockIdx.x * kThreads + threadIdx.x] += 1;
}

void exactly_once_is_checked() {
  const auto identity = [](int i) { return static_cast<float>(i + 1); };
  check_equal(Run(never_written).wrong(identity), 1, "the poisoned output shows it: wrong elements");
  check_equal(Run(written_twice).wrong(identity), 0, "wrong elements, for equal values hide it");
  caught_by_checker(ErrorKind::kWrittenTwice, "of 'y'", written_twice);
  caught_by_checker(ErrorKind::kReadOnlyWritten, "of 'x'", input_written);
  caught_by_checker(ErrorKind::kUninitializedGlobal, "byte", output_read);
  if (!simt::instrumented()) return;
  const simt::Error error = expect_error(ErrorKind::kNotWritten, [] { Run(never_written, {.check = true}); });
  check_text(error.what(), "4 bytes of the output, the first is byte 400 of 'y'");
}

// Two stages. The next copy goes into the stage that is being read, for the barrier before it is missing.
__global__ void __launch_bounds__(kThreads) stage_overwritten(const __grid_constant__ Row p) {
  float* stages = dynamic_shared<float>();
  const int t = static_cast<int>(threadIdx.x);
  ptx::cp_async<4>(stages + t, p.x + t);
  ptx::cp_async_commit();
  float sum = 0;
  for (int tile = 0; tile < 4; ++tile) {
    ptx::cp_async_wait<0>();
    __syncthreads();
    sum += stages[tile % 2 * kThreads + kThreads - 1 - t];
    if (tile < 3)
      ptx::cp_async<4>(stages + tile % 2 * kThreads + t, p.x + (tile + 1) * kThreads + t);  // (tile + 1) % 2
    ptx::cp_async_commit();
  }
  p.y[blockIdx.x * kThreads + t] = sum;
}

__global__ void __launch_bounds__(kThreads) missing_wait(const __grid_constant__ Row p) {
  float* stage = dynamic_shared<float>();
  const int t = static_cast<int>(threadIdx.x);
  ptx::cp_async<4>(stage + t, p.x + blockIdx.x * kThreads + t);
  ptx::cp_async_commit();
  __syncthreads();
  p.y[blockIdx.x * kThreads + t] = stage[t];
}

// Two stages in flight need wait<1>, and wait<2> lets the one that is read go on.
__global__ void __launch_bounds__(kThreads) wait_for_too_few(const __grid_constant__ Row p) {
  float* stages = dynamic_shared<float>();
  const int t = static_cast<int>(threadIdx.x);
  for (int stage = 0; stage < 2; ++stage) {
    ptx::cp_async<4>(stages + stage * kThreads + t, p.x + blockIdx.x * kThreads + t);
    ptx::cp_async_commit();
  }
  ptx::cp_async_wait<2>();
  __syncthreads();
  p.y[blockIdx.x * kThreads + t] = stages[t];
}

__global__ void __launch_bounds__(kThreads) wait_without_barrier(const __grid_constant__ Row p) {
  float* stage = dynamic_shared<float>();
  const int t = static_cast<int>(threadIdx.x);
  ptx::cp_async<4>(stage + t, p.x + blockIdx.x * kThreads + t);
  ptx::cp_async_wait_all();
  p.y[blockIdx.x * kThreads + t] = stage[kThreads - 1 - t];
}

void wrong_pipelines_are_seen() {
  constexpr size_t kTwoStages = 2 * kThreads * sizeof(float);
  const auto identity = [](int i) { return static_cast<float>(i + 1); };
  const auto sum = [](int i) {
    float total = 0;
    for (int tile = 0; tile < 4; ++tile) total += static_cast<float>(tile * kThreads + kThreads - i % kThreads);
    return total;
  };
  check(Run(stage_overwritten, {.async_copy = simt::AsyncCopy::kEager}, kTwoStages).wrong(sum) > 0, "eager shows it");
  check_equal(Run(missing_wait, {.async_copy = simt::AsyncCopy::kEager}, kTwoStages).wrong(identity), 0,
              "eager hides it");
  check(Run(missing_wait, {.async_copy = simt::AsyncCopy::kLate}, kTwoStages).wrong(identity) > 0, "late shows it");
  check(Run(wait_for_too_few, {.async_copy = simt::AsyncCopy::kLate}, kTwoStages).wrong(identity) > 0, "late shows it");
  caught_by_checker(ErrorKind::kAsyncNotWaited, "is still writing", missing_wait, kTwoStages);
  caught_by_checker(ErrorKind::kAsyncNotWaited, "is still writing", wait_for_too_few, kTwoStages);
  if (!simt::instrumented()) return;
  const auto checked = [&](RowKernel kernel) {
    Run(kernel, {.check = true, .check_uninitialized = false}, kTwoStages);
  };
  check_text(expect_error(ErrorKind::kRace, [&] { checked(stage_overwritten); }).what(), "races with a write");
  expect_error(ErrorKind::kRace, [&] { checked(wait_without_barrier); });
}

// Block 1 reads what block 0 of the same launch wrote into the workspace: right here, anything on a GPU.
__global__ void __launch_bounds__(kThreads) blocks_talk(const __grid_constant__ Row p) {
  const int t = static_cast<int>(threadIdx.x);
  if (blockIdx.x == 0) p.y[t] = 1;
  if (blockIdx.x == 1) p.y[kThreads + t] = p.y[t];
}

void races_between_blocks_are_seen() {
  if (!simt::instrumented()) return;
  Buffer<float> workspace(2 * kThreads);
  simt::Session session({.check = true, .workers = 1});
  session.add_tensor("workspace", workspace.data, workspace.bytes(), simt::Role::kWorkspace);
  const simt::Error error = expect_error(ErrorKind::kRace, [&] {
    launch("blocks_talk", blocks_talk, {.grid_x = 2, .block_x = kThreads}, nullptr, {nullptr, workspace.data, 0});
  });
  check_text(error.what(), "which block number 0 of the same launch writes");
}

__global__ void __launch_bounds__(kThreads) traps(const __grid_constant__ Row) {
  if (threadIdx.x == 3) __trap();
}

__global__ void __launch_bounds__(kThreads) misaligned_copy(const __grid_constant__ Row p) {
  float* stage = dynamic_shared<float>();
  ptx::cp_async<16>(stage + threadIdx.x, p.x + threadIdx.x);
}

void emulator_refuses() {
  check_text(expect_error(ErrorKind::kTrap, [] { Run run(traps); }).what(), "thread (3, 0, 0)");
  expect_error(ErrorKind::kMisaligned, [] { Run(misaligned_copy, {}, 1024); });
}

const Register kCases[] = {
    {"missing_barrier", missing_barrier_is_seen},
    {"shuffles_are_no_barriers", shuffles_are_no_barriers},
    {"missing_second_barrier", missing_second_barrier_is_seen},
    {"off_by_one", off_by_one_is_seen},
    {"misaligned_vector_load", misaligned_is_seen},
    {"out_of_bounds", out_of_bounds_is_seen},
    {"divergent_barrier", divergent_barriers_are_seen},
    {"wrong_warp_mask", wrong_masks_are_seen},
    {"accumulation_in_half", accumulation_in_half_is_seen},
    {"exactly_once", exactly_once_is_checked},
    {"wrong_pipeline", wrong_pipelines_are_seen},
    {"race_between_blocks", races_between_blocks_are_seen},
    {"emulator_refuses", emulator_refuses},
};

}  // namespace

}  // namespace convbound::test
