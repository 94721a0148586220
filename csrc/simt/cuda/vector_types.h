// CUDA's vector types with CUDA's sizes and alignments, and their make_ functions.
//
// A load or a store of a uint4 is one 16-byte access on a GPU, and must be one for the checker and the tracer. Loads
// are, as long as the compiler does not split aggregates (-fno-tree-sra in the instrumented build). But g++ would build
// `*p = make_uint4(a, b, c, d)` member by member in its place: therefore the assignment operators. They make the types
// not trivially copyable for the type traits; they are still aggregates.
#pragma once

namespace convbound::simt {

template <int kBytes>
struct WholeVector {
  typedef unsigned char Type __attribute__((vector_size(kBytes), may_alias));
};

template <typename T>
__attribute__((always_inline)) inline T& assign_whole(T& to, const T& from) {
  using Vector = typename WholeVector<sizeof(T)>::Type;
  reinterpret_cast<Vector&>(to) = reinterpret_cast<const Vector&>(from);
  return to;
}

}  // namespace convbound::simt

struct alignas(1) char1 {
  signed char x;
};
struct alignas(2) char2 {
  signed char x, y;
  char2& operator=(const char2& other) { return convbound::simt::assign_whole(*this, other); }
};
struct alignas(1) char3 {
  signed char x, y, z;
};
struct alignas(4) char4 {
  signed char x, y, z, w;
  char4& operator=(const char4& other) { return convbound::simt::assign_whole(*this, other); }
};
struct alignas(1) uchar1 {
  unsigned char x;
};
struct alignas(2) uchar2 {
  unsigned char x, y;
  uchar2& operator=(const uchar2& other) { return convbound::simt::assign_whole(*this, other); }
};
struct alignas(1) uchar3 {
  unsigned char x, y, z;
};
struct alignas(4) uchar4 {
  unsigned char x, y, z, w;
  uchar4& operator=(const uchar4& other) { return convbound::simt::assign_whole(*this, other); }
};
struct alignas(2) short1 {
  short x;
};
struct alignas(4) short2 {
  short x, y;
  short2& operator=(const short2& other) { return convbound::simt::assign_whole(*this, other); }
};
struct alignas(2) short3 {
  short x, y, z;
};
struct alignas(8) short4 {
  short x, y, z, w;
  short4& operator=(const short4& other) { return convbound::simt::assign_whole(*this, other); }
};
struct alignas(2) ushort1 {
  unsigned short x;
};
struct alignas(4) ushort2 {
  unsigned short x, y;
  ushort2& operator=(const ushort2& other) { return convbound::simt::assign_whole(*this, other); }
};
struct alignas(2) ushort3 {
  unsigned short x, y, z;
};
struct alignas(8) ushort4 {
  unsigned short x, y, z, w;
  ushort4& operator=(const ushort4& other) { return convbound::simt::assign_whole(*this, other); }
};
struct alignas(4) int1 {
  int x;
};
struct alignas(8) int2 {
  int x, y;
  int2& operator=(const int2& other) { return convbound::simt::assign_whole(*this, other); }
};
struct alignas(4) int3 {
  int x, y, z;
};
struct alignas(16) int4 {
  int x, y, z, w;
  int4& operator=(const int4& other) { return convbound::simt::assign_whole(*this, other); }
};
struct alignas(4) uint1 {
  unsigned x;
};
struct alignas(8) uint2 {
  unsigned x, y;
  uint2& operator=(const uint2& other) { return convbound::simt::assign_whole(*this, other); }
};
struct alignas(4) uint3 {
  unsigned x, y, z;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
  uint4& operator=(const uint4& other) { return convbound::simt::assign_whole(*this, other); }
};
struct alignas(8) longlong1 {
  long long x;
};
struct alignas(16) longlong2 {
  long long x, y;
  longlong2& operator=(const longlong2& other) { return convbound::simt::assign_whole(*this, other); }
};
struct alignas(8) ulonglong1 {
  unsigned long long x;
};
struct alignas(16) ulonglong2 {
  unsigned long long x, y;
  ulonglong2& operator=(const ulonglong2& other) { return convbound::simt::assign_whole(*this, other); }
};
struct alignas(4) float1 {
  float x;
};
struct alignas(8) float2 {
  float x, y;
  float2& operator=(const float2& other) { return convbound::simt::assign_whole(*this, other); }
};
struct alignas(4) float3 {
  float x, y, z;
};
struct alignas(16) float4 {
  float x, y, z, w;
  float4& operator=(const float4& other) { return convbound::simt::assign_whole(*this, other); }
};
struct alignas(8) double1 {
  double x;
};
struct alignas(16) double2 {
  double x, y;
  double2& operator=(const double2& other) { return convbound::simt::assign_whole(*this, other); }
};

