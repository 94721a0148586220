#include "csrc/simt/checker.h"

#include <algorithm>
#include <bit>

#include "csrc/simt/block.h"
#include "csrc/simt/cuda/builtins.h"
#include "csrc/simt/tracer.h"

namespace convbound::simt {

namespace {

constexpr uint16_t kSeveralWarps = 0xffff;

uintptr_t address_of(const void* object) { return reinterpret_cast<uintptr_t>(object); }

std::string verb(AccessKind kind) {
  switch (kind) {
    case AccessKind::kLoad:
      return "read";
    case AccessKind::kStore:
      return "write";
    case AccessKind::kAsyncStore:
      return "cp.async write";
    default:
      return "cp.async read";
  }
}

std::string describe(const Access& access) { return std::to_string(access.bytes) + "-byte " + verb(access.kind); }

}  // namespace

void Checker::begin_launch(Tracer* tracer) {
  const Launch& launch = block_.launch();
  tracer_ = tracer;
  check_ = launch.options.check;
  last_tensor_ = nullptr;
  builtins_ = {address_of(&threadIdx), address_of(&blockIdx), address_of(&blockDim), address_of(&gridDim)};
  shared_.clear();
  size_t cells = 0;
  for (const SharedVariable& variable : launch.kernel->shared) {
    const uintptr_t begin = address_of(block_.static_shared(variable));
    shared_.push_back({begin, begin + variable.bytes, cells, variable.name});
    cells += variable.bytes;
  }
  if (launch.dynamic_shared > 0) {
    const uintptr_t begin = address_of(Block::dynamic_shared());
    shared_.push_back({begin, begin + launch.dynamic_shared, cells, "dynamic shared memory"});
    cells += launch.dynamic_shared;
  }
  cells_.assign(cells, Cell{});
  epoch_ = 0;
  clocks_.resize((launch.threads() + 31) / 32);
  for (WarpClocks& warp : clocks_) {
    warp = {};
    warp.barriers = 1;
    for (int lane = 0; lane < 32; ++lane) warp.known[lane][lane] = 1;
  }
}

void Checker::begin_block() { first_epoch_ = ++epoch_; }

void Checker::warp_barrier(unsigned warp, unsigned lanes) {
  WarpClocks& clocks = clocks_[warp];
  uint32_t joined[32] = {};
  for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
    const auto& known = clocks.known[std::countr_zero(rest)];
    for (int lane = 0; lane < 32; ++lane) joined[lane] = std::max(joined[lane], known[lane]);
  }
  const uint32_t clock = ++clocks.barriers;
  for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
    const int lane = std::countr_zero(rest);
    std::ranges::copy(joined, clocks.known[lane]);
    clocks.known[lane][lane] = clock;
  }
}

// Registers that live in memory here: the kernel's parameters, its local variables, threadIdx and friends.
bool Checker::is_private(uintptr_t address) const {
  if (block_.on_stack(reinterpret_cast<const void*>(address))) return true;
  // One by one: shared memory may lie between them.
  for (const uintptr_t builtin : builtins_) {
    if (address - builtin < sizeof(uint3)) return true;
  }
  const KernelCall& call = block_.launch().call;
  return address - address_of(call.arguments) < call.argument_bytes;
}

const Checker::SharedRange* Checker::find_shared(uintptr_t address) {
  for (const SharedRange& range : shared_) {
    if (address >= range.begin && address < range.end) return &range;
  }
  return nullptr;
}

void Checker::range(uintptr_t address, size_t bytes, AccessKind kind, uintptr_t pc) {
  if (is_private(address)) return;
  while (bytes > 0) {
    unsigned piece = 16;
    while (address % piece != 0 || piece > bytes) piece /= 2;
    access({address, piece, kind, pc});
    address += piece;
    bytes -= piece;
  }
}

void Checker::access(const Access& access) {
  if (is_private(access.address)) return;
  if (access.bytes > 1 && access.address % access.bytes != 0 && access.kind != AccessKind::kAsyncLoad &&
      access.kind != AccessKind::kAsyncLoadBypass) {
    const Tensor* tensor = block_.launch().memory->find(access.address);
    const SharedRange* range = find_shared(access.address);
    block_.fail(ErrorKind::kMisaligned, access.pc, [&] {
      return describe(access) + " at " +
             (tensor != nullptr  ? tensor->describe(access.address)
              : range != nullptr ? "byte " + std::to_string(access.address - range->begin) + " of " + range->name
                                 : "an unknown address") +
             ", whose address is no multiple of " + std::to_string(access.bytes);
    });
  }
  if (const SharedRange* range = find_shared(access.address)) {
    shared_access(*range, access);
    if (tracer_ != nullptr) tracer_->record(Space::kShared, access, block_.running());
  } else {
    global_access(access);
  }
}

