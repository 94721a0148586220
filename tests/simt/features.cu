// What a correct kernel may use, each feature against an answer known without the emulator.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "csrc/common/launch.h"
#include "csrc/common/ptx.h"
#include "csrc/common/shared.h"
#include "tests/simt/depthwise3x3.h"
#include "tests/simt/harness.h"

namespace convbound::test {

namespace {

template <typename T>
struct InOut {
  const T* in;
  T* out;
  int count;
};

__global__ void __launch_bounds__(64) write_indices(const __grid_constant__ InOut<int> p) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  p.out[block * (blockDim.x * blockDim.y * blockDim.z) + thread] = static_cast<int>(block * 1000 + thread);
}

void indices() {
  Buffer<int> out(24 * 24);
  simt::Session session({.order = simt::ThreadOrder::kRandom, .seed = 5});
  launch("write_indices", write_indices,
         {.grid_x = 2, .grid_y = 3, .grid_z = 4, .block_x = 4, .block_y = 3, .block_z = 2}, nullptr,
         {nullptr, out.data, 0});
  for (int i = 0; i < 24 * 24; ++i) check_equal(out[i], i / 24 * 1000 + i % 24, "element " + std::to_string(i));
}

__global__ void __launch_bounds__(256) reverse_block(const __grid_constant__ InOut<float> p) {
  __shared__ float tile[256];
  float* copy = dynamic_shared<float>();
  const unsigned t = threadIdx.x;
  tile[t] = p.in[blockIdx.x * 256 + t];
  copy[t] = 2 * tile[t];
  __syncthreads();
  p.out[blockIdx.x * 256 + t] = tile[255 - t] + copy[255 - t];
}

void shared_memory(simt::ThreadOrder order) {
  constexpr int kBlocks = 9;
  Buffer<float> in(kBlocks * 256), out(kBlocks * 256);
  in.fill([](size_t i) { return static_cast<float>(i); });
  simt::Session session({.order = order, .seed = 3, .check = simt::instrumented()});
  session.add_tensor("in", in.data, in.bytes(), simt::Role::kInput);
  session.add_tensor("out", out.data, out.bytes(), simt::Role::kOutput);
  launch("reverse_block", reverse_block, {.grid_x = kBlocks, .block_x = 256, .shared_bytes = 1024}, nullptr,
         {in.data, out.data, 0});
  session.finish();
  for (int i = 0; i < kBlocks * 256; ++i)
    check_equal(out[i], 3.0f * static_cast<float>(i / 256 * 256 + 255 - i % 256), "element");
}

__global__ void __launch_bounds__(32) uninitialised(const __grid_constant__ InOut<float> p) {
  __shared__ float tile[32];
  float* dynamic = dynamic_shared<float>();
  if (p.count > 0) tile[threadIdx.x] = 0;  // or the compiler would know that nothing is ever written
  p.out[threadIdx.x] = tile[threadIdx.x];
  p.out[32 + threadIdx.x] = dynamic[threadIdx.x];
}

void shared_memory_is_poisoned() {
  Buffer<float> out(64);
  out.fill([](size_t) { return 0.0f; });
  launch("uninitialised", uninitialised, {.block_x = 32, .shared_bytes = 128}, nullptr, {nullptr, out.data, 0});
  for (int i = 0; i < 64; ++i) check(std::isnan(out[i]), "shared memory starts as NaN");
}

__global__ void __launch_bounds__(96) barrier_votes(const __grid_constant__ InOut<int> p) {
  const int t = static_cast<int>(threadIdx.x);
  p.out[t] = __syncthreads_count(t % 3 == 0) * 100 + __syncthreads_and(t < 96) * 10 + __syncthreads_or(t > 95);
}

void barriers_with_votes() {
  Buffer<int> out(96);
  launch("barrier_votes", barrier_votes, {.block_x = 96}, nullptr, {nullptr, out.data, 0});
  for (int i = 0; i < 96; ++i) check_equal(out[i], 3210, "count, and, or");
}

__global__ void __launch_bounds__(64) shuffles(const __grid_constant__ InOut<double> p) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const double mine = p.in[threadIdx.x];
  double* out = p.out + threadIdx.x * 8;
  out[0] = __shfl_sync(0xffffffffu, mine, 5);
  out[1] = __shfl_up_sync(0xffffffffu, mine, 3);
  out[2] = __shfl_down_sync(0xffffffffu, mine, 3, 8);
  out[3] = __shfl_xor_sync(0xffffffffu, mine, 9);
  out[4] = static_cast<double>(__ballot_sync(0xffffffffu, lane % 2));
  out[5] = __any_sync(0xffffffffu, lane == 31) * 10 + __all_sync(0xffffffffu, lane < 31);
  out[6] = __reduce_add_sync(0xffffffffu, lane) * 100 + __reduce_max_sync(0xffffffffu, -lane) +
           __reduce_min_sync(0xffffffffu, lane - 40);
  out[7] = 0;
  if (lane < 16) out[7] = __shfl_xor_sync(0x0000ffffu, static_cast<float>(mine), 1);
}

