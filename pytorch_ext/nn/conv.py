"""The six modules. They differ from torch's in where the convolution is computed, and in nothing else.

An instance holds what torch's holds, plus the name of a backend where one was given. So a torch module becomes one of
these by a change of its class, and the other way round, which is what :mod:`convbound.replace` does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from convbound import functional
from convbound.choice import backends


class _OnConvbound(_ConvNd):
    """What the six have in common: the attribute `backend`, and a name that tells them from torch's in a printout."""

    # A default of the class, for instances that were made by torch's constructor.
    backend: str | None = None
    _function: ClassVar[Callable[..., Tensor]]

    def extra_repr(self) -> str:
        text: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return text if self.backend is None else f"{text}, backend={self.backend!r}"

    def _get_name(self) -> str:
        return f"convbound.{type(self).__name__}"


class _Conv(_OnConvbound):
    # torch's forward calls this with its weight and bias; so do libraries that convolve with a weight of their own.
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        return self._function(
            input, weight, bias, self.stride, padding, self.dilation, self.groups, backend=self.backend
        )


class _ConvTranspose(_OnConvbound, _ConvTransposeNd):
    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        output_padding = self._output_padding(
            input,
            output_size,
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.kernel_size,  # type: ignore[arg-type]
            len(self.kernel_size),
            self.dilation,  # type: ignore[arg-type]
        )
        return self._function(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            output_padding,
            self.groups,
            self.dilation,
            backend=self.backend,
        )


def _constructor(torch_class: type[_ConvNd]) -> Callable[..., None]:
    """torch's constructor with a keyword-only ``backend=None``, in its signature too: torch.nn.utils.skip_init asks."""

    def __init__(self: Any, *args: Any, backend: str | None = None, **kwargs: Any) -> None:  # noqa: N807
        backends.check_name(type(self).__name__, backend)
        torch_class.__init__(self, *args, **kwargs)
        self.backend = backend

    signature = inspect.signature(torch_class.__init__)
    option = inspect.Parameter("backend", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="str | None")
    __init__.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # type: ignore[attr-defined]
    return __init__


class Conv1d(_Conv, torch.nn.Conv1d):
    """:class:`torch.nn.Conv1d` on :func:`convbound.conv1d`. See :class:`Conv2d`."""

    _function = staticmethod(functional.conv1d)
    __init__ = _constructor(torch.nn.Conv1d)


class Conv2d(_Conv, torch.nn.Conv2d):
    """:class:`torch.nn.Conv2d` on :func:`convbound.conv2d`.

    Takes the arguments of torch's constructor, holds the same parameters under the same names, and is an instance of
    ``torch.nn.Conv2d``. All `padding_mode`\\ s work; what is not padded with zeros is padded by torch beforehand.

    Parameters
    ----------
    backend
        Keyword-only, as for :func:`convbound.conv2d`; the attribute of that name may be changed at any time.

    Raises
    ------
    ValueError
        Where torch raises it, and when the backend is unknown.

    Examples
    --------
    >>> convbound.nn.Conv2d(32, 32, 3, padding=1, groups=32, backend="cpu")
    convbound.Conv2d(32, 32, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), groups=32, backend='cpu')
    """

    _function = staticmethod(functional.conv2d)
    __init__ = _constructor(torch.nn.Conv2d)


class Conv3d(_Conv, torch.nn.Conv3d):
    """:class:`torch.nn.Conv3d` on :func:`convbound.conv3d`. See :class:`Conv2d`."""

    _function = staticmethod(functional.conv3d)
    __init__ = _constructor(torch.nn.Conv3d)


class ConvTranspose1d(_ConvTranspose, torch.nn.ConvTranspose1d):
    """:class:`torch.nn.ConvTranspose1d` on :func:`convbound.conv_transpose1d`. See :class:`ConvTranspose2d`."""

    _function = staticmethod(functional.conv_transpose1d)
    __init__ = _constructor(torch.nn.ConvTranspose1d)


class ConvTranspose2d(_ConvTranspose, torch.nn.ConvTranspose2d):
    """:class:`torch.nn.ConvTranspose2d` on :func:`convbound.conv_transpose2d`.

    Takes the arguments of torch's constructor; its forward takes torch's `output_size`.

    Parameters
    ----------
    backend
        Keyword-only, as for :class:`Conv2d`.

    Raises
    ------
    ValueError
        Where torch raises it, and when the backend is unknown.
    """

    _function = staticmethod(functional.conv_transpose2d)
    __init__ = _constructor(torch.nn.ConvTranspose2d)


class ConvTranspose3d(_ConvTranspose, torch.nn.ConvTranspose3d):
    """:class:`torch.nn.ConvTranspose3d` on :func:`convbound.conv_transpose3d`. See :class:`ConvTranspose2d`."""

    _function = staticmethod(functional.conv_transpose3d)
    __init__ = _constructor(torch.nn.ConvTranspose3d)
