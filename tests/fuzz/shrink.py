"""From a case that fails to the smallest one that fails in the same way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

from convbound.problem import ConvProblem
from fuzz.call import Call
from fuzz.rows import RowRun
from fuzz.targets import Case

SECONDS = 60.0


def shrink(case: Case, fails: Callable[[Case], bool]) -> Case:
    """Take the first smaller case that still fails, again and again, for at most a minute."""
    end = time.monotonic() + SECONDS
    found = True
    while found:
        found = False
        for candidate in smaller(case):
            if time.monotonic() > end:
                return case
            if fails(candidate):
                case, found = candidate, True
                break
    return case


def smaller(case: Case) -> Iterator[Case]:
    """Cases with one thing simpler, the largest steps first."""
    if isinstance(case, RowRun):
        for problem in _smaller_problems(ConvProblem.parse(case.problem)):
            yield replace(case, problem=str(problem))
    else:
        yield from _smaller_calls(case)
    for field in fields(case):
        value = getattr(case, field.name)
        if field.name == "seed" and value > 1:  # the signs of its values, and few others
            yield from (replace(case, seed=seed) for seed in (0, 1))
        elif field.name in _PLAIN and value != field.default:
            yield replace(case, **{field.name: field.default})
    if case.options and "order" in case.options:
        yield replace(case, options="check workers=1")


_PLAIN = {"bias", "data", "places", "views", "options", "threads", "isa", "twice", "wanted", "preferring"}
_AXES = ("input", "filter", "stride", "padding", "dilation")


def _less(value: int, least: int) -> Iterator[int]:
    """Smaller numbers: the least, half, one less."""
    return iter(dict.fromkeys(v for v in (least, (value + least) // 2, value - 1) if least <= v < value))


def _fewer(values: tuple[int, ...], least: int) -> Iterator[tuple[int, ...]]:
    for at, value in enumerate(values):
        for less in _less(value, least):
            yield (*values[:at], less, *values[at + 1 :])


def _smaller_problems(p: ConvProblem) -> Iterator[ConvProblem]:
    c, k = p.c // p.groups, p.k // p.groups
    changes: list[dict[str, Any]] = [{"n": n} for n in _less(p.n, 1)]
    changes += [{"groups": g, "c": g * c, "k": g * k} for g in _less(p.groups, 1)]
    changes += [{"c": p.groups * less} for less in _less(c, 1)] + [{"k": p.groups * less} for less in _less(k, 1)]
    if p.ndim > 1:
        changes += [{name: getattr(p, name)[axes] for name in _AXES} for axes in (slice(1, None), slice(-1))]
    for name in ("filter", "input", "stride", "dilation"):
        changes += [{name: values} for values in _fewer(getattr(p, name), 1)]
    for at, (begin, end) in enumerate(p.padding):
        alike = [(begin, begin)] if end > begin or end < 0 else []
        less = [(begin // 2, end), (begin - 1, end)] if begin else []
        pairs = [(0, 0), *alike, *less, *([(begin, end - 1)] if end > 0 else [])]
        changes += [
            {"padding": (*p.padding[:at], pair, *p.padding[at + 1 :])} for pair in pairs if pair != (begin, end)
        ]
    for change in changes:
        try:
            yield replace(p, **change)
        except ValueError:  # the output would be empty
            continue


def _smaller_calls(call: Call) -> Iterator[Call]:
    for name in ("n", "groups", "c", "k"):
        value = getattr(call, name)
        yield from (replace(call, **{name: less}) for less in _less(value or 1, 1))
    if len(call.input) > 1:
        ndim = len(call.input) - 1
        names = (*_AXES, "output_padding")
        for axes in (slice(1, None), slice(-1)):
            cut = {name: v[axes] for name in names if isinstance(v := getattr(call, name), tuple)}
            yield replace(call, function=f"{call.function[:-2]}{ndim}d", **cut)
    for name in (*_AXES, "output_padding"):
        value, least = getattr(call, name), int("padding" not in name)
        if isinstance(value, tuple):
            yield from (replace(call, **{name: values}) for values in _fewer(value, least))
