"""The suites of layers (``layers/*.csv``): models, and lists of problems for the measurements beyond them.

A file starts with ``# key: value`` lines. A model has a title, paper, code, batch and gpu batch, and one line per
distinct layer: its name, how often the model has it, the torch op, the smallest run that includes it (quick, default
or full) and its problem string. A model whose layers are all ``full`` is measured only by name. A list has a title
alone, and lines of op and problem, which names its batch. A ``conv_transpose`` layer is written as the convolution
that it transposes.
"""

from __future__ import annotations

import csv
import dataclasses
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

from convbound.problem import ConvProblem

Tier = Literal["quick", "default", "full"]
TIERS: tuple[Tier, ...] = get_args(Tier)
OPS = tuple(f"{name}{ndim}d" for name in ("conv", "conv_transpose") for ndim in (1, 2, 3))
_OF_MODELS = {"title", "paper", "code", "batch", "gpu batch"}


@dataclass(frozen=True)
class Layer:
    """One distinct convolution layer of a model, at batch 1 until :meth:`with_batch`, or a problem of a list.

    Parameters
    ----------
    model, name
        The model and the layer's place in it; the list and the problem string.
    count
        How many layers of the model have this very problem.
    transposed
        Whether the model runs the convolution that transposes ``problem``: its forward is the problem's dgrad.
    tier
        The smallest run (quick, default, full) that includes the layer.
    problem
        The convolution; its origin is ``model:name``, or the list.
    """

    model: str
    name: str
    count: int
    transposed: bool
    tier: Tier
    problem: ConvProblem

    def with_batch(self, batch: int) -> Layer:
        """The same layer at another batch size."""
        return dataclasses.replace(self, problem=dataclasses.replace(self.problem, n=batch))


@dataclass(frozen=True)
class Suite:
    """Layers to measure together; for a model also where they come from, and their default batches on CPU and GPU."""

    name: str
    title: str
    layers: tuple[Layer, ...]
    paper: str = ""
    code: str = ""
    batch: int | None = None
    gpu_batch: int | None = None

    @property
    def is_model(self) -> bool:
        """Whether it is a model, whose layers run at any batch, or a list of problems with batches of their own."""
        return self.batch is not None

    def at_batch(self, batch: int | None, device: str) -> Suite:
        """A model at this batch, or at its default on the device; a list as it is."""
        batch = batch or (self.gpu_batch if device == "cuda" else self.batch)
        if not self.is_model or batch is None:
            return self
        return dataclasses.replace(self, layers=tuple(layer.with_batch(batch) for layer in self.layers))

    def select(self, tier: Tier) -> tuple[Layer, ...]:
        """The layers that a run of this tier includes; each tier includes the one before it."""
        return tuple(layer for layer in self.layers if TIERS.index(layer.tier) <= TIERS.index(tier))


def parse_table(name: str, text: str) -> Suite:
    """Read one suite.

    Raises
    ------
    ValueError
        When a line cannot be read; the message names the suite and the layer.
    """
    lines = text.splitlines()
    head = dict(line[1:].strip().split(": ", 1) for line in lines if line.startswith("#"))
    layers = tuple(
        _parse_layer(name, record) for record in csv.DictReader(line for line in lines if not line.startswith("#"))
    )
    if head.keys() == {"title"}:
        return Suite(name, head["title"], layers)
    if missing := _OF_MODELS - head.keys():
        raise ValueError(f"layers/{name}.csv lacks the line '# {min(missing)}: …'")
    batches = int(head["batch"]), int(head["gpu batch"])
    return Suite(name, head["title"], layers, head["paper"], head["code"], *batches)


def _parse_layer(suite: str, record: dict[str, str]) -> Layer:
    layer, op, tier = record.get("layer"), record["op"], record.get("tier", "quick")
    origin = f"{suite}:{layer}" if layer else suite
    problem = ConvProblem.parse(f"{record['problem']} {origin}")
    if op not in OPS or tier not in TIERS or not op.endswith(f"{problem.ndim}d"):
        raise ValueError(f"{origin}: {problem} has op={op}, of {OPS}, and tier={tier}, of {TIERS}")
    transposed = op.startswith("conv_transpose")
    return Layer(
        suite, layer or str(problem), int(record.get("count", 1)), transposed, TIERS[TIERS.index(tier)], problem
    )


@cache
def load_suites() -> dict[str, Suite]:
    """All models and lists by name, in alphabetical order."""
    tables = [entry for entry in files(__package__).joinpath("layers").iterdir() if entry.name.endswith(".csv")]
    names = {entry.name.removesuffix(".csv"): entry for entry in tables}
    return {name: parse_table(name, names[name].read_text(encoding="utf-8")) for name in sorted(names)}


def load_models() -> dict[str, Suite]:
    """The models among the suites."""
    return {name: suite for name, suite in load_suites().items() if suite.is_model}


def usual_models() -> list[str]:
    """The models of a run that names none: those that have layers in a default run; others are measured by name."""
    return [name for name, suite in load_models().items() if suite.select("default")]
