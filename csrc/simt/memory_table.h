// The tensors a kernel may touch, and which of their bytes have been written.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace convbound::simt {

enum class Role {
  kInput,      // read only
  kOutput,     // every byte written exactly once, none read before
  kWorkspace,  // written and read in any order, but never read before it is written, nor where another block writes
};

struct Tensor {
  std::string name;
  uintptr_t begin, end;
  Role role;
  // One bit per byte, a word per 32-byte sector, counted from the sector that begin lies in. Outputs and workspaces.
  std::unique_ptr<std::atomic<uint32_t>[]> written;
  // (launch << 32 | block) of the last writer of each 4 bytes. Workspaces.
  std::unique_ptr<std::atomic<uint64_t>[]> writer;

  uintptr_t first_sector() const { return begin / 32; }
  size_t sectors() const { return (end + 31) / 32 - begin / 32; }
  std::string describe(uintptr_t address) const;  // "'y' + 12 bytes of 64"
};

class MemoryTable {
 public:
  // Throws std::invalid_argument where the range overlaps a known one. An empty range is nothing.
  void add(std::string name, const void* base, size_t bytes, Role role);

  Tensor* find(uintptr_t address);     // the tensor that holds this address, or nullptr
  Tensor* nearest(uintptr_t address);  // nullptr only when the table is empty
  uint64_t compulsory_bytes() const;   // 32 x distinct sectors of inputs and outputs
  void check_all_written() const;      // throws Error (kNotWritten)
  const std::vector<std::unique_ptr<Tensor>>& tensors() const { return tensors_; }

 private:
  std::vector<std::unique_ptr<Tensor>> tensors_;  // by address
};

}  // namespace convbound::simt
