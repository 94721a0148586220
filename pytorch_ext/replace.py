"""Put convbound's convolutions into a model, in place, and take them out again; each says what it did and why.

A module is replaced by changing its class (see :mod:`convbound.nn.classes`): it stays the same object with the same
parameters, so nothing has to be copied, and nothing that refers to it has to be told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, overload

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin

from convbound.choice import backends
from convbound.nn import classes
from convbound.problem import ConvProblem, Family
from convbound.text_table import aligned

FAMILIES: tuple[Family, ...] = get_args(Family)
OWN_FAMILIES: tuple[Family, ...] = ("depthwise", "grouped", "dilated", "transposed")

Action = Literal["replaced", "restored", "left"]


@dataclass(frozen=True)
class Record:
    """What became of one module; `path` is its first name in the model, empty for the model itself."""

    path: str
    kind: str
    family: Family | None
    action: Action
    reason: str


class Report(Sequence[Record]):
    """One record per convolution of a model, in the model's order. ``str`` makes a table of it, with totals."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = tuple(records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Record, ...]: ...
    def __getitem__(self, index: int | slice) -> Record | tuple[Record, ...]:
        return self._records[index]

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    @property
    def replaced(self) -> tuple[Record, ...]:
        """The modules that now run on convbound, by this call."""
        return self._with("replaced")

    @property
    def restored(self) -> tuple[Record, ...]:
        """The modules that are torch's again, by this call."""
        return self._with("restored")

    @property
    def left(self) -> tuple[Record, ...]:
        """The modules that were not touched."""
        return self._with("left")

    def _with(self, action: Action) -> tuple[Record, ...]:
        return tuple(record for record in self if record.action == action)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._totals()}>"

    def __str__(self) -> str:
        if not self:
            return self._totals()
        rows = [("module", "kind", "family", "action", "why")]
        rows += [(r.path or "(the model)", r.kind, r.family or "", r.action, r.reason) for r in self]
        return f"{aligned(rows)}\n\n{self._totals()}"

    def _totals(self) -> str:
        if not self:
            return "no convolutions"
        parts = []
        for action in get_args(Action):
            if some := self._with(action):
                families = Counter(record.family or "other" for record in some)
                parts.append(f"{len(some)} {action} ({', '.join(f'{n} {f}' for f, n in families.most_common())})")
        return f"{len(self)} convolutions: {', '.join(parts)}"


def replace_convs(
    model: nn.Module,
    *,
    backend: str | None = None,
    families: Family | Literal["all"] | Collection[Family] = OWN_FAMILIES,
    predicate: Callable[[str, nn.Module], bool] | None = None,
) -> Report:
    """Let the convolutions of a model run on convbound, in place.

    Weights, hooks, training mode, parametrizations, ``state_dict`` and the identity of every module stay as they are.
    A model that was compiled before compiles anew at its next call.

    Parameters
    ----------
    model
        Any module; a convolution itself, too.
    backend
        Given to each convolution that is replaced, and to those of the chosen families that run on convbound already;
        see :func:`convbound.conv2d`.
    families
        Which to replace. By default the four that convbound has kernels for: depthwise (as many groups as input
        channels, which one channel makes of any), dilated, grouped, and transposed whatever its groups and dilation.
        ``"all"`` adds the dense ones.
    predicate
        Called as ``predicate(path, module)`` for each that would be replaced; a false answer leaves it.

    Returns
    -------
    Report
        One record per convolution, replaced or left, with the reason. Left are, besides what was not asked for, those
        that cannot be replaced faithfully: with a forward of their own, lazy, quantized, scripted, or with weights of
        another type than Parameter.

    Raises
    ------
    TypeError, ValueError
        When `model` is no module, or `backend` or a family is unknown. The model is unchanged then, as it is when
        `predicate` raises.

    Examples
    --------
    >>> report = convbound.replace_convs(model)
    >>> print(report)
    module            kind    family     action    why
    ----------------  ------  ---------  --------  ---------------------------
    stem.conv         Conv2d  dense      left      dense is not in families
    blocks.0.dw.conv  Conv2d  depthwise  replaced  runs on convbound.nn.Conv2d
    <BLANKLINE>
    2 convolutions: 1 replaced (1 depthwise), 1 left (1 dense)
    """
    _check_model("replace_convs", model)
    backends.check_name("replace_convs", backend)
    wanted = _checked_families(families)
    decisions = []
    for path, module in _convolutions(model):
        family = _family(module)
        reason = _obstacle(module) or _unwanted(path, module, family, wanted, predicate)
        if reason is None and classes.is_ours(module) and backend is None:
            reason = f"runs on convbound already, with backend={_backend_of(module)!r}"
        decisions.append((path, module, family, reason))

    records = []
    for path, module, family, reason in decisions:
        action: Action = "left"
        kind = type(module).__name__
        if reason is None:
            action = "replaced"
            reason = _replace(module, backend)
        records.append(Record(path, kind, family, action, reason))
    return Report(records)


