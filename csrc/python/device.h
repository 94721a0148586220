// The parts of convbound._introspect that know the CUDA kernels.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>

namespace convbound {
struct KernelRow;
}

namespace convbound::python {

// Which kernel serves what: there where the kernels are built, by nvcc or for the emulator.
void bind_registry(pybind11::module_& module);

// Running them: there where the emulator is built.
void bind_emulator(pybind11::module_& module);

// The row with this index; an IndexError where there is none.
const KernelRow& row_at(size_t index);

}  // namespace convbound::python
