#include "csrc/simt/symbols.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <link.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string_view>

namespace convbound::simt {

namespace {

struct Symbol {
  std::string name;
  uint64_t value;
  uint64_t bytes;
};

struct Module {
  uintptr_t base = 0;
  std::string path;
  std::vector<Symbol> functions;      // by value
  std::vector<Symbol> thread_locals;  // by name
};

struct FoundModule {
  uintptr_t address;
  uintptr_t base;
  std::string path;
  void* tls_block;
};

// Finds the module that has a segment with this address (when base is 0), or that was loaded at this base.
int visit_module(dl_phdr_info* info, size_t, void* argument) {
  auto* found = static_cast<FoundModule*>(argument);
  bool match = found->address == 0 && info->dlpi_addr == found->base;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr) & segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD || found->address == 0) continue;
    const uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
    match = match || (found->address >= begin && found->address < begin + segment.p_memsz);
  }
  if (!match) return 0;
  found->base = info->dlpi_addr;
  found->path = info->dlpi_name[0] != '\0' ? info->dlpi_name : "/proc/self/exe";
  found->tls_block = info->dlpi_tls_data;
  return 1;
}

void read_symbols(Module& module) {
  std::ifstream file(module.path, std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (bytes.size() < sizeof(ElfW(Ehdr))) return;
  const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(bytes.data());
  const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(bytes.data() + header->e_shoff);
  for (int i = 0; i < header->e_shnum; ++i) {
    if (sections[i].sh_type != SHT_SYMTAB) continue;
    const auto* symbols = reinterpret_cast<const ElfW(Sym)*>(bytes.data() + sections[i].sh_offset);
    const char* names = bytes.data() + sections[sections[i].sh_link].sh_offset;
    for (size_t s = 0; s < sections[i].sh_size / sizeof(ElfW(Sym)); ++s) {
      const ElfW(Sym) & symbol = symbols[s];
      const auto type = ELF64_ST_TYPE(symbol.st_info);
      if (symbol.st_shndx == SHN_UNDEF) continue;
      if (type == STT_FUNC) module.functions.push_back({names + symbol.st_name, symbol.st_value, symbol.st_size});
      if (type == STT_TLS) module.thread_locals.push_back({names + symbol.st_name, symbol.st_value, symbol.st_size});
    }
  }
  std::ranges::sort(module.functions, {}, &Symbol::value);
  std::ranges::sort(module.thread_locals, {}, &Symbol::name);
}

std::string demangle(const std::string& symbol) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(abi::__cxa_demangle(symbol.c_str(), nullptr, nullptr, &status),
                                                    std::free);
  return status == 0 ? text.get() : symbol;
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at))
    text.replace(at, from.size(), to);
}

// "void convbound::scale<float>(float*, int)" -> "convbound::scale<float>".
std::string short_name(std::string name) {
  replace_all(name, "convbound::simt::Narrow<convbound::simt::Binary16>", "__half");
  replace_all(name, "convbound::simt::Narrow<convbound::simt::Brain16>", "__nv_bfloat16");
  replace_all(name, "__half >", "__half>");  // as nvcc's names, which have no template there
  replace_all(name, "__nv_bfloat16 >", "__nv_bfloat16>");
  replace_all(name, "(anonymous namespace)::", "");
  if (name.starts_with("void ")) name.erase(0, 5);
  if (!name.ends_with(')')) return name;
  int depth = 0;
  for (size_t i = name.size(); i-- > 0;) {
    if (name[i] == ')') ++depth;
    if (name[i] == '(' && --depth == 0) return name.substr(0, i);
  }
  return name;
}

const Symbol* function_at(const Module& module, uintptr_t address) {
  const uint64_t value = address - module.base;
  auto after = std::ranges::upper_bound(module.functions, value, {}, &Symbol::value);
  if (after == module.functions.begin()) return nullptr;
  const Symbol& symbol = *--after;
  return value < symbol.value + std::max<uint64_t>(symbol.bytes, 1) ? &symbol : nullptr;
}

// The mangled name of a variable declared in a function is _ZZ<function>E<length><variable>.
std::vector<SharedVariable> variables_of(const Module& module, const std::string& function) {
  const std::string encoding =
      function.starts_with("_Z") ? function.substr(2) : std::to_string(function.size()) + function;
  const std::string prefix = "_ZZ" + encoding + "E";
  std::vector<SharedVariable> variables;
  for (auto it = std::ranges::lower_bound(module.thread_locals, prefix, {}, &Symbol::name);
       it != module.thread_locals.end() && it->name.starts_with(prefix); ++it) {
    std::string name = demangle(it->name);
    const size_t colons = name.rfind("::");
    if (colons != std::string::npos) name.erase(0, colons + 2);
    variables.push_back({std::move(name), it->value, it->bytes});
  }
  std::ranges::sort(variables, {}, &SharedVariable::offset);
  return variables;
}

class SymbolCache {
 public:
  const Module& module_at(uintptr_t address) {
    const std::lock_guard lock(mutex_);
    FoundModule found{address, 0, "", nullptr};
    dl_iterate_phdr(visit_module, &found);
    std::unique_ptr<Module>& module = modules_[found.base];
    if (!module) {
      module = std::make_unique<Module>();
      module->base = found.base;
      module->path = found.path;
      read_symbols(*module);
    }
    return *module;
  }