void warp_intrinsics(simt::ThreadOrder order) {
  Buffer<double> in(64), out(64 * 8);
  in.fill([](size_t i) { return static_cast<double>(i) + 0.5; });
  simt::Session session({.order = order, .seed = 11});
  launch("shuffles", shuffles, {.block_x = 64}, nullptr, {in.data, out.data, 0});
  for (int t = 0; t < 64; ++t) {
    const int lane = t % 32, base = t - lane;
    const double* o = out.data + t * 8;
    check_equal(o[0], in[base + 5], "shfl");
    check_equal(o[1], in[lane >= 3 ? t - 3 : t], "shfl_up");
    check_equal(o[2], in[lane % 8 < 5 ? t + 3 : t], "shfl_down of width 8");
    check_equal(o[3], in[base + (lane ^ 9)], "shfl_xor");
    check_equal(o[4], double(0xaaaaaaaau), "ballot");
    check_equal(o[5], 10.0, "any, all");
    check_equal(o[6], 496 * 100 + 0 - 40.0, "reduce");
    check_equal(o[7], lane < 16 ? in[base + (lane ^ 1)] : 0.0, "shfl_xor in half a warp");
  }
}

__global__ void __launch_bounds__(32) bits(const __grid_constant__ InOut<unsigned> p) {
  if (threadIdx.x != 0) return;
  p.out[0] = __funnelshift_l(0x89abcdefu, 0x01234567u, 8);
  p.out[1] = __funnelshift_r(0x89abcdefu, 0x01234567u, 8);
  p.out[2] = __funnelshift_r(0x89abcdefu, 0x01234567u, 32);
  p.out[3] = __funnelshift_rc(0x89abcdefu, 0x01234567u, 40);
  p.out[4] = __funnelshift_lc(0x89abcdefu, 0x01234567u, 40);
  p.out[5] = __byte_perm(0x33221100u, 0x77665544u, 0x7250u);
  p.out[6] = __brev(1u);
  p.out[7] = static_cast<unsigned>(__clz(1) + __popc(255u) * 100 + __ffs(8) * 10000);
  p.out[8] = __umulhi(0xffffffffu, 16u);
  p.out[9] = static_cast<unsigned>(min(3, 4) + max(7u, 5));
  p.out[10] = threadIdx.x - 1;
}

void bit_intrinsics() {
  const unsigned expected[] = {0x23456789u, 0x6789abcdu, 0x89abcdefu, 0x01234567u, 0x89abcdefu, 0x77225500u,
                               0x80000000u, 40831u,      15u,         10u,         0xffffffffu};
  Buffer<unsigned> out(11);
  launch("bits", bits, {.block_x = 32}, nullptr, {nullptr, out.data, 0});
  for (int i = 0; i < 11; ++i) check_equal(out[i], expected[i], "element " + std::to_string(i));
}

