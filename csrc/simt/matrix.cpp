#include "csrc/simt/matrix.h"

#include <bit>
#include <cstring>

#include "csrc/simt/block.h"
#include "csrc/simt/checker.h"
#include "csrc/simt/cuda/narrow_float.h"

namespace convbound::simt {

namespace {

struct LoadMatrixCall {
  uint32_t* registers;
  const void* row;
  int matrices;
  bool transpose;
};

struct MmaCall {
  MmaType type;
  int depth;
  float* d;
  const uint32_t* a;
  const uint32_t* b;
  const float* c;
};

void require(int capability, const char* instruction, Site site) {
  const Profile& profile = *current_block->launch().profile;
  if (profile.capability() >= capability) return;
  current_block->fail(ErrorKind::kUnsupported, site, [&] {
    return std::string(instruction) + " needs sm_" + std::to_string(capability) + ", this is " +
           std::string(profile.name);
  });
}

uint16_t half_of(uint32_t word, int index) { return static_cast<uint16_t>(index == 0 ? word : word >> 16); }

float widen(MmaType type, uint32_t word, int index) {
  switch (type) {
    case MmaType::kFloat16:
      return Binary16::widen(half_of(word, index));
    case MmaType::kBFloat16:
      return Brain16::widen(half_of(word, index));
    case MmaType::kTf32:
      return std::bit_cast<float>(word & 0xffffe000u);  // 13 mantissa bits do not take part
  }
  return 0;
}

void check_alignment(const void* address, unsigned bytes, const char* what, uintptr_t pc) {
  if (reinterpret_cast<uintptr_t>(address) % bytes == 0) return;
  current_block->fail(ErrorKind::kMisaligned, pc, [&] {
    return std::string(what) + " at an address that is no multiple of " + std::to_string(bytes);
  });
}

uintptr_t caller(void* return_address) { return reinterpret_cast<uintptr_t>(return_address); }

void completed(const CopyInFlight& copy) {
  Checker* checker = current_block->checker();
  if (checker != nullptr) checker->async_completed(reinterpret_cast<uintptr_t>(copy.shared), copy.bytes, copy.pc);
}

}  // namespace

// Below sm_80 common/ptx.h copies through registers on the GPU; so does this.
void async_copy(void* shared, const void* global, unsigned bytes, unsigned source_bytes) {
  const uintptr_t pc = caller(__builtin_return_address(0));
  check_alignment(shared, bytes, "cp.async to shared memory", pc);
  check_alignment(global, bytes, "cp.async from global memory", pc);
  if (source_bytes > bytes) {
    current_block->fail(ErrorKind::kOutOfBounds, pc, [&] {
      return "cp.async with a source size of " + std::to_string(source_bytes) + " for " + std::to_string(bytes) +
             " bytes";
    });
  }
  Block& block = *current_block;
  const bool has_instruction = block.launch().profile->capability() >= 80;
  const AccessKind load = !has_instruction ? AccessKind::kLoad
                          : bytes == 16    ? AccessKind::kAsyncLoadBypass
                                           : AccessKind::kAsyncLoad;
  const AccessKind store = has_instruction ? AccessKind::kAsyncStore : AccessKind::kStore;
  // Where the instruction does not exist, a copy with zeros behind it goes byte by byte.
  const unsigned piece = has_instruction || source_bytes == bytes ? bytes : 1;
  const auto observe = [&](const void* at, unsigned count, AccessKind kind) {
    const auto address = reinterpret_cast<uintptr_t>(at);
    if (has_instruction) return block.observe({address, count, kind, pc});
    for (unsigned i = 0; i < count; i += piece) block.observe({address + i, piece, kind, pc});
  };
  observe(global, source_bytes, load);
  observe(shared, bytes, store);
  if (!has_instruction) {
    CopyInFlight{shared, global, bytes, source_bytes, 0, false, pc}.perform();
    return;
  }
  CopyInFlight& copy = block.async_queue().issue(shared, global, bytes, source_bytes, pc);
  if (block.launch().options.async_copy == AsyncCopy::kEager) copy.perform();
}

void async_commit() { current_block->async_queue().commit(); }
void async_wait(unsigned groups_allowed) { current_block->async_queue().wait(groups_allowed, completed); }
void async_wait_all() { current_block->async_queue().wait_all(completed); }

void load_matrix(uint32_t* registers, int matrices, bool transpose, const void* row, Site site) {
  const uintptr_t pc = caller(__builtin_return_address(0));
  if (current_block->running() % 32 < static_cast<unsigned>(8 * matrices)) {
    check_alignment(row, 16, "ldmatrix row", pc);
    current_block->observe({reinterpret_cast<uintptr_t>(row), 16, AccessKind::kLoad, pc});
  }
  LoadMatrixCall matrix{registers, row, matrices, transpose};
  WarpCall call{WarpOp::kLoadMatrix, 0xffffffffu, 0, 0, 32, 0, site, &matrix};
  current_block->collective(call);
}

void mma(MmaType type, int depth, float* d, const uint32_t* a, const uint32_t* b, const float* c, Site site) {
  require(80, type == MmaType::kTf32 ? "mma.m16n8k8.tf32" : depth == 8 ? "mma.m16n8k8" : "mma.m16n8k16", site);
  MmaCall fragments{type, depth, d, a, b, c};
  WarpCall call{WarpOp::kMma, 0xffffffffu, 0, 0, 32, 0, site, &fragments};
  current_block->collective(call);
}

void complete_load_matrix(WarpCall* const* calls) {
  const auto* first = static_cast<LoadMatrixCall*>(calls[0]->payload);
  for (int matrix = 0; matrix < first->matrices; ++matrix) {
    uint16_t elements[8][8];
    for (int row = 0; row < 8; ++row) {
      std::memcpy(elements[row], static_cast<LoadMatrixCall*>(calls[matrix * 8 + row]->payload)->row, 16);
    }
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, t = lane % 4;
      const uint32_t low = first->transpose ? elements[2 * t][g] : elements[g][2 * t];
      const uint32_t high = first->transpose ? elements[2 * t + 1][g] : elements[g][2 * t + 1];
      static_cast<LoadMatrixCall*>(calls[lane]->payload)->registers[matrix] = low | (high << 16);
    }
  }
}

// Products are summed in double and rounded once: the hardware's order of summation is not documented.
void complete_mma(WarpCall* const* calls) {
  const auto of = [&](int lane) -> const MmaCall& { return *static_cast<MmaCall*>(calls[lane]->payload); };
  const MmaType type = of(0).type;
  const int pack = type == MmaType::kTf32 ? 1 : 2;  // elements per register
  const int depth = of(0).depth, b_registers = depth / (4 * pack), a_registers = 2 * b_registers;
  float a[16][16], b[16][8], d[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < a_registers; ++i) {
      for (int e = 0; e < pack; ++e) a[g + i % 2 * 8][t * pack + i / 2 * 4 * pack + e] = widen(type, of(lane).a[i], e);
    }
    for (int i = 0; i < b_registers; ++i) {
      for (int e = 0; e < pack; ++e) b[t * pack + i * 4 * pack + e][g] = widen(type, of(lane).b[i], e);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const int row = g + i / 2 * 8, column = 2 * t + i % 2;
      double sum = of(lane).c[i];
      for (int k = 0; k < depth; ++k) sum += static_cast<double>(a[row][k]) * b[k][column];
      d[row][column] = static_cast<float>(sum);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) of(lane).d[i] = d[g + i / 2 * 8][2 * t + i % 2];
  }
}

}  // namespace convbound::simt
