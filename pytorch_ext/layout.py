"""The layout of tensors: torch's choice for the results of a convolution, so that ours have the same strides."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def to_layout(tensor: Tensor, channels_last: bool) -> Tensor:
    """The tensor, dense in the layout: itself where it is so already, else a copy."""
    if not channels_last:
        return tensor.contiguous()
    if tensor.dim() == 3:
        return tensor.transpose(1, 2).contiguous().transpose(1, 2)
    return tensor.contiguous(memory_format=torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d)


def results_are_channels_last(
    x: Tensor, w: Tensor, groups: int, stride: int | Sequence[int] = 1, output_padding: int | Sequence[int] = 0
) -> bool:
    """Whether output and gradients are channels_last, as torch decides it.

    Input or weight ask for it: a channels_last weight alone makes the output NHWC. The exceptions are torch's own: with
    one spatial dimension the input counts only where it is contiguous besides, as with one channel it can be; on a CPU
    what oneDNN does not take comes out NCDHW in three dimensions; on a GPU fp64 comes out NCHW. Stride and
    output_padding matter to a transposed convolution only.
    """
    ndim = x.dim() - 2
    if ndim == 1:
        x2, w2 = x.unsqueeze(2), w.unsqueeze(2)
        # Contiguous means standard strides, but for a size of 1: there torch looks at the stride that is there.
        looks = (x.shape[1] == 1 or x.shape[2] == 1) and x.is_contiguous()
        return _suggests_channels_last(w2) or (looks and _input_asks(x2, w2, groups))
    asked = _input_asks(x, w, groups) or _suggests_channels_last(w)
    if x.device.type != "cpu":
        return asked and x.dtype != torch.float64
    return asked and (ndim == 2 or _onednn_takes_3d(x, w, groups, stride, output_padding))


def _input_asks(x: Tensor, w: Tensor, groups: int) -> bool:
    """Whether the input asks for channels_last.

    On a CPU what oneDNN does not take is computed group by group, and a group's part of the input is asked: one channel
    of one position in several images is as good as contiguous.
    """
    lone = groups > 1 and x.shape[1] == groups and w.shape[1] == 1 and math.prod(x.shape[2:]) == 1 and x.shape[0] > 1
    by_group = lone and x.device.type == "cpu" and x.dtype not in _ONEDNN_DTYPES
    return not by_group and _suggests_channels_last(x)


def _onednn_takes_3d(
    x: Tensor, w: Tensor, groups: int, stride: int | Sequence[int], output_padding: int | Sequence[int]
) -> bool:
    """ATen's `use_mkldnn` for three spatial dimensions."""
    if x.dtype not in _ONEDNN_DTYPES or _any_at_least(output_padding, stride):
        return False
    if x.dtype != torch.float32:
        return True
    # fp32 of batch 1 and small filters goes to ATen's native code while the input is small.
    n, c, d, h, _ = x.shape
    return groups > 1 or (w.shape[-1] > 3 and w.shape[-2] > 3) or n > 1 or n * c * d * h > 20480


def _any_at_least(values: int | Sequence[int], bounds: int | Sequence[int]) -> bool:
    values = values if isinstance(values, Sequence) else [values]
    bounds = bounds if isinstance(bounds, Sequence) else [bounds]
    longest = max(len(values), len(bounds))
    values, bounds = ([*v] * (longest if len(v) == 1 else 1) for v in (values, bounds))
    return any(v >= bound for v, bound in zip(values, bounds, strict=False))


_ONEDNN_DTYPES = (
    torch.float32,
    *((torch.bfloat16,) if torch.ops.mkldnn._is_mkldnn_bf16_supported() else ()),
    *((torch.float16,) if torch.ops.mkldnn._is_mkldnn_fp16_supported() else ()),
)


def _suggests_channels_last(tensor: Tensor) -> bool:
    """torch's `suggest_memory_format`: strides that grow in the order C, W, H, (D,) N, ambiguous ones excluded."""
    strides, sizes = tensor.stride(), tensor.shape
    least = 0
    if strides[1] == 0:
        return False
    for axis in (1, *range(tensor.dim() - 1, 1, -1), 0):
        if sizes[axis] == 0 or strides[axis] < least or (axis == 0 and least == strides[1]):
            return False
        least = strides[axis] * max(sizes[axis], 1)
    return True