inline char1 make_char1(signed char x) { return char1{x}; }
inline char2 make_char2(signed char x, signed char y) { return char2{x, y}; }
inline char3 make_char3(signed char x, signed char y, signed char z) { return char3{x, y, z}; }
inline char4 make_char4(signed char x, signed char y, signed char z, signed char w) { return char4{x, y, z, w}; }
inline uchar1 make_uchar1(unsigned char x) { return uchar1{x}; }
inline uchar2 make_uchar2(unsigned char x, unsigned char y) { return uchar2{x, y}; }
inline uchar3 make_uchar3(unsigned char x, unsigned char y, unsigned char z) { return uchar3{x, y, z}; }
inline uchar4 make_uchar4(unsigned char x, unsigned char y, unsigned char z, unsigned char w) {
  return uchar4{x, y, z, w};
}
inline short1 make_short1(short x) { return short1{x}; }
inline short2 make_short2(short x, short y) { return short2{x, y}; }
inline short3 make_short3(short x, short y, short z) { return short3{x, y, z}; }
inline short4 make_short4(short x, short y, short z, short w) { return short4{x, y, z, w}; }
inline ushort1 make_ushort1(unsigned short x) { return ushort1{x}; }
inline ushort2 make_ushort2(unsigned short x, unsigned short y) { return ushort2{x, y}; }
inline ushort3 make_ushort3(unsigned short x, unsigned short y, unsigned short z) { return ushort3{x, y, z}; }
inline ushort4 make_ushort4(unsigned short x, unsigned short y, unsigned short z, unsigned short w) {
  return ushort4{x, y, z, w};
}
inline int1 make_int1(int x) { return int1{x}; }
inline int2 make_int2(int x, int y) { return int2{x, y}; }
inline int3 make_int3(int x, int y, int z) { return int3{x, y, z}; }
inline int4 make_int4(int x, int y, int z, int w) { return int4{x, y, z, w}; }
inline uint1 make_uint1(unsigned x) { return uint1{x}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return uint2{x, y}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return uint3{x, y, z}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return uint4{x, y, z, w}; }
inline longlong1 make_longlong1(long long x) { return longlong1{x}; }
inline longlong2 make_longlong2(long long x, long long y) { return longlong2{x, y}; }
inline ulonglong1 make_ulonglong1(unsigned long long x) { return ulonglong1{x}; }
inline ulonglong2 make_ulonglong2(unsigned long long x, unsigned long long y) { return ulonglong2{x, y}; }
inline float1 make_float1(float x) { return float1{x}; }
inline float2 make_float2(float x, float y) { return float2{x, y}; }
inline float3 make_float3(float x, float y, float z) { return float3{x, y, z}; }
inline float4 make_float4(float x, float y, float z, float w) { return float4{x, y, z, w}; }
inline double1 make_double1(double x) { return double1{x}; }
inline double2 make_double2(double x, double y) { return double2{x, y}; }

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1) : x(x_size), y(y_size), z(z_size) {}
  constexpr dim3(uint3 size) : x(size.x), y(size.y), z(size.z) {}
  constexpr operator uint3() const { return uint3{x, y, z}; }
};
