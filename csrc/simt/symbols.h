// What the symbol tables of the loaded modules say about a kernel: its name, and its static __shared__ variables, which
// are the thread-local variables declared in its body. Also the source line of an instruction, for errors and traces.
//
// Needs an unstripped binary (.symtab). Without one, a kernel has the name that dladdr knows, and no shared variable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace convbound::simt {

struct SharedVariable {
  std::string name;
  size_t offset;  // within the thread-local storage of the kernel's module
  size_t bytes;
};

struct KernelInfo {
  std::string name;                    // without return type, parameters and namespace of the emulator's types
  std::vector<SharedVariable> shared;  // by offset
  size_t static_shared_bytes = 0;
  uintptr_t module_base = 0;
};

// Cached; safe to call from several threads.
const KernelInfo& kernel_info(const void* kernel);

// The calling thread's copy of the thread-local storage of the module at this base.
char* thread_local_block(uintptr_t module_base);

// Whether the address lies in a loaded module: code, constants and global variables.
bool in_loaded_module(uintptr_t address);

// Where the call that returns to an address stands in the source: `location` is "file.cu:12", or "symbol+0x1f" without
// debug information; `frames` are all its inlined frames in the same form, innermost first, with spaces between.
struct SourceLine {
  std::string location, frames;
};

// Cached; of many addresses at once it is quicker.
std::string source_line(uintptr_t return_address);
std::vector<SourceLine> source_lines(const std::vector<uintptr_t>& return_addresses);

}  // namespace convbound::simt