// Every half, and all floats near every boundary between two halves, against the compiler's own _Float16.
void half_conversions() {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half_bits = static_cast<uint16_t>(bits);
    const __half value = __half::from_bits(half_bits);
    const float widened = static_cast<float>(std::bit_cast<_Float16>(half_bits));
    if (std::isnan(widened)) {
      check(std::isnan(__half2float(value)), "NaN");
      continue;
    }
    check_equal(__half2float(value), widened, "half to float");
    for (const double scale : {1.0, 1.0 + 0x1p-11, 1.0 + 0x1p-12, 1.0 - 0x1p-12, 1.0 + 0x1p-11 + 0x1p-22}) {
      const auto near = static_cast<float>(widened * scale);
      check_equal(__half_as_ushort(__float2half(near)), std::bit_cast<uint16_t>(static_cast<_Float16>(near)),
                  "to half");
      const double nearer = widened * scale * (1 + 0x1p-40);
      check_equal(__half_as_ushort(__double2half(nearer)), std::bit_cast<uint16_t>(static_cast<_Float16>(nearer)),
                  "double to half");
    }
    const float brain = __bfloat162float(__ushort_as_bfloat16(half_bits));
    if (std::isnan(brain) || std::isinf(brain)) continue;
    check_equal(__bfloat16_as_ushort(__float2bfloat16(brain)), half_bits, "bfloat16 round trip");
    const float tie = std::bit_cast<float>(std::bit_cast<uint32_t>(brain) | 0x8000u);
    check_equal(__bfloat16_as_ushort(__float2bfloat16(tie)) & 1, 0, "bfloat16 ties go to even");
  }
}

// A product that lands on a tie, with an addend far below it: two roundings would give the wrong neighbour.
void half_arithmetic() {
  const __half a = __half::from_bits(0x3c01), b = __half::from_bits(0x3e00);  // 1 + 2^-10, 1.5
  const __half tiny = __half::from_bits(0x0001), minus_tiny = __half::from_bits(0x8001);
  check_equal(__half_as_ushort(__hfma(a, b, tiny)), 0x3e02, "1.5 + 1.5 * 2^-10 and a bit more rounds up");
  check_equal(__half_as_ushort(__hfma(a, b, minus_tiny)), 0x3e01, "and a bit less rounds down");
  check_equal(float(__float2half(2048.0f) + __float2half(1.0f)), 2048.0f, "half sums lose small addends");
  const __half2 pair = __hfma2(__floats2half2_rn(2, 3), __float2half2_rn(4), __floats2half2_rn(1, -1));
  check_equal(__low2float(pair) * 100 + __high2float(pair), 911.0f, "hfma2");
  check_equal(float(__float2bfloat16(256.0f) + __float2bfloat16(1.0f)), 256.0f, "bfloat16 has 8 bits");
  check_equal(sizeof(__half2) * 10 + alignof(__half2), size_t{44}, "half2 is 4 bytes");
  check_equal(alignof(float4) * 100 + alignof(uint2) * 10 + alignof(float3), size_t{1684}, "vector alignment");
}

// Copies through shared memory in a ring of three stages.
struct Ring {
  const float* in;
  float* out;
  int tiles;
};

__global__ void __launch_bounds__(32) ring(const __grid_constant__ Ring p) {
  float* stages = dynamic_shared<float>();
  const int t = static_cast<int>(threadIdx.x);
  const auto fetch = [&](int tile) {
    if (tile < p.tiles) ptx::cp_async<16>(stages + tile % 3 * 128 + t * 4, p.in + tile * 128 + t * 4);
    ptx::cp_async_commit();
  };
  fetch(0);
  fetch(1);
  for (int tile = 0; tile < p.tiles; ++tile) {
    ptx::cp_async_wait<1>();
    __syncthreads();
    fetch(tile + 2);
    for (int i = 0; i < 4; ++i) p.out[tile * 128 + i * 32 + t] = stages[tile % 3 * 128 + 127 - (i * 32 + t)];
  }
}

void async_ring(simt::AsyncCopy mode, const char* profile) {
  constexpr int kTiles = 8;
  Buffer<float> in(kTiles * 128), out(kTiles * 128);
  in.fill([](size_t i) { return static_cast<float>(i); });
  simt::Session session({.profile = profile, .async_copy = mode, .check = simt::instrumented()});
  session.add_tensor("in", in.data, in.bytes(), simt::Role::kInput);
  session.add_tensor("out", out.data, out.bytes(), simt::Role::kOutput);
  launch("ring", ring, {.block_x = 32, .shared_bytes = 3 * 512}, nullptr, {in.data, out.data, kTiles});
  session.finish();
  for (int i = 0; i < kTiles * 128; ++i) check_equal(out[i], in[i / 128 * 128 + 127 - i % 128], "element");
}

