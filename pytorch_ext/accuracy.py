"""When a result is right: what it errs by, relative to what it sums, and how much of that is allowed.

The measure is |y - y64| / sum |x||w|: the error relative to what the sum would be if nothing cancelled, which is what
rounding acts on. A result may err twice as much as torch's own in the same dtype, plus a few ulps.
"""

from __future__ import annotations

import torch
from torch import Tensor

TORCH_FACTOR = 2.0
ULPS = 4.0


def largest_error(result: Tensor, exact: Tensor, scale: Tensor) -> float:
    """The largest |result - exact| / scale over all elements; `scale` is sum |x||w|.

    Infinite where an element is NaN, as one that was never written may be, and where it is not zero though nothing is
    summed there.
    """
    difference = (result.to(scale.dtype) - exact).abs_()
    relative = torch.where(scale > 0, difference / scale, torch.where(difference > 0, torch.inf, difference))
    return float(relative.nan_to_num_(nan=torch.inf, posinf=torch.inf).max())


def allowed_error(torch_error: float, dtype: torch.dtype) -> float:
    """The largest error that is allowed, given torch's own."""
    return TORCH_FACTOR * torch_error + ULPS * torch.finfo(dtype).eps
