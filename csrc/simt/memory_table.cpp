#include "csrc/simt/memory_table.h"

#include <algorithm>
#include <stdexcept>

#include "csrc/simt/error.h"

namespace convbound::simt {

std::string Tensor::describe(uintptr_t address) const {
  const auto size = std::to_string(end - begin);
  if (address < begin) return std::to_string(begin - address) + " bytes before '" + name + "' (" + size + " bytes)";
  if (address >= end)
    return std::to_string(address - end) + " bytes past the end of '" + name + "' (" + size + " bytes)";
  return "byte " + std::to_string(address - begin) + " of '" + name + "' (" + size + " bytes)";
}

void MemoryTable::add(std::string name, const void* base, size_t bytes, Role role) {
  if (bytes == 0) return;
  auto tensor = std::make_unique<Tensor>();
  tensor->begin = reinterpret_cast<uintptr_t>(base);
  tensor->end = tensor->begin + bytes;
  tensor->role = role;
  tensor->name = std::move(name);
  const auto next =
      std::ranges::upper_bound(tensors_, tensor->begin, {}, [](const auto& known) { return known->begin; });
  const Tensor* overlap = nullptr;
  if (next != tensors_.end() && (*next)->begin < tensor->end) overlap = next->get();
  if (next != tensors_.begin() && (*std::prev(next))->end > tensor->begin) overlap = std::prev(next)->get();
  if (overlap != nullptr) {
    throw std::invalid_argument("add_tensor: '" + tensor->name + "' overlaps '" + overlap->name + "'");
  }
  if (role != Role::kInput) tensor->written = std::make_unique<std::atomic<uint32_t>[]>(tensor->sectors());
  if (role == Role::kWorkspace) tensor->writer = std::make_unique<std::atomic<uint64_t>[]>(tensor->sectors() * 8);
  tensors_.insert(next, std::move(tensor));
}

Tensor* MemoryTable::find(uintptr_t address) {
  const auto next = std::ranges::upper_bound(tensors_, address, {}, [](const auto& known) { return known->begin; });
  if (next == tensors_.begin()) return nullptr;
  Tensor* tensor = std::prev(next)->get();
  return address < tensor->end ? tensor : nullptr;
}

Tensor* MemoryTable::nearest(uintptr_t address) {
  Tensor* best = nullptr;
  uintptr_t best_distance = UINTPTR_MAX;
  for (const auto& tensor : tensors_) {
    const uintptr_t distance = address < tensor->begin  ? tensor->begin - address
                               : address >= tensor->end ? address - tensor->end + 1
                                                        : 0;
    if (distance < best_distance) {
      best = tensor.get();
      best_distance = distance;
    }
  }
  return best;
}

uint64_t MemoryTable::compulsory_bytes() const {
  uint64_t sectors = 0;
  uintptr_t counted_to = 0;
  for (const auto& tensor : tensors_) {
    if (tensor->role == Role::kWorkspace) continue;
    const uintptr_t first = std::max(tensor->first_sector(), counted_to);
    counted_to = tensor->first_sector() + tensor->sectors();
    sectors += counted_to > first ? counted_to - first : 0;
  }
  return 32 * sectors;
}

void MemoryTable::check_all_written() const {
  for (const auto& tensor : tensors_) {
    if (tensor->role != Role::kOutput) continue;
    uint64_t missing = 0;
    uintptr_t first_missing = 0;
    for (uintptr_t address = tensor->begin; address < tensor->end; ++address) {
      const uint32_t bits = tensor->written[address / 32 - tensor->first_sector()].load(std::memory_order_relaxed);
      if ((bits >> (address % 32)) & 1) continue;
      if (missing++ == 0) first_missing = address;
    }
    if (missing > 0) {
      throw Error(ErrorKind::kNotWritten,
                  std::to_string(missing) + " bytes of the output, the first is " + tensor->describe(first_missing));
    }
  }
}

}  // namespace convbound::simt
