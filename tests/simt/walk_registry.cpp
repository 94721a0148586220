// Every row of the registry of CUDA kernels on every problem of standard input, in the emulator, against plain loops in
// double; to be built under a sanitizer, without Python. A problem is a line of 22 numbers: n c k groups, then input,
// filter, output, stride, padding and dilation, each as depth, height, width.
//
// Tensors are allocated to the byte, so that AddressSanitizer sees the first access outside. Data are small integers:
// results are exact, whatever the order of the sum, but for their last rounding.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdio>
#include <iostream>
#include <memory>
#include <sstream>
#include <vector>

#include "csrc/dispatch/simt.h"

namespace convbound {

namespace {

using Values = std::vector<double>;

double value_of(__half value) { return __half2float(value); }
double value_of(__nv_bfloat16 value) { return __bfloat162float(value); }
double value_of(float value) { return value; }
double value_of(double value) { return value; }

template <typename T>
T rounded(double value) {
  return T(static_cast<float>(value));  // exact: integers far below 2^24
}

// Where an element of a dense tensor [outer][channels][3 spatial sizes] lies in the layout.
struct Index {
  int64_t channels;
  const int64_t (&size)[3];
  Layout layout;

  size_t operator()(int64_t outer, int64_t channel, const int64_t (&at)[3]) const {
    const int64_t volume = size[0] * size[1] * size[2];
    const int64_t position = (at[0] * size[1] + at[1]) * size[2] + at[2];
    return static_cast<size_t>(layout == Layout::kChannelsLast ? (outer * volume + position) * channels + channel
                                                               : (outer * channels + channel) * volume + position);
  }
};

template <typename Body>
void for_each(const int64_t (&size)[3], const Body& body) {
  for (int64_t d = 0; d < size[0]; d++) {
    for (int64_t h = 0; h < size[1]; h++) {
      for (int64_t w = 0; w < size[2]; w++) body({d, h, w});
    }
  }
}

// Calls body(x, w, y) with the positions of every product of the convolution: all three passes sum over the same ones.
template <typename Body>
void for_each_product(const ConvProblem& p, Layout layout, const Body& body) {
  const Index x{p.c, p.input, layout}, w{p.c_per_group(), p.filter, layout}, y{p.k, p.output, layout};
  for_each(p.output, [&](const int64_t (&o)[3]) {
    for_each(p.filter, [&](const int64_t (&r)[3]) {
      int64_t i[3];
      for (int axis = 0; axis < 3; axis++) {
        i[axis] = o[axis] * p.stride[axis] + r[axis] * p.dilation[axis] - p.padding[axis];
        if (i[axis] < 0 || i[axis] >= p.input[axis]) return;
      }
      for (int64_t n = 0; n < p.n; n++) {
        for (int64_t k = 0; k < p.k; k++) {
          for (int64_t c = 0; c < p.c_per_group(); c++) {
            body(x(n, k / p.k_per_group() * p.c_per_group() + c, i), w(k, c, r), y(n, k, o));
          }
        }
      }
    });
  });
}

struct Reference {
  Values x, w, y, bias;
};

Reference compute(Pass pass, const ConvProblem& p, Layout layout) {
  const auto integers = [](int64_t count, int64_t seed) {
    Values values(static_cast<size_t>(count));
    for (size_t i = 0; i < values.size(); i++) {
      values[i] = static_cast<double>((static_cast<int64_t>(i) * 7 + seed + static_cast<int64_t>(i) / 13) % 7 - 3);
    }
    return values;
  };
  Reference r{integers(p.n * p.c * p.input_size(), 1), integers(p.k * p.c_per_group() * p.filter_size(), 2),
              integers(p.n * p.k * p.output_size(), 3), integers(pass == Pass::kDgrad ? p.c : p.k, 4)};
  // The channel of an element of a dense tensor of this many channels and positions.
  const auto channel = [&](size_t i, int64_t channels, int64_t positions) {
    const auto index = static_cast<int64_t>(i);
    return static_cast<size_t>(layout == Layout::kChannelsLast ? index % channels : index / positions % channels);
  };
  if (pass == Pass::kFprop) {
    for (size_t i = 0; i < r.y.size(); i++) r.y[i] = r.bias[channel(i, p.k, p.output_size())];
    for_each_product(p, layout, [&](size_t x, size_t w, size_t y) { r.y[y] += r.x[x] * r.w[w]; });
  } else if (pass == Pass::kDgrad) {
    for (size_t i = 0; i < r.x.size(); i++) r.x[i] = r.bias[channel(i, p.c, p.input_size())];
    for_each_product(p, layout, [&](size_t x, size_t w, size_t y) { r.x[x] += r.y[y] * r.w[w]; });
  } else {
    r.w.assign(r.w.size(), 0);
    r.bias.assign(r.bias.size(), 0);
    for_each_product(p, layout, [&](size_t x, size_t w, size_t y) { r.w[w] += r.x[x] * r.y[y]; });
    for (size_t i = 0; i < r.y.size(); i++) r.bias[channel(i, p.k, p.output_size())] += r.y[i];
  }
  return r;
}

// One tensor: the reference's values, or NaN where the pass has to write.
template <typename T>
class Tensor {
 public:
  Tensor(const Values& values, bool written) : size_(values.size()), data_(new T[values.size()]) {
    for (size_t i = 0; i < size_; i++) data_[i] = written ? T(__builtin_nanf("")) : rounded<T>(values[i]);
  }
  void* data() { return data_.get(); }
  size_t wrong(const Values& values) const {
    size_t count = 0;
    for (size_t i = 0; i < size_; i++) count += !(value_of(data_[i]) == value_of(rounded<T>(values[i])));
    return count;
  }