void Checker::shared_access(const SharedRange& range, const Access& access) {
  if (access.address + access.bytes > range.end) {
    block_.fail(ErrorKind::kOutOfBounds, access.pc, [&] {
      return describe(access) + " that ends " + std::to_string(access.address + access.bytes - range.end) +
             " bytes past the end of " + range.name + " (" + std::to_string(range.end - range.begin) + " bytes)";
    });
  }
  if (!check_) return;
  Cell* cell = &cells_[range.first_cell + (access.address - range.begin)];
  for (unsigned i = 0; i < access.bytes; ++i, ++cell) {
    if (cell->in_flight && cell->write_epoch >= first_epoch_) {
      block_.fail(ErrorKind::kAsyncNotWaited, access.pc, [&] {
        return describe(access) + " of " + range.name + " at byte " + std::to_string(access.address - range.begin) +
               ", which a cp.async of " + block_.name_of(cell->writer) + place(cell->write_site) + " is still writing";
      });
    }
    if (is_store(access.kind)) {
      shared_write(*cell, access, range);
    } else {
      shared_read(*cell, access, range);
    }
  }
}

void Checker::shared_read(Cell& cell, const Access& access, const SharedRange& range) {
  const unsigned thread = block_.running(), warp = thread / 32, lane = thread % 32;
  if (cell.write_epoch < first_epoch_) {
    if (!block_.launch().options.check_uninitialized) return;
    block_.fail(ErrorKind::kUninitializedShared, access.pc, [&] {
      return describe(access) + " of " + range.name + " at byte " + std::to_string(access.address - range.begin) +
             ", which this block has not written";
    });
  }
  if (cell.write_epoch == epoch_ && cell.writer != thread && !ordered(cell.writer, cell.write_clock)) {
    race(access, range, "a write", cell.writer, cell.write_site);
  }
  const uint32_t clock = clock_of(thread);
  if (cell.read_epoch != epoch_) {
    cell.read_warp = static_cast<uint16_t>(warp);
    cell.read_lanes = 0;
  } else if (cell.read_warp == warp && clock > cell.read_clock) {
    bool all_ordered = true;
    for (unsigned rest = cell.read_lanes; rest != 0; rest &= rest - 1) {
      all_ordered = all_ordered && ordered(warp * 32 + static_cast<unsigned>(std::countr_zero(rest)), cell.read_clock);
    }
    if (all_ordered) cell.read_lanes = 0;
  } else if (cell.read_warp != warp) {
    cell.read_warp = kSeveralWarps;
  }
  cell.read_epoch = epoch_;
  cell.read_clock = clock;
  cell.read_lanes |= 1u << lane;
  cell.read_site = relative(access.pc);
}

void Checker::shared_write(Cell& cell, const Access& access, const SharedRange& range) {
  const unsigned thread = block_.running(), warp = thread / 32;
  if (cell.write_epoch == epoch_ && cell.writer != thread && !ordered(cell.writer, cell.write_clock)) {
    race(access, range, "a write", cell.writer, cell.write_site);
  }
  if (cell.read_epoch == epoch_) {
    if (cell.read_warp == kSeveralWarps) race(access, range, "reads of several warps", thread, cell.read_site);
    for (unsigned rest = cell.read_lanes; rest != 0; rest &= rest - 1) {
      const unsigned reader = cell.read_warp * 32u + static_cast<unsigned>(std::countr_zero(rest));
      if (reader == thread || (cell.read_warp == warp && ordered(reader, cell.read_clock))) continue;
      race(access, range, "a read", reader, cell.read_site);
    }
  }
  cell.write_epoch = epoch_;
  cell.write_clock = clock_of(thread);
  cell.writer = static_cast<uint16_t>(thread);
  cell.write_site = relative(access.pc);
  cell.in_flight = access.kind == AccessKind::kAsyncStore;
}

void Checker::async_completed(uintptr_t shared, unsigned bytes, uintptr_t pc) {
  const SharedRange* range = find_shared(shared);
  if (!check_ || range == nullptr) return;
  Cell* cell = &cells_[range->first_cell + (shared - range->begin)];
  for (unsigned i = 0; i < bytes; ++i) cell[i].in_flight = false;
  for (unsigned i = 0; i < bytes; ++i) shared_write(cell[i], {shared, bytes, AccessKind::kStore, pc}, *range);
}

void Checker::global_access(const Access& access) {
  if (last_tensor_ == nullptr || access.address < last_tensor_->begin || access.address >= last_tensor_->end) {
    last_tensor_ = block_.launch().memory->find(access.address);
  }
  Tensor* tensor = last_tensor_;
  if (tensor == nullptr || access.address + access.bytes > tensor->end) return outside(access);
  if (check_ && is_store(access.kind)) mark_written(*tensor, access);
  if (check_ && !is_store(access.kind)) check_written(*tensor, access);
  if (tracer_ != nullptr && access.bytes > 0) tracer_->record(Space::kGlobal, access, block_.running());
}

