// csrc/cpu/parallel.h on torch's thread pool.
#include "csrc/cpu/parallel.h"

#include <torch/csrc/stable/ops.h>

namespace convbound::cpu {

void run_parallel(int64_t count, int64_t grain, RangeBody body, void* context) {
  if (count <= 0) return;
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) { body(context, begin, end); });
}

int max_threads() { return int(torch::stable::get_num_threads()); }

}  // namespace convbound::cpu