 private:
  size_t size_;
  std::unique_ptr<T[]> data_;
};

// How many elements of the results are wrong.
template <typename T>
size_t run_row(const KernelRow& row, const ConvProblem& problem, const simt::Options& options) {
  const Reference reference = compute(row.pass, problem, row.layout);
  Tensor<T> x(reference.x, row.pass == Pass::kDgrad), w(reference.w, row.pass == Pass::kWgrad);
  Tensor<T> y(reference.y, row.pass == Pass::kFprop), bias(reference.bias, row.pass == Pass::kWgrad);
  const Tensors tensors{x.data(), w.data(), y.data(), bias.data()};
  // As large as asked for, to the byte; new aligns it to 16.
  std::unique_ptr<std::byte[]> workspace;
  const auto allocate = [&](size_t bytes) {
    workspace.reset(new std::byte[bytes]);
    return static_cast<void*>(workspace.get());
  };
  simt::run({row.pass, problem, row.dtype, row.layout, tensors, allocate, &row}, options);
  return x.wrong(reference.x) + w.wrong(reference.w) + y.wrong(reference.y) + bias.wrong(reference.bias);
}

size_t run_row(const KernelRow& row, const ConvProblem& problem, const simt::Options& options) {
  switch (row.dtype) {
    case DType::kFloat16:
      return run_row<__half>(row, problem, options);
    case DType::kBFloat16:
      return run_row<__nv_bfloat16>(row, problem, options);
    case DType::kFloat32:
      return run_row<float>(row, problem, options);
    case DType::kFloat64:
      return run_row<double>(row, problem, options);
  }
  return 1;
}

std::vector<ConvProblem> read_problems() {
  std::vector<ConvProblem> problems;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream numbers(line);
    ConvProblem p{};
    numbers >> p.n >> p.c >> p.k >> p.groups;
    for (auto* triple : {&p.input, &p.filter, &p.output, &p.stride, &p.padding, &p.dilation}) {
      for (int64_t& number : *triple) numbers >> number;
    }
    if (!numbers) throw std::runtime_error("not a problem of 22 numbers: " + line);
    problems.push_back(p);
  }
  return problems;
}

int walk(const simt::Options& options) {
  const std::vector<ConvProblem> problems = read_problems();
  int cases = 0, failures = 0;
  for (const KernelRow& row : device::rows()) {
    for (size_t i = 0; i < problems.size(); i++) {
      const ConvProblem& problem = problems[i];
      // The kernels for groups serve nearly all problems: each of their rows takes a part of them.
      constexpr size_t kParts = 6;
      if (row.family == Family::kGrouped && (i + static_cast<size_t>(row.dtype)) % kParts != 0) continue;
      if (!device::plan(row, problem, {90, 227 * 1024, 132}).refusal.empty()) continue;
      cases++;
      size_t wrong = 0;
      std::string error;
      try {
        wrong = run_row(row, problem, options);
      } catch (const std::exception& exception) {
        error = exception.what();
      }
      if (wrong == 0 && error.empty()) continue;
      failures++;
      std::printf("FAIL %s dtype %d layout %d %s: %zu wrong elements %s\n", row.name, static_cast<int>(row.dtype),
                  static_cast<int>(row.layout), to_string(problem).c_str(), wrong, error.c_str());
    }
  }
  std::printf("%zu rows, %d cases, %d failures\n", device::rows().size(), cases, failures);
  return failures != 0 || cases == 0;
}

}  // namespace

}  // namespace convbound

int main(int argc, char** argv) { return convbound::walk(convbound::simt::parse_options(argc > 1 ? argv[1] : "")); }
