"""Makes Triton's interpreter treat bf16 as a GPU does, and not check what nobody looks at.

It keeps bf16 as integers of 16 bits. Triton 3.7 rounds fp32 to them by dropping the lower half, so that results on CPU
tensors would be off by up to one ulp, and multiplies two such blocks as the integers that they are not. Importing this
file replaces the conversion, where no rounding mode was asked for, by one to nearest, ties to even, and widens the
operands of ``tl.dot``, which is exact; launch.py does so where Triton interprets. A Triton that converts in another way
is left as it is.

It also computes for each operation on integers whether that overflowed, a third of all its time, and tells only when it
debugs, which is not its default.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

_convert: Any = getattr(interpreter, "_convert_float", None)
_dot: Any = getattr(interpreter.InterpreterBuilder, "create_dot", None)


def _rounding_convert(values: Any, source: tl.dtype, target: tl.dtype, rounding: Any) -> Any:
    if (source, target, rounding) != (tl.float32, tl.bfloat16, None):
        return _convert(values, source, target, rounding)
    rounded = torch.from_numpy(np.array(values, np.float32)).to(torch.bfloat16)
    return rounded.view(torch.uint16).numpy()


def _widening_dot(builder: Any, a: Any, b: Any, *rest: Any) -> Any:
    if a.dtype.scalar == tl.bfloat16:
        a, b = (builder.cast_impl(operand, tl.float32) for operand in (a, b))
    return _dot(builder, a, b, *rest)


if _convert is not None:
    interpreter._convert_float = _rounding_convert
if _dot is not None:
    interpreter.InterpreterBuilder.create_dot = _widening_dot

_builder: Any = getattr(interpreter, "interpreter_builder", None)
if getattr(getattr(_builder, "options", None), "sanitize_overflow", False) and not _builder.options.debug:
    _builder.options = replace(_builder.options, sanitize_overflow=False)
