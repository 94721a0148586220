// The CUDA qualifiers, for a host compiler.
//
// __shared__ makes a block-scope variable thread-local and therefore static: an OS thread runs one block at a time, so
// this is one copy per running block, and `extern __shared__` stays valid C++. constinit refuses initialisers with
// code, as CUDA does. The emulator finds the variables of a kernel in the symbol table (symbols.h), so they are
// declared in the
// __global__ function itself, not in a helper that it calls.
#pragma once

#define __host__
#define __device__
#define __global__ __attribute__((noinline))
#define __shared__ constinit thread_local
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__
