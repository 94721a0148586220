// The schema of the three passes: the same text for every backend.
#pragma once

// clang-format off
#define CONVBOUND_FPROP_SCHEMA                                                                                       \
  "(Tensor x, Tensor w, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, "         \
  "bool channels_last) -> Tensor"
#define CONVBOUND_DGRAD_SCHEMA                                                                                       \
  "(Tensor dy, Tensor w, Tensor? bias, SymInt[] input_size, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "  \
  "SymInt groups, bool channels_last) -> Tensor"
#define CONVBOUND_WGRAD_SCHEMA                                                                                       \
  "(Tensor dy, Tensor x, SymInt[] filter_size, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "              \
  "SymInt groups, bool bias_grad, bool channels_last) -> (Tensor, Tensor)"
// clang-format on
