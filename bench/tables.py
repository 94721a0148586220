"""The layer tables: which convolutions real models are made of (``layers/*.csv``, one file per model).

A file starts with ``# key: value`` lines (title, paper, code, batch, gpu batch) and holds one line per distinct layer:
its name, how often the model has it, the torch op, the smallest run that includes it (quick, default or full) and its
problem string. A ``conv_transpose`` layer is written as the convolution that it transposes.
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
OPS = ("conv2d", "conv_transpose2d")


@dataclass(frozen=True)
class Layer:
    """One distinct convolution layer of a model, at batch 1 until :meth:`with_batch`.

    Parameters
    ----------
    model, name
        The model and the layer's place in it.
    count
        How many layers of the model have this very problem.
    transposed
        Whether the model runs the convolution that transposes ``problem``: its forward is the problem's dgrad.
    tier
        The smallest run (quick, default, full) that includes the layer.
    problem
        The convolution; its origin is ``model:name``.
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
class Model:
    """A layer table: where its layers come from, the batches they run at by default, and the layers."""

    name: str
    title: str
    paper: str
    code: str
    batch: int
    gpu_batch: int
    layers: tuple[Layer, ...]

    def batch_on(self, device: str) -> int:
        """The default batch on a device."""
        return self.gpu_batch if device == "cuda" else self.batch

    def select(self, tier: Tier) -> tuple[Layer, ...]:
        """The layers that a run of this tier includes; each tier includes the one before it."""
        return tuple(layer for layer in self.layers if TIERS.index(layer.tier) <= TIERS.index(tier))


def parse_table(name: str, text: str) -> Model:
    """Read one table.

    Raises
    ------
    ValueError
        When a line cannot be read; the message names the table and the layer.
    """
    lines = text.splitlines()
    head = dict(line[1:].strip().split(": ", 1) for line in lines if line.startswith("#"))
    layers = []
    for record in csv.DictReader(line for line in lines if line and not line.startswith("#")):
        origin = f"{name}:{record['layer']}"
        if record["op"] not in OPS or record["tier"] not in TIERS:
            raise ValueError(f"{origin}: op={record['op']} must be one of {OPS}, tier={record['tier']} one of {TIERS}")
        tier = TIERS[TIERS.index(record["tier"])]
        problem = ConvProblem.parse(f"{record['problem']} {origin}")
        transposed = record["op"].startswith("conv_transpose")
        layers.append(Layer(name, record["layer"], int(record["count"]), transposed, tier, problem))
    if missing := {"title", "paper", "code", "batch", "gpu batch"} - head.keys():
        raise ValueError(f"layer table {name} lacks the line '# {min(missing)}: …'")
    batches = int(head["batch"]), int(head["gpu batch"])
    return Model(name, head["title"], head["paper"], head["code"], *batches, tuple(layers))


@cache
def load_models() -> dict[str, Model]:
    """All layer tables by the model's name, in alphabetical order."""
    tables = [entry for entry in files(__package__).joinpath("layers").iterdir() if entry.name.endswith(".csv")]
    names = {entry.name.removesuffix(".csv"): entry for entry in tables}
    return {name: parse_table(name, names[name].read_text(encoding="utf-8")) for name in sorted(names)}
