// What can go wrong inside an emulated kernel, thrown to the caller of the launch.
#pragma once

#include <stdexcept>
#include <string>

#include "csrc/simt/cuda/vector_types.h"

namespace convbound::simt {

enum class ErrorKind {
  kBarrierDivergence,    // a barrier that some threads miss
  kWarpMask,             // a shuffle, vote or mma whose mask differs from the lanes that arrive
  kMisaligned,           // an access of 2, 4, 8 or 16 bytes at an address that is no multiple of that
  kOutOfBounds,          // outside every registered tensor and every shared array
  kReadOnlyWritten,      // a store into an input
  kUninitializedShared,  // a read of shared memory that this block has not written
  kUninitializedGlobal,  // a read of an output or workspace byte that no launch has written
  kRace,                 // two accesses, one a write, that no barrier orders
  kAsyncNotWaited,       // an access to what a cp.async is still writing
  kWrittenTwice,         // an output byte written more than once
  kNotWritten,           // an output byte never written
  kUnsupported,          // an instruction that the profile's architecture does not have
  kTrap,                 // __trap(), or a C++ exception out of the kernel
};

// "race", "out of bounds", …: the text that starts after the kernel's name in the message.
const char* to_string(ErrorKind kind);

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, std::string kernel, dim3 block, dim3 thread, std::string site, const std::string& what);
  Error(ErrorKind kind, const std::string& what);  // of a session, not of one thread

  ErrorKind kind;
  std::string kernel;
  dim3 block, thread;
  std::string site;  // "file:line", empty if not known
};

std::string to_string(dim3 index);  // "(x, y, z)"

}  // namespace convbound::simt
