"""A product on tensor cores, compiled for an architecture, taken apart: ``python triton_dot.py 90`` prints JSON.

No kernel of the table uses tensor cores yet; this one shows that they would be seen.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from convbound.kernels import machine_code


@triton.jit
def product(a_ptr, b_ptr, c_ptr, K, SIZE: tl.constexpr):
    row = tl.arange(0, SIZE)[:, None] * SIZE
    column = tl.arange(0, SIZE)[None, :]
    total = tl.zeros((SIZE, SIZE), tl.float32)
    for k in range(K):
        step = k * SIZE * SIZE
        total = tl.dot(tl.load(a_ptr + step + row + column), tl.load(b_ptr + step + row + column), total)
    tl.store(c_ptr + row + column, total)


if __name__ == "__main__":
    signature = {"a_ptr": "*fp16", "b_ptr": "*fp16", "c_ptr": "*fp32", "K": "i32", "SIZE": "constexpr"}
    aligned = {(index,): [["tt.divisibility", 16]] for index in range(3)}
    source = ASTSource(product, signature, {(4,): 128}, aligned)
    binary = triton.compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32), options={"num_warps": 4})
    print(json.dumps(asdict(machine_code.read(binary.asm["cubin"], binary.asm["ptx"]))))