def restore_convs(model: nn.Module) -> Report:
    """Let every convolution of a model run on torch again, in place: the reverse of :func:`replace_convs`.

    Modules built from :mod:`convbound.nn` become torch's, too; a backend they were given is forgotten.

    Parameters
    ----------
    model
        Any module; a convolution itself, too.

    Returns
    -------
    Report
        One record per convolution that ran on convbound. Only those of a user's own subclass of :mod:`convbound.nn`
        are left, because there is no class of torch's for them.

    Raises
    ------
    TypeError
        When `model` is no module.
    """
    _check_model("restore_convs", model)
    records = []
    for path, module in _convolutions(model):
        if not classes.is_ours(module):
            continue
        family, kind = _family(module), type(module).__name__
        if classes.can_be_torchs(module):
            classes.make_torchs(module)
            vars(module).pop("backend", None)
            records.append(Record(path, kind, family, "restored", f"runs on torch.nn.{_torch_name(module)}"))
        else:
            records.append(Record(path, kind, family, "left", f"{kind} is a subclass of one of convbound.nn's"))
    return Report(records)


def _check_model(caller: str, model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{caller}: model={model!r} must be a torch.nn.Module")


def _checked_families(families: Any) -> tuple[Family, ...]:
    if families == "all":
        return FAMILIES
    chosen = (families,) if isinstance(families, str) else tuple(families)
    for family in chosen:
        if family not in FAMILIES:
            raise ValueError(f"replace_convs: families={families!r}: choose from {', '.join(FAMILIES)}, or 'all'")
    return chosen


def _convolutions(model: nn.Module) -> list[tuple[str, Any]]:
    """All modules that are convolutions, or go by the name of one, as quantized and scripted ones do."""
    found = []
    for path, module in model.named_modules():
        names = [base.__name__ for base in type(module).__mro__] + [getattr(module, "original_name", "")]
        if isinstance(module, _ConvNd) or any(name in classes.NAMES for name in names):
            found.append((path, module))
    return found


def _torch_name(module: nn.Module) -> str:
    base = classes.torch_class(module)
    return base.__name__ if base else type(module).__name__


def _backend_of(module: Any) -> str | None:
    backend: str | None = module.backend
    return backend


def _family(module: Any) -> Family | None:
    """The family, which depends on no sizes but the filter's; None for what is no convolution of torch's."""
    if classes.torch_class(module) is None or not (module.in_channels and module.out_channels):
        return None
    if module.transposed:
        return "transposed"
    extent = tuple(d * (r - 1) + 1 for d, r in zip(module.dilation, module.kernel_size, strict=True))
    shape = {"input": extent, "filter": module.kernel_size, "dilation": module.dilation, "groups": module.groups}
    return ConvProblem(n=1, c=module.in_channels, k=module.out_channels, **shape).family


def _obstacle(module: Any) -> str | None:
    """Why a module cannot be replaced faithfully, or None."""
    kind = type(module).__name__
    base: Any = classes.torch_class(module)
    if base is None:
        return f"{type(module).__module__}.{kind} is no torch.nn.Conv or ConvTranspose"
    if isinstance(module, LazyModuleMixin):
        return "lazy: becomes a convolution with its first call"
    if not (module.in_channels and module.out_channels):
        return f"has no channels: in_channels={module.in_channels}, out_channels={module.out_channels}"
    if not classes.is_ours(module):
        for method in ("forward", "_conv_forward", "__call__"):
            if method in vars(module):
                return f"its {method} was replaced on the instance"
            if getattr(type(module), method) is not getattr(base, method):
                return f"{kind} has a {method} of its own"
        if hasattr(module, "backend"):
            return "has an attribute named backend already"
    for name, parameter in module.named_parameters():
        if type(parameter) is not nn.Parameter:
            return f"its {name} is a {type(parameter).__name__}"
    return None


def _unwanted(
    path: str,
    module: nn.Module,
    family: Family | None,
    wanted: tuple[Family, ...],
    predicate: Callable[[str, nn.Module], bool] | None,
) -> str | None:
    if family not in wanted:
        return f"{family} is not in families"
    if predicate is not None and not predicate(path, module):
        return "the predicate said no"
    return None


def _replace(module: Any, backend: str | None) -> str:
    """Replace the module, or set its backend if it runs on convbound already; says which."""
    if classes.is_ours(module):
        before, module.backend = _backend_of(module), backend
        return f"runs on convbound already; backend={before!r} before, {backend!r} now"
    classes.make_ours(module)
    reason = f"runs on convbound.nn.{_torch_name(module)}"
    if backend is None:
        return reason
    module.backend = backend
    return f"{reason}, backend={backend!r}"
