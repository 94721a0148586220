// naive_fprop: y[n,k,o,p,q] = bias[k] + sum over c/g,t,r,s of x[n,c,d,h,w] * w[k,c,t,r,s]. See naive.h.
#include "csrc/cpu/naive.h"
#include "csrc/cpu/parallel.h"

namespace convbound::cpu {

namespace {

template <typename T>
void fprop(const ConvProblem& p, Layout layout, const T* x, const T* w, const T* bias, T* y) {
  const Strides xs = dense_strides(p.c, p.input, layout);
  const Strides ws = dense_strides(p.c_per_group(), p.filter, layout);
  const Strides ys = dense_strides(p.k, p.output, layout);
  const int64_t rows = p.n * p.k * p.output[0] * p.output[1];

  parallel_for(rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const int64_t op = row % p.output[1], oo = row / p.output[1] % p.output[0];
      const int64_t k = row / (p.output[1] * p.output[0]) % p.k, n = row / (p.output[1] * p.output[0] * p.k);
      const int64_t first_c = k / p.k_per_group() * p.c_per_group();
      const int64_t d0 = oo * p.stride[0] - p.padding[0], h0 = op * p.stride[1] - p.padding[1];
      const Taps ts = taps_inside(d0, p.dilation[0], p.filter[0], p.input[0]);
      const Taps rs = taps_inside(h0, p.dilation[1], p.filter[1], p.input[1]);
      T* out = y + n * ys.outer + k * ys.channel + oo * ys.spatial[0] + op * ys.spatial[1];

      for (int64_t q = 0; q < p.output[2]; q++) {
        const int64_t w0 = q * p.stride[2] - p.padding[2];
        const Taps ss = taps_inside(w0, p.dilation[2], p.filter[2], p.input[2]);
        double sum = bias ? double(bias[k]) : 0.0;
        for (int64_t c = 0; c < p.c_per_group(); c++) {
          for (int64_t t = ts.begin; t < ts.end; t++) {
            for (int64_t r = rs.begin; r < rs.end; r++) {
              const T* xr = x + n * xs.outer + (first_c + c) * xs.channel + (d0 + t * p.dilation[0]) * xs.spatial[0] +
                            (h0 + r * p.dilation[1]) * xs.spatial[1];
              const T* wr = w + k * ws.outer + c * ws.channel + t * ws.spatial[0] + r * ws.spatial[1];
              for (int64_t s = ss.begin; s < ss.end; s++) {
                sum += double(xr[(w0 + s * p.dilation[2]) * xs.spatial[2]]) * double(wr[s * ws.spatial[2]]);
              }
            }
          }
        }
        out[q * ys.spatial[2]] = round_to<T>(sum);
      }
    }
  });
}

}  // namespace

bool naive_supports(const ConvProblem&, DType, Layout, Isa) { return true; }

void naive_fprop(const ConvProblem& problem, DType dtype, Layout layout, const Tensors& t) {
  with_element_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    fprop(problem, layout, static_cast<const T*>(t.x), static_cast<const T*>(t.w), static_cast<const T*>(t.bias),
          static_cast<T*>(t.y));
  });
}

}  // namespace convbound::cpu
