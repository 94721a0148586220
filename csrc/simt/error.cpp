#include "csrc/simt/error.h"

namespace convbound::simt {

const char* to_string(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kBarrierDivergence:
      return "barrier divergence";
    case ErrorKind::kWarpMask:
      return "warp mask";
    case ErrorKind::kMisaligned:
      return "misaligned access";
    case ErrorKind::kOutOfBounds:
      return "out of bounds";
    case ErrorKind::kReadOnlyWritten:
      return "input written";
    case ErrorKind::kUninitializedShared:
      return "uninitialized shared memory";
    case ErrorKind::kUninitializedGlobal:
      return "uninitialized global memory";
    case ErrorKind::kRace:
      return "race";
    case ErrorKind::kAsyncNotWaited:
      return "cp.async not waited for";
    case ErrorKind::kWrittenTwice:
      return "written twice";
    case ErrorKind::kNotWritten:
      return "not written";
    case ErrorKind::kUnsupported:
      return "unsupported instruction";
    case ErrorKind::kTrap:
      return "trap";
  }
  return "error";
}

std::string to_string(dim3 index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

Error::Error(ErrorKind error_kind, std::string kernel_name, dim3 block_index, dim3 thread_index, std::string where,
             const std::string& what)
    : std::runtime_error(kernel_name + ": " + to_string(error_kind) + ": block " + to_string(block_index) +
                         ", thread " + to_string(thread_index) + ": " + what +
                         (where.empty() ? "" : " [" + where + "]")),
      kind(error_kind),
      kernel(std::move(kernel_name)),
      block(block_index),
      thread(thread_index),
      site(std::move(where)) {}

Error::Error(ErrorKind error_kind, const std::string& what)
    : std::runtime_error(std::string(to_string(error_kind)) + ": " + what), kind(error_kind) {}

}  // namespace convbound::simt
