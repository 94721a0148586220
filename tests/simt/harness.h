// A test program of the emulator: named cases, run one by one by test_emulator.py (`program --list`, `program NAME`).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "csrc/simt/error.h"
#include "csrc/simt/session.h"

namespace convbound::test {

struct Case {
  std::string name;
  std::function<void()> body;
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

struct Register {
  Register(std::string name, std::function<void()> body) { cases().push_back({std::move(name), std::move(body)}); }
};

inline void check(bool condition, const std::string& what) {
  if (!condition) throw std::logic_error("check failed: " + what);
}

template <typename A, typename B>
void check_equal(const A& actual, const B& expected, const std::string& what) {
  if (actual == expected) return;
  throw std::logic_error(what + ": " + std::to_string(actual) + " instead of " + std::to_string(expected));
}

// The body must end in simt::Error of this kind; returns it for a look at its text.
inline simt::Error expect_error(simt::ErrorKind kind, const std::function<void()>& body) {
  try {
    body();
  } catch (const simt::Error& error) {
    if (error.kind == kind) return error;
    throw std::logic_error(std::string("expected '") + simt::to_string(kind) + "', got: " + error.what());
  }
  throw std::logic_error(std::string("expected '") + simt::to_string(kind) + "', nothing was caught");
}

inline void check_text(const std::string& text, const std::string& part) {
  if (text.find(part) == std::string::npos) throw std::logic_error("'" + part + "' is not in: " + text);
}

// 64-byte aligned, as torch allocates, and poisoned with NaN.
template <typename T>
struct Buffer {
  explicit Buffer(size_t count) : count(count), storage(count * sizeof(T) + 64) {
    data = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(storage.data()) + 63) / 64 * 64);
    std::memset(static_cast<void*>(data), 0xff, bytes());
  }
  T& operator[](size_t i) { return data[i]; }
  size_t bytes() const { return count * sizeof(T); }
  Buffer& fill(const std::function<T(size_t)>& value) {
    for (size_t i = 0; i < count; ++i) data[i] = value(i);
    return *this;
  }

  size_t count;
  std::vector<char> storage;
  T* data;
};

inline int run(int argc, char** argv) {
  const std::string wanted = argc > 1 ? argv[1] : "";
  int failures = 0, ran = 0;
  for (const Case& test : cases()) {
    if (wanted == "--list") {
      std::puts(test.name.c_str());
      continue;
    }
    if (!wanted.empty() && wanted != test.name) continue;
    ++ran;
    try {
      test.body();
      std::printf("ok %s\n", test.name.c_str());
    } catch (const std::exception& exception) {
      ++failures;
      std::printf("FAIL %s: %s\n", test.name.c_str(), exception.what());
    }
  }
  return failures != 0 || (ran == 0 && wanted != "--list");
}

}  // namespace convbound::test