__global__ void __launch_bounds__(32) zero_fill(const __grid_constant__ InOut<float> p) {
  __shared__ __align__(16) float tile[32 * 4];
  const int t = static_cast<int>(threadIdx.x);
  ptx::cp_async<16>(tile + t * 4, p.in, t % 5 * 4);
  ptx::cp_async_wait_all();
  __syncwarp();
  for (int i = 0; i < 4; ++i) p.out[t * 4 + i] = tile[t * 4 + i];
}

void async_zero_fill() {
  Buffer<float> in(4), out(128);
  in.fill([](size_t i) { return static_cast<float>(i + 1); });
  launch("zero_fill", zero_fill, {.block_x = 32}, nullptr, {in.data, out.data, 0});
  for (int i = 0; i < 128; ++i) check_equal(out[i], i % 4 < i / 4 % 5 ? i % 4 + 1.0f : 0.0f, "element");
}

// C = 1 + A * B for one 16x8 tile, A and B read by ldmatrix (B transposed on the way, for it lies in rows of N), depth
// 16 or 8.
template <typename T>
struct Product {
  const T* a;  // 16 x depth
  const T* b;  // depth x 8
  float* c;    // 16 x 8
};

template <typename T, int kDepth>
__global__ void __launch_bounds__(32) multiply(const __grid_constant__ Product<T> p) {
  __shared__ __align__(16) T a[16 * kDepth];
  __shared__ __align__(16) T b[kDepth * 8];
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 16 * kDepth; i += 32) a[i] = p.a[i];
  for (int i = lane; i < kDepth * 8; i += 32) b[i] = p.b[i];
  __syncwarp();
  uint32_t a_fragment[kDepth / 4], b_fragment[kDepth / 8];
  ptx::ldmatrix<kDepth / 4>(a_fragment, a + lane % 16 * kDepth + lane / 16 % (kDepth / 8) * 8);
  ptx::ldmatrix<kDepth / 8, true>(b_fragment, b + lane % kDepth * 8);
  float sums[4] = {1, 1, 1, 1};
  if constexpr (kDepth == 16) {
    ptx::mma_m16n8k16<T>(sums, a_fragment, b_fragment, sums);
  } else {
    ptx::mma_m16n8k8<T>(sums, a_fragment, b_fragment, sums);
  }
  for (int i = 0; i < 4; ++i) p.c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

template <typename T, int kDepth>
void matrix_product() {
  Buffer<T> a(16 * kDepth), b(kDepth * 8);
  Buffer<float> c(128);
  a.fill([](size_t i) { return T(static_cast<float>(i * 7 % 23) - 11); });
  b.fill([](size_t i) { return T(static_cast<float>(i * 5 % 19) - 9); });
  launch("multiply", multiply<T, kDepth>, {.block_x = 32}, nullptr, {a.data, b.data, c.data});
  for (size_t m = 0; m < 16; ++m) {
    for (size_t n = 0; n < 8; ++n) {
      float sum = 1;
      for (size_t k = 0; k < kDepth; ++k) sum += float(a[m * kDepth + k]) * float(b[k * 8 + n]);
      check_equal(c[m * 8 + n], sum, "C");
    }
  }
}

