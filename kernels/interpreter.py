"""Makes Triton's interpreter round fp32 to bf16 as a GPU does: to nearest, ties to even.

Triton 3.7 drops the lower 16 bits instead, so that results on CPU tensors would be off by up to one bf16 ulp, and no
test could compare them exactly. Importing this file replaces the conversion where no rounding mode was asked for;
launch.py does so where Triton interprets. A Triton that converts in another way is left as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

_convert: Any = getattr(interpreter, "_convert_float", None)


def _rounding_convert(values: Any, source: tl.dtype, target: tl.dtype, rounding: Any) -> Any:
    if (source, target, rounding) != (tl.float32, tl.bfloat16, None):
        return _convert(values, source, target, rounding)
    rounded = torch.from_numpy(np.array(values, np.float32)).to(torch.bfloat16)
    return rounded.view(torch.uint16).numpy()


if _convert is not None:
    interpreter._convert_float = _rounding_convert
