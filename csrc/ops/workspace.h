// Memory that a kernel needs beside its tensors.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <exception>
#include <optional>

#include "csrc/ops/problem.h"

namespace convbound::ops {

// A workspace from torch's allocator. It may go back there as soon as the work is launched: whoever gets it next comes
// later on the same stream.
class Workspace {
 public:
  explicit Workspace(const Tensor& like) : like_(like) {}
  void* operator()(size_t bytes) {
    const Shape shape = {static_cast<int64_t>(bytes)};
    try {
      bytes_ = torch::stable::new_empty(like_, shape, torch::headeronly::ScalarType::Byte);
    } catch (const std::exception&) {
      throw_no_memory("a workspace", shape, 1);
    }
    return bytes_->data_ptr();
  }

 private:
  const Tensor& like_;
  std::optional<Tensor> bytes_;
};

}  // namespace convbound::ops
