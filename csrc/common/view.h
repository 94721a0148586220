// A convolution as kernels see it: its axes in 32 bits, and which channels meet.
//
// view_of() takes the problem as it stands: the input is x and the output y. as_fprop() takes fprop, or dgrad at stride
// 1, as the one equation
//
//   output[n,k,p,q] = sum over c,r,s of input[n,c, p * stride + r * dilation - padding, ...] * filter[k,c,r,s]
//
// dgrad at stride 1 is fprop with dy as its input, dx as its output, the taps of every channel from the end to the
// beginning, and the padding on the other side.
#pragma once

#include <initializer_list>
#include <string>

#include "csrc/conv_problem.h"

namespace convbound {

struct AxisView {
  int input, output, filter, stride, dilation, padding;

  // Positions from the first tap to the last one, that one included.
  constexpr int64_t extent() const { return (int64_t{filter} - 1) * dilation + 1; }
};

struct ConvView {
  int64_t images;
  int groups;           // of channels: a depthwise convolution has as many as x has channels
  int inputs, outputs;  // channels of a group that an output channel sums over, and output channels of a group
  AxisView d, h, w;
  bool flip;  // the taps of a channel are read from the last to the first

  constexpr int in_channels() const { return groups * inputs; }
  constexpr int out_channels() const { return groups * outputs; }
  constexpr int taps() const { return d.filter * h.filter * w.filter; }
};

namespace view {

inline AxisView axis_of(const ConvProblem& p, int i) {
  const auto size = [](int64_t value) { return static_cast<int>(value); };
  return {size(p.input[i]),  size(p.output[i]),   size(p.filter[i]),
          size(p.stride[i]), size(p.dilation[i]), size(p.padding[i])};
}

inline AxisView turned(const AxisView& axis) {
  const int padding = static_cast<int>(axis.extent() - 1 - axis.padding);
  return {axis.output, axis.input, axis.filter, axis.stride, axis.dilation, padding};
}

}  // namespace view

inline ConvView view_of(const ConvProblem& p) {
  return {p.n,
          static_cast<int>(p.groups),
          static_cast<int>(p.c_per_group()),
          static_cast<int>(p.k_per_group()),
          view::axis_of(p, 0),
          view::axis_of(p, 1),
          view::axis_of(p, 2),
          false};
}

inline ConvView as_fprop(Pass pass, const ConvProblem& p) {
  const ConvView v = view_of(p);
  if (pass != Pass::kDgrad) return v;
  return {v.images, v.groups, v.outputs, v.inputs, view::turned(v.d), view::turned(v.h), view::turned(v.w), true};
}

// What fprop reads and writes, or dgrad: then `in` is dy and `out` dx. Kernels' parameters derive from it.
template <typename T>
struct ConvTensors {
  const T* in = nullptr;
  const T* filter = nullptr;
  const T* bias = nullptr;  // or none
  T* out = nullptr;
};

// A kernel's parameters, as planned without tensors, with those of a launch.
template <typename T, template <typename> class Params>
Params<T> with_tensors(Params<T> params, Pass pass, const Tensors& t) {
  const bool dgrad = pass == Pass::kDgrad;
  params.in = static_cast<const T*>(dgrad ? t.y : t.x);
  params.filter = static_cast<const T*>(t.w);
  params.bias = static_cast<const T*>(t.bias);
  params.out = static_cast<T*>(dgrad ? t.x : t.y);
  return params;
}

// What kernels ask of a problem: functions that return the reason why not, in words, or nothing.

// Whether along every axis the padded input, outputs times stride and taps times dilation are at most `most`, and the
// channels of x and y too. By division: the products may be beyond 64 bits.
inline std::string size_beyond(const ConvProblem& p, int64_t most) {
  const auto beyond = [&](const std::string& what, int64_t value) {
    return what + " (" + std::to_string(value) + ") beyond " + std::to_string(most);
  };
  for (int i = 0; i < 3; i++) {
    const std::string axis = std::string(" along ") + "dhw"[i];
    if (p.input[i] > most - p.padding[i]) return beyond("input and padding" + axis, p.input[i]);
    if (p.output[i] > most / p.stride[i]) return beyond("outputs times stride" + axis, p.output[i]);
    if (p.filter[i] > most / p.dilation[i]) return beyond("taps times dilation" + axis, p.filter[i]);
  }
  if (p.c > most) return beyond("channels", p.c);
  if (p.k > most) return beyond("filters", p.k);
  return {};
}

// Depthwise, in one dimension or two. A depth of 1 that is padded is no such problem: its output may lie in the
// padding.
inline std::string not_depthwise_2d(const ConvProblem& p) {
  if (!p.depthwise()) return "not depthwise: groups=" + std::to_string(p.groups) + ", C=" + std::to_string(p.c);
  const bool flat = p.input[0] == 1 && p.filter[0] == 1 && p.output[0] == 1 && p.padding[0] == 0;
  return flat ? "" : "three dimensions";
}

inline std::string multiplier_beyond(const ConvProblem& p, int64_t most) {
  if (p.k_per_group() <= most) return {};
  return "K/C = " + std::to_string(p.k_per_group()) + " filters for each channel, at most " + std::to_string(most);
}

// The first reason that there is.
inline std::string first_of(std::initializer_list<std::string> reasons) {
  for (const std::string& reason : reasons) {
    if (!reason.empty()) return reason;
  }
  return {};
}

}  // namespace convbound
