// The vocabulary of the C++ side: what a convolution is, in plain numbers. No torch header comes in here.
//
// A problem is the same for its three passes (x: input, w: filter, y: output, g = group of k):
//
//   fprop  y[n,k,o,p,q]  = sum over c/g,t,r,s   of x[n,c,d,h,w] * w[k,c,t,r,s]
//   dgrad  dx[n,c,d,h,w] = sum over k/g,t,r,s   of dy[n,k,o,p,q] * w[k,c,t,r,s]
//   wgrad  dw[k,c,t,r,s] = sum over n,o,p,q     of dy[n,k,o,p,q] * x[n,c,d,h,w]
//
// with h = p * stride + r * dilation - padding (and d, w alike). A transposed convolution's forward is the dgrad of the
// convolution that it transposes, its input gradient is the fprop.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace convbound {

enum class Pass : int { kFprop, kDgrad, kWgrad };
enum class DType : int { kFloat16, kBFloat16, kFloat32, kFloat64 };

// kChannelsFirst: x is NCDHW, w is KCTRS, y is NKOPQ. kChannelsLast: NDHWC, KTRSC, NOPQK.
enum class Layout : int { kChannelsFirst, kChannelsLast };

// Always three spatial dimensions, in the order depth, height, width: a 2-D convolution has depth 1, a 1-D one depth
// and height 1. All tensors are dense in the problem's layout.
struct ConvProblem {
  int64_t n, c, k, groups;
  int64_t input[3];   // D H W
  int64_t filter[3];  // T R S
  int64_t output[3];  // O P Q
  int64_t stride[3];
  int64_t padding[3];  // at the beginning; what is at the end follows from the sizes
  int64_t dilation[3];

  constexpr int64_t input_size() const { return input[0] * input[1] * input[2]; }
  constexpr int64_t filter_size() const { return filter[0] * filter[1] * filter[2]; }
  constexpr int64_t output_size() const { return output[0] * output[1] * output[2]; }
  constexpr int64_t c_per_group() const { return c / groups; }
  constexpr int64_t k_per_group() const { return k / groups; }
  constexpr bool depthwise() const { return groups == c; }
};

// As in benchmarks and tests, such as mb8g144ic144ih56iw56oc144kh3kw3sh2sw2ph1pw1. A depth of 1, and a height of 1
// below it, go unsaid, and the padding at the end is the least that gives the output's size.
std::string to_string(const ConvProblem& problem);

// The tensors of a problem by name, whichever of them the pass writes: fprop reads x, w and bias [k] and writes y;
// dgrad reads y (that is, dy), w and bias [c] and writes x; wgrad reads x and y and writes w and bias [k]. bias may be
// null. All are dense in the problem's layout, with no promise about alignment beyond that of an element.
struct Tensors {
  void* x;
  void* w;
  void* y;
  void* bias;
  void* workspace = nullptr;  // as many bytes as the kernel asks for, aligned to 16, with no values in them
};

// Where a kernel's workspace comes from: bytes that live until the work that uses them is done.
using Allocate = std::function<void*(size_t bytes)>;

}  // namespace convbound
