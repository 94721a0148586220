"""``--model``: a model of the user's own, its convolutions recorded as a suite of layers."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from convbound.bench.tables import Layer, Suite
from convbound.profile import profile
from convbound.profile_report import Profile


def recorded(
    place: str,
    inputs: Sequence[tuple[int, ...]],
    *,
    device: str,
    dtype: torch.dtype,
    gpu: str,
    measure: bool,
) -> tuple[Suite, Profile]:
    """The suite of a model's layers, named as `place`, and its profile.

    Parameters
    ----------
    place
        ``module:callable`` or ``path/to/file.py:callable``; see :func:`load_model`.
    inputs
        Shapes of its arguments, which are random numbers.
    device, dtype
        Where the model is put, and what it is made.
    gpu, measure
        See :func:`convbound.profile`.

    Raises
    ------
    ValueError
        When there is no such model, it refuses the input, or it runs no convolution; in one line.
    """
    model = load_model(place)
    shown = " ".join(",".join(map(str, shape)) for shape in inputs)
    try:
        model = model.to(device, dtype)
        arguments = tuple(torch.randn(shape, device=device).to(dtype) for shape in inputs)
        with torch.no_grad():
            model.eval()(*arguments)
    except Exception as error:  # whatever a user's model raises
        raise ValueError(f"--input: {place} refuses {shown}: {_in_words(error)}") from error
    found = profile(model, arguments, gpu=gpu, measure=measure)
    if not found.layers:
        raise ValueError(f"--model: {place} runs no convolution on {shown}; it has {found.parameters} parameters")
    return suite_of(place, shown, found), found


def suite_of(name: str, shown: str, found: Profile) -> Suite:
    """The different problems of a profile as layers, each named by the first module that runs it."""
    layers: dict[Any, Layer] = {}
    for row in found.layers:
        key = (row.problem, row.transposed)
        before = layers.get(key)
        count = row.count + (before.count if before else 0)
        layer = row.problem.origin or "model" if before is None else before.name
        layers[key] = Layer(name, layer, count, row.transposed, "quick", row.problem)
    return Suite(name, f"input {shown}", tuple(layers.values()))


def load_model(place: str) -> nn.Module:
    """The model at ``module:name`` or ``file.py:name``, where a dotted name is a Module or a function that returns one.

    Raises
    ------
    ValueError
        When there is none, in one line that names ``--model``.
    """
    source, colon, name = place.rpartition(":")
    if not (source and colon and name):
        raise ValueError(f"--model: {place!r} must be module:callable or path/to/file.py:callable")
    found: Any = _module(source)
    for part in name.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"--model: {source} has no {name!r}{hint}")
        found = getattr(found, part)
    if not isinstance(found, nn.Module):
        if not callable(found):
            raise ValueError(f"--model: {place} is a {type(found).__name__}, neither a torch.nn.Module nor a function")
        try:
            found = found()
        except Exception as error:
            raise ValueError(f"--model: {place}() raised {_in_words(error)}") from error
    if not isinstance(found, nn.Module):
        raise ValueError(f"--model: {place}() returned a {type(found).__name__}, not a torch.nn.Module")
    return found


def _module(source: str) -> ModuleType:
    try:
        if not source.endswith(".py"):
            return importlib.import_module(source)
        path = Path(source)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # What a file imports from beside itself is found, as when Python runs it.
        sys.path.insert(0, str(path.resolve().parent))
        spec.loader.exec_module(module)
    except OSError as error:
        raise ValueError(f"--model: cannot read {source}: {error.strerror}") from error
    except Exception as error:
        raise ValueError(f"--model: cannot import {source}: {_in_words(error)}") from error
    return module


def _in_words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
