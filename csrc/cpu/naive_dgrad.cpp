// naive_dgrad: dx[n,c,d,h,w] = bias[c] + sum over k/g,t,r,s of dy[n,k,o,p,q] * w[k,c,t,r,s]. See naive.h.
//
// A gather: of the taps, those reach an output p for which h + padding - r * dilation is a multiple of the stride and
// the quotient lies inside. The bias is there because this pass is also the forward of a transposed convolution.
#include "csrc/cpu/naive.h"
#include "csrc/cpu/parallel.h"

namespace convbound::cpu {

namespace {

// The output position that tap `tap` connects with input position `at` (which includes the padding), or -1.
inline int64_t output_at(int64_t at, int64_t tap, int64_t dilation, int64_t stride, int64_t output) {
  const int64_t position = at - tap * dilation;
  if (position < 0 || position % stride != 0 || position / stride >= output) return -1;
  return position / stride;
}

template <typename T>
void dgrad(const ConvProblem& p, Layout layout, const T* dy, const T* w, const T* bias, T* dx) {
  const Strides xs = dense_strides(p.c, p.input, layout);
  const Strides ws = dense_strides(p.c_per_group(), p.filter, layout);
  const Strides ys = dense_strides(p.k, p.output, layout);
  const int64_t rows = p.n * p.c * p.input[0] * p.input[1];

  parallel_for(rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const int64_t h = row % p.input[1], d = row / p.input[1] % p.input[0];
      const int64_t c = row / (p.input[1] * p.input[0]) % p.c, n = row / (p.input[1] * p.input[0] * p.c);
      const int64_t group = c / p.c_per_group(), first_k = group * p.k_per_group();
      T* out = dx + n * xs.outer + c * xs.channel + d * xs.spatial[0] + h * xs.spatial[1];

      for (int64_t iw = 0; iw < p.input[2]; iw++) {
        double sum = bias ? double(bias[c]) : 0.0;
        for (int64_t t = 0; t < p.filter[0]; t++) {
          const int64_t o = output_at(d + p.padding[0], t, p.dilation[0], p.stride[0], p.output[0]);
          if (o < 0) continue;
          for (int64_t r = 0; r < p.filter[1]; r++) {
            const int64_t op = output_at(h + p.padding[1], r, p.dilation[1], p.stride[1], p.output[1]);
            if (op < 0) continue;
            for (int64_t s = 0; s < p.filter[2]; s++) {
              const int64_t q = output_at(iw + p.padding[2], s, p.dilation[2], p.stride[2], p.output[2]);
              if (q < 0) continue;
              const T* yr =
                  dy + n * ys.outer + first_k * ys.channel + o * ys.spatial[0] + op * ys.spatial[1] + q * ys.spatial[2];
              const T* wr = w + first_k * ws.outer + (c - group * p.c_per_group()) * ws.channel + t * ws.spatial[0] +
                            r * ws.spatial[1] + s * ws.spatial[2];
              for (int64_t k = 0; k < p.k_per_group(); k++) {
                sum += double(yr[k * ys.channel]) * double(wr[k * ws.outer]);
              }
            }
          }
        }
        out[iw * xs.spatial[2]] = round_to<T>(sum);
      }
    }
  });
}

}  // namespace

void naive_dgrad(const ConvProblem& problem, DType dtype, Layout layout, const Tensors& t) {
  with_element_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    dgrad(problem, layout, static_cast<const T*>(t.y), static_cast<const T*>(t.w), static_cast<const T*>(t.bias),
          static_cast<T*>(t.x));
  });
}

}  // namespace convbound::cpu
