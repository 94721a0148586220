// fp16 and bf16 to float and back, for the vector kernels, which compute in fp32: rounded to nearest even, as half.h
// does it.
#pragma once

#include <cstdint>

namespace convbound::cpu {

struct Converter {
  void (*widen)(const void* from, float* to, int64_t count);
  void (*narrow)(const float* from, void* to, int64_t count);
};

struct Converters {
  Converter fp16, bf16;
};

extern const Converters kConvertAvx2;
extern const Converters kConvertAvx512;

}  // namespace convbound::cpu