  const KernelInfo& kernel(const void* kernel) {
    const auto address = reinterpret_cast<uintptr_t>(kernel);
    {
      const std::lock_guard lock(mutex_);
      const auto known = kernels_.find(address);
      if (known != kernels_.end()) return *known->second;
    }
    const Module& module = module_at(address);
    auto info = std::make_unique<KernelInfo>();
    info->module_base = module.base;
    if (const Symbol* symbol = function_at(module, address)) {
      info->name = short_name(demangle(symbol->name));
      info->shared = variables_of(module, symbol->name);
      for (const SharedVariable& variable : info->shared) info->static_shared_bytes += (variable.bytes + 15) / 16 * 16;
    } else {
      Dl_info known{};
      info->name =
          dladdr(kernel, &known) != 0 && known.dli_sname != nullptr ? short_name(demangle(known.dli_sname)) : "kernel";
    }
    const std::lock_guard lock(mutex_);
    return *kernels_.try_emplace(address, std::move(info)).first->second;
  }

 private:
  std::mutex mutex_;
  std::map<uintptr_t, std::unique_ptr<Module>> modules_;
  std::map<uintptr_t, std::unique_ptr<KernelInfo>> kernels_;
};

SymbolCache& cache() {
  static SymbolCache symbols;
  return symbols;
}

// Of the inlined frames of an instruction, innermost first, the first that is in no stand-in for CUDA nor in a helper
// of all kernels: the line that a reader of the kernel knows.
bool is_stand_in(const std::string& line) {
  for (const char* folder : {"simt/cuda/", "simt/include/", "csrc/common/", "/include/c++/"}) {
    if (line.find(folder) != std::string::npos) return true;
  }
  return false;
}

// From what addr2line writes of one address: a line for each inlined frame, innermost first.
SourceLine read_frames(const std::string& text) {
  SourceLine found;
  bool chosen = false;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    line = line.substr(0, line.find(" (discriminator"));
    const bool unknown = line.starts_with("??") || line.ends_with(":?") || line.ends_with(":0");
    const std::string short_line = unknown ? "" : line.substr(line.rfind('/') + 1);
    if (!unknown) found.frames += (found.frames.empty() ? "" : " ") + short_line;
    if (chosen) continue;
    found.location = short_line;  // the last one, where all are stand-ins
    chosen = !is_stand_in(line);
  }
  return found;
}

// One process for all addresses of a module: reading its debug information is what takes the time.
std::vector<SourceLine> run_addr2line(const std::string& path, uintptr_t base,
                                      const std::vector<uintptr_t>& return_addresses) {
  std::string command = "addr2line -a -i -e '";
  for (const char c : path) command += c == '\'' ? std::string("'\\''") : std::string(1, c);
  command += "'";
  for (const uintptr_t address : return_addresses) {
    char hex[32];
    std::snprintf(hex, sizeof(hex), " 0x%llx", static_cast<unsigned long long>(address - 1 - base));
    command += hex;
  }
  command += " 2>/dev/null";
  std::vector<std::string> frames;
  if (FILE* pipe = popen(command.c_str(), "r")) {
    char buffer[4096];
    while (std::fgets(buffer, sizeof(buffer), pipe) != nullptr) {
      if (std::string_view(buffer).starts_with("0x")) {
        frames.emplace_back();
      } else if (!frames.empty()) {
        frames.back() += buffer;
      }
    }
    pclose(pipe);
  }
  frames.resize(return_addresses.size());
  std::vector<SourceLine> found;
  std::ranges::transform(frames, std::back_inserter(found), read_frames);
  return found;
}

}  // namespace

const KernelInfo& kernel_info(const void* kernel) { return cache().kernel(kernel); }

char* thread_local_block(uintptr_t module_base) {
  FoundModule found{0, module_base, "", nullptr};
  dl_iterate_phdr(visit_module, &found);
  return static_cast<char*>(found.tls_block);
}

bool in_loaded_module(uintptr_t address) {
  FoundModule found{address, 0, "", nullptr};
  return dl_iterate_phdr(visit_module, &found) != 0;
}

std::vector<SourceLine> source_lines(const std::vector<uintptr_t>& return_addresses) {
  static std::mutex mutex;
  static std::map<uintptr_t, SourceLine> known;
  const std::lock_guard lock(mutex);
  std::map<const Module*, std::vector<uintptr_t>> wanted;
  for (const uintptr_t address : return_addresses) {
    if (known.try_emplace(address).second) wanted[&cache().module_at(address - 1)].push_back(address);
  }
  for (const auto& [module, addresses] : wanted) {
    // /proc/self/exe would be addr2line itself in the child process.
    char executable[4096];
    std::string path = module->path;
    if (path == "/proc/self/exe" && realpath(path.c_str(), executable) != nullptr) path = executable;
    const std::vector<SourceLine> lines = run_addr2line(path, module->base, addresses);
    for (size_t i = 0; i < addresses.size(); ++i) {
      std::string& line = (known[addresses[i]] = lines[i]).location;
      const Symbol* symbol = line.empty() ? function_at(*module, addresses[i] - 1) : nullptr;
      if (symbol == nullptr) continue;
      char offset[32];
      std::snprintf(offset, sizeof(offset), "+0x%llx",
                    static_cast<unsigned long long>(addresses[i] - 1 - module->base - symbol->value));
      line = short_name(demangle(symbol->name)) + offset;
    }
  }
  std::vector<SourceLine> lines;
  for (const uintptr_t address : return_addresses) lines.push_back(known[address]);
  return lines;
}

std::string source_line(uintptr_t return_address) { return source_lines({return_address}).front().location; }

}  // namespace convbound::simt