void Checker::mark_written(Tensor& tensor, const Access& access) {
  if (tensor.role == Role::kInput) {
    block_.fail(ErrorKind::kReadOnlyWritten, access.pc,
                [&] { return describe(access) + " of " + tensor.describe(access.address) + ", which is an input"; });
  }
  const uint32_t bits = static_cast<uint32_t>(((uint64_t{1} << access.bytes) - 1) << (access.address % 32));
  const uint32_t before = tensor.written[access.address / 32 - tensor.first_sector()].fetch_or(bits);
  if (tensor.role == Role::kOutput && (before & bits) != 0) {
    block_.fail(ErrorKind::kWrittenTwice, access.pc, [&] {
      return describe(access) + " of " + tensor.describe(access.address) + ", which was written before";
    });
  }
  if (tensor.role != Role::kWorkspace) return;
  const uint64_t me = (static_cast<uint64_t>(block_.launch().serial) << 32) | static_cast<uint32_t>(block_.index());
  const uintptr_t word = access.address / 4 - tensor.first_sector() * 8;
  for (unsigned i = 0; i < (access.bytes + 3) / 4; ++i) tensor.writer[word + i].store(me, std::memory_order_relaxed);
}

void Checker::check_written(Tensor& tensor, const Access& access) {
  if (tensor.role == Role::kInput) return;
  const uint32_t bits = static_cast<uint32_t>(((uint64_t{1} << access.bytes) - 1) << (access.address % 32));
  const uint32_t before = tensor.written[access.address / 32 - tensor.first_sector()].load();
  if ((before & bits) != bits && block_.launch().options.check_uninitialized) {
    block_.fail(ErrorKind::kUninitializedGlobal, access.pc, [&] {
      return describe(access) + " of " + tensor.describe(access.address) + ", which nothing has written";
    });
  }
  if (tensor.role != Role::kWorkspace) return;
  const uintptr_t word = access.address / 4 - tensor.first_sector() * 8;
  for (unsigned i = 0; i < (access.bytes + 3) / 4; ++i) {
    const uint64_t writer = tensor.writer[word + i].load(std::memory_order_relaxed);
    const uint32_t other = static_cast<uint32_t>(writer);
    if (writer >> 32 != block_.launch().serial || other == static_cast<uint32_t>(block_.index())) continue;
    block_.fail(ErrorKind::kRace, access.pc, [&] {
      return describe(access) + " of " + tensor.describe(access.address) + ", which block number " +
             std::to_string(other) + " of the same launch writes";
    });
  }
}

// Neither shared memory nor a tensor. Constants and tables of the program itself may be read. A source size of 0 reads
// nothing, but its pointer still has to be a valid one.
void Checker::outside(const Access& access) {
  if (access.kind == AccessKind::kLoad && in_loaded_module(access.address)) return;
  const Tensor* tensor = block_.launch().memory->nearest(access.address);
  const auto where = [&]() -> std::string {
    if (tensor == nullptr) return "an address outside shared memory, and no tensor is registered";
    if (access.address < tensor->end && access.address + access.bytes > tensor->end) {
      return tensor->describe(access.address) + " that ends " +
             std::to_string(access.address + access.bytes - tensor->end) + " bytes past its end";
    }
    return tensor->describe(access.address) + ", the nearest tensor, and outside the kernel's shared memory";
  };
  block_.fail(ErrorKind::kOutOfBounds, access.pc, [&] { return describe(access) + " at " + where(); });
}

// Whether what `thread` did at its clock comes before what the running thread does now, within one epoch.
bool Checker::ordered(unsigned thread, uint32_t clock) const {
  const unsigned running = block_.running();
  return thread / 32 == running / 32 && clocks_[running / 32].known[running % 32][thread % 32] >= clock;
}

uint32_t Checker::clock_of(unsigned thread) const { return clocks_[thread / 32].known[thread % 32][thread % 32]; }

uint32_t Checker::relative(uintptr_t pc) const {
  return static_cast<uint32_t>(pc - block_.launch().kernel->module_base);
}

// Only the address: looking the line up starts a process, too much for an emulated thread's stack.
std::string Checker::place(uint32_t site) const {
  char text[32];
  std::snprintf(text, sizeof(text), " {pc %zx}", static_cast<size_t>(block_.launch().kernel->module_base + site));
  return text;
}

void Checker::race(const Access& access, const SharedRange& range, const char* other, unsigned thread, uint32_t site) {
  block_.fail(ErrorKind::kRace, access.pc, [&] {
    return describe(access) + " of " + range.name + " at byte " + std::to_string(access.address - range.begin) +
           " races with " + other + (thread == block_.running() ? "" : " by " + block_.name_of(thread)) + place(site) +
           ": no barrier between them";
  });
}

}  // namespace convbound::simt
