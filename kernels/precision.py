"""How torch wants convolutions of fp32 to be multiplied: known without Triton or a GPU."""

from __future__ import annotations

import torch


def allows_tf32() -> bool:
    """Whether torch lets cuDNN's convolutions multiply fp32 by tf32.

    ``torch.backends.cudnn.conv.fp32_precision`` says so, and takes what it is not told from
    ``torch.backends.cudnn.fp32_precision`` and ``torch.backends.fp32_precision``. The older
    ``torch.backends.cudnn.allow_tf32`` sets it too, but cannot be read once these differ: torch raises.
    """
    conv = getattr(torch.backends.cudnn, "conv", None)
    return bool(torch.backends.cudnn.allow_tf32 if conv is None else conv.fp32_precision == "tf32")
