// naive_wgrad: dw[k,c,t,r,s] = sum over n,o,p,q of dy[n,k,o,p,q] * x[n,c,d,h,w], and dbias[k] = sum over n,o,p,q of dy.
// See naive.h. Every filter element reads x and dy once more: t*r*s times the traffic of a kernel made for speed.
#include "csrc/cpu/naive.h"
#include "csrc/cpu/parallel.h"

namespace convbound::cpu {

namespace {

template <typename T>
void wgrad(const ConvProblem& p, Layout layout, const T* dy, const T* x, T* dw) {
  const Strides xs = dense_strides(p.c, p.input, layout);
  const Strides ws = dense_strides(p.c_per_group(), p.filter, layout);
  const Strides ys = dense_strides(p.k, p.output, layout);
  const int64_t elements = p.k * p.c_per_group() * p.filter_size();

  parallel_for(elements, 1, [&](int64_t begin, int64_t end) {
    for (int64_t element = begin; element < end; element++) {
      int64_t rest = element;
      const int64_t s = rest % p.filter[2];
      const int64_t r = (rest /= p.filter[2]) % p.filter[1];
      const int64_t t = (rest /= p.filter[1]) % p.filter[0];
      const int64_t c = (rest /= p.filter[0]) % p.c_per_group();
      const int64_t k = rest / p.c_per_group();
      const int64_t x_channel = k / p.k_per_group() * p.c_per_group() + c;
      const int64_t d0 = t * p.dilation[0] - p.padding[0], h0 = r * p.dilation[1] - p.padding[1];
      const int64_t w0 = s * p.dilation[2] - p.padding[2];
      // Output positions step through x by the stride as taps do by the dilation, so the same helper clips them.
      const Taps os = taps_inside(d0, p.stride[0], p.output[0], p.input[0]);
      const Taps ps = taps_inside(h0, p.stride[1], p.output[1], p.input[1]);
      const Taps qs = taps_inside(w0, p.stride[2], p.output[2], p.input[2]);

      double sum = 0.0;
      for (int64_t n = 0; n < p.n; n++) {
        for (int64_t o = os.begin; o < os.end; o++) {
          for (int64_t op = ps.begin; op < ps.end; op++) {
            const T* xr = x + n * xs.outer + x_channel * xs.channel + (d0 + o * p.stride[0]) * xs.spatial[0] +
                          (h0 + op * p.stride[1]) * xs.spatial[1];
            const T* yr = dy + n * ys.outer + k * ys.channel + o * ys.spatial[0] + op * ys.spatial[1];
            for (int64_t q = qs.begin; q < qs.end; q++) {
              sum += double(xr[(w0 + q * p.stride[2]) * xs.spatial[2]]) * double(yr[q * ys.spatial[2]]);
            }
          }
        }
      }
      dw[k * ws.outer + c * ws.channel + t * ws.spatial[0] + r * ws.spatial[1] + s * ws.spatial[2]] = round_to<T>(sum);
    }
  });
}

template <typename T>
void bias_grad(const ConvProblem& p, Layout layout, const T* dy, T* dbias) {
  const Strides ys = dense_strides(p.k, p.output, layout);
  parallel_for(p.k, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; k++) {
      double sum = 0.0;
      for (int64_t n = 0; n < p.n; n++) {
        // The spatial positions of one channel lie a constant stride apart in both layouts.
        const T* plane = dy + n * ys.outer + k * ys.channel;
        for (int64_t i = 0; i < p.output_size(); i++) sum += double(plane[i * ys.spatial[2]]);
      }
      dbias[k] = round_to<T>(sum);
    }
  });
}

}  // namespace

void naive_wgrad(const ConvProblem& problem, DType dtype, Layout layout, const Tensors& t) {
  with_element_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    wgrad(problem, layout, static_cast<const T*>(t.y), static_cast<const T*>(t.x), static_cast<T*>(t.w));
    if (t.bias) bias_grad(problem, layout, static_cast<const T*>(t.y), static_cast<T*>(t.bias));
  });
}

}  // namespace convbound::cpu
