"""Which class a torch module takes to run on convbound's kernels, and which one it takes to go back.

A module changes its class and stays the same object, so that its parameters, hooks, mode and name, and all who hold a
reference to it (a parent, a second parent, an optimizer, a hook), do not notice. Three kinds of classes come in:

- one of torch.nn's six: it becomes its namesake here;
- a subclass that inherits their forward: a class is made that inherits from it and from the namesake, in this order;
- the class that torch.nn.utils.parametrize makes for a single module, with the parametrized weight as a property: a
  copy of it is made on top of the new base, where removing the parametrization will find it.
"""

from __future__ import annotations

import copyreg
from functools import cache
from typing import Any

import torch
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

from convbound.nn import conv

NAMES = ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")

_OURS: dict[type, type] = {getattr(torch.nn, name): getattr(conv, name) for name in NAMES}
_TORCHS: dict[type, type] = {ours: theirs for theirs, ours in _OURS.items()}


def torch_class(module: torch.nn.Module) -> type | None:
    """The one of torch.nn's six classes that the module's class is or derives from."""
    return next((base for base in type(module).__mro__ if base in _OURS), None)


def is_ours(module: torch.nn.Module) -> bool:
    """Whether the module runs on convbound already."""
    return isinstance(module, conv._OnConvbound)


def can_be_torchs(module: torch.nn.Module) -> bool:
    """Whether `make_torchs` knows a class for the module; it knows none for a user's subclass of one of ours."""
    return _torchs_class(_below_parametrization(module)) is not None


def make_ours(module: _ConvNd) -> None:
    """Let a module of torch's, or of a subclass that inherits its forward, run on convbound."""
    _put_on(module, _our_class(_below_parametrization(module)))


def make_torchs(module: _ConvNd) -> None:
    """Undo `make_ours`; a module that was built as one of ours becomes torch's, too."""
    _put_on(module, _torchs_class(_below_parametrization(module)))


def _below_parametrization(module: torch.nn.Module) -> type:
    cls = type(module)
    return cls.__bases__[0] if is_parametrized(module) else cls


def _put_on(module: Any, base: Any) -> None:
    if is_parametrized(module):
        # A copy: deep copies of a module share its parametrized class, and only this one shall change.
        cls: Any = type(module)
        members = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
        base = type(cls)(cls.__name__, (base,), members)
    module.__class__ = base


class _Derived:
    """First base of the classes that are made here, which no import finds: pickle is told how they are made."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(max(protocol, 2))
        make, arguments, *state = reduced
        if make is copyreg.__newobj__:  # type: ignore[attr-defined]
            make, arguments = _new_derived, (_torchs_class(arguments[0]), *arguments[1:])
        return make, arguments, *state


def _new_derived(cls: Any, *arguments: Any) -> Any:
    derived: Any = _our_class(cls)
    return derived.__new__(derived, *arguments)


@cache
def _our_class(cls: type) -> type:
    if cls in _OURS:
        return _OURS[cls]
    namesake = next(_OURS[base] for base in cls.__mro__ if base in _OURS)
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls)(cls.__name__, (_Derived, cls, namesake), names)


def _torchs_class(cls: type) -> type | None:
    if cls in _TORCHS:
        return _TORCHS[cls]
    return cls.__bases__[1] if cls.__bases__[0] is _Derived else None