__global__ void __launch_bounds__(32) multiply_tf32(const __grid_constant__ Product<float> p) {
  const int g = static_cast<int>(threadIdx.x) / 4, t = static_cast<int>(threadIdx.x) % 4;
  uint32_t a[4], b[2];
  for (int i = 0; i < 4; ++i) a[i] = __float_as_uint(p.a[(g + i % 2 * 8) * 8 + t + i / 2 * 4]);
  for (int i = 0; i < 2; ++i) b[i] = __float_as_uint(p.b[(t + i * 4) * 8 + g]);
  float sums[4] = {};
  ptx::mma_m16n8k8_tf32(sums, a, b, sums);
  for (int i = 0; i < 4; ++i) p.c[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = sums[i];
}

void matrix_product_tf32() {
  Buffer<float> a(128), b(64), c(128);
  a.fill([](size_t i) { return static_cast<float>(i % 17) + 0x1p-11f; });  // the last bit is beyond tf32's mantissa
  b.fill([](size_t i) { return static_cast<float>(i % 13) - 6; });
  a[16] = 0;
  launch("multiply_tf32", multiply_tf32, {.block_x = 32}, nullptr, {a.data, b.data, c.data});
  const auto dropped = [](float x) { return __uint_as_float(__float_as_uint(x) & 0xffffe000u); };
  for (size_t m = 0; m < 16; ++m) {
    for (size_t n = 0; n < 8; ++n) {
      float sum = 0;
      for (size_t k = 0; k < 8; ++k) sum += dropped(a[m * 8 + k]) * b[k * 8 + n];
      check_equal(c[m * 8 + n], sum, "C");
    }
  }
}

template <typename T>
void depthwise(simt::Options options) {
  constexpr int kPlanes = 6, kChannels = 3, kHeight = 9, kWidth = 13;
  Buffer<T> x(kPlanes * kHeight * kWidth), w(kChannels * 9), y(kPlanes * kHeight * kWidth);
  x.fill([](size_t i) { return T(static_cast<float>(i * 7 % 13) - 6); });
  w.fill([](size_t i) { return T(static_cast<float>(i % 5) - 2); });
  options.check = simt::instrumented();
  simt::Session session(options);
  session.add_tensor("x", x.data, x.bytes(), simt::Role::kInput);
  session.add_tensor("w", w.data, w.bytes(), simt::Role::kInput);
  session.add_tensor("y", y.data, y.bytes(), simt::Role::kOutput);
  example::depthwise3x3<T>({x.data, w.data, y.data, kPlanes, kChannels, kHeight, kWidth}, nullptr);
  session.finish();
  for (int i = 0; i < kPlanes * kHeight * kWidth; ++i) {
    const int plane = i / (kHeight * kWidth), p = i / kWidth % kHeight, q = i % kWidth;
    float sum = 0;
    for (int r = 0; r < 3; ++r) {
      for (int s = 0; s < 3; ++s) {
        const int h = p + r - 1, v = q + s - 1;
        if (h < 0 || h >= kHeight || v < 0 || v >= kWidth) continue;
        sum += float(x[(plane * kHeight + h) * kWidth + v]) * float(w[plane % kChannels * 9 + r * 3 + s]);
      }
    }
    check_equal(float(y[i]), sum, "y");
  }
}

const Register kCases[] = {
    {"indices", indices},
    {"shared_memory-forward", [] { shared_memory(simt::ThreadOrder::kForward); }},
    {"shared_memory-reverse", [] { shared_memory(simt::ThreadOrder::kReverse); }},
    {"shared_memory-random", [] { shared_memory(simt::ThreadOrder::kRandom); }},
    {"barriers_with_votes", barriers_with_votes},
    {"warp_intrinsics-forward", [] { warp_intrinsics(simt::ThreadOrder::kForward); }},
    {"warp_intrinsics-reverse", [] { warp_intrinsics(simt::ThreadOrder::kReverse); }},
    {"warp_intrinsics-random", [] { warp_intrinsics(simt::ThreadOrder::kRandom); }},
    {"bit_intrinsics", bit_intrinsics},
    {"half_conversions", half_conversions},
    {"half_arithmetic", half_arithmetic},
    {"async_ring-eager", [] { async_ring(simt::AsyncCopy::kEager, "sm_80"); }},
    {"async_ring-late", [] { async_ring(simt::AsyncCopy::kLate, "sm_80"); }},
    {"async_ring-sm_75", [] { async_ring(simt::AsyncCopy::kLate, "sm_75"); }},
    {"async_zero_fill", async_zero_fill},
    {"matrix_product-half", matrix_product<__half, 16>},
    {"matrix_product-bfloat16", matrix_product<__nv_bfloat16, 16>},
    {"matrix_product-half-depth_8", matrix_product<__half, 8>},
    {"matrix_product-bfloat16-depth_8", matrix_product<__nv_bfloat16, 8>},
    {"matrix_product-tf32", matrix_product_tf32},
    {"shared_memory_is_poisoned", shared_memory_is_poisoned},
    {"depthwise3x3-float", [] { depthwise<float>({}); }},
    {"depthwise3x3-half-reverse", [] { depthwise<__half>({.order = simt::ThreadOrder::kReverse}); }},
    {"depthwise3x3-bfloat16-random", [] { depthwise<__nv_bfloat16>({.order = simt::ThreadOrder::kRandom}); }},
};

}  // namespace

}  // namespace convbound::test
