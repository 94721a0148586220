// The part of convbound._introspect that knows the CUDA kernels: absent where the emulator is not built.
#pragma once

#include <pybind11/pybind11.h>

namespace convbound::python {

void bind_device(pybind11::module_& module);

}  // namespace convbound::python
