"""What :func:`convbound.profile` finds, as data, text, Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from convbound.explanation import Explanation, PassExplanation
from convbound.problem import DTYPE_NAMES, PASSES
from convbound.text_table import aligned, short

THIS_MACHINE = "this machine"
_PER_PASS = ("backend", "kernel", "reason", "auto_ms", "torch_ms")
# Columns of numbers.
_RIGHT = (1, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 15, 16, 17)


@dataclass(frozen=True)
class Other:
    """The parameters of a class of modules that no recorded convolution holds: BatchNorm, Linear and so on."""

    kind: str
    modules: int
    parameters: int


@dataclass(frozen=True)
class Profile:
    """What :func:`profile` found: data, which ``str()``, :meth:`to_markdown` and :meth:`to_csv` show.

    Parameters
    ----------
    layers
        One row per module and problem, in the order of their first calls. It is the row of :func:`convbound.explain`.
    others
        What else has parameters.
    gpu
        The GPU that was named, or empty.
    forward_ms
        Median milliseconds of the model's forward pass; None where nothing was measured.
    """

    layers: tuple[Explanation, ...]
    others: tuple[Other, ...]
    gpu: str = ""
    forward_ms: float | None = None

    @property
    def parameters(self) -> int:
        """All parameters: equal to ``sum(p.numel() for p in model.parameters())``."""
        return sum(layer.parameters for layer in self.layers) + sum(other.parameters for other in self.others)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of all convolutions in one forward pass."""
        return sum(layer.count * layer.problem.multiply_adds for layer in self.layers)

    @property
    def flops(self) -> int:
        """Floating-point operations of all convolutions in one forward pass, two per multiply-add."""
        return 2 * self.multiply_adds

    @property
    def memory_access_cost(self) -> int:
        """Elements that all convolutions move at least in one forward pass."""
        return sum(layer.count * layer.problem.memory_access_cost for layer in self.layers)

    @property
    def compulsory_bytes(self) -> int:
        """The same in bytes."""
        return sum(layer.count * layer.problem.compulsory_bytes(layer.dtype) for layer in self.layers)

    @property
    def convolution_ms(self) -> float | None:
        """Milliseconds of all convolutions in one forward pass, each on the backend that ran it in the model."""
        times = [self.layer_ms(layer) for layer in self.layers]
        return None if None in times or not times else sum(time for time in times if time is not None)

    @staticmethod
    def layer_ms(layer: Explanation) -> float | None:
        """Milliseconds of a layer's calls in one forward pass, on the backend that ran it; None if not measured."""
        one = layer.forward.milliseconds.get(layer.ran)
        return None if one is None else layer.count * one

    def shares(self, layer: Explanation) -> tuple[float, float] | None:
        """A layer's share of the model's convolution time and of its forward pass; None where nothing was measured."""
        own, all_ = self.layer_ms(layer), self.convolution_ms
        return None if own is None or all_ is None or self.forward_ms is None else (own / all_, own / self.forward_ms)

    def records(self) -> list[dict[str, Any]]:
        """A dictionary per layer, ``kind`` being ``convolution``, and one per class of other modules.

        Numbers are those of one call; ``parameters`` add up to the model's.
        """
        rows: list[dict[str, Any]] = [self._record(layer) for layer in self.layers]
        for other in self.others:
            rows.append({"kind": "other", "module": other.kind, "count": other.modules, "parameters": other.parameters})
        return rows

    def _record(self, layer: Explanation) -> dict[str, Any]:
        problem = layer.problem
        shares = self.shares(layer)
        found: dict[str, Any] = {
            "kind": "convolution",
            "module": problem.origin,
            "count": layer.count,
            "op": f"conv{'_transpose' if layer.transposed else ''}{problem.ndim}d",
            "family": "transposed" if layer.transposed else problem.family,
            "problem": str(problem),
            "dtype": DTYPE_NAMES[layer.dtype],
            "layout": layer.layout,
            "device": layer.device,
            "ran_on": layer.ran,
            "parameters": layer.parameters,
            "multiply_adds": problem.multiply_adds,
            "flops": problem.flops,
            "memory_access_elements": problem.memory_access_cost,
            "memory_access_bytes": problem.compulsory_bytes(layer.dtype),
            "intensity": problem.arithmetic_intensity(layer.dtype),
            "receptive_field": _sizes(layer.reach.field if layer.reach else ()),
            "jump": _sizes(layer.reach.jump if layer.reach else ()),
        }
        for bound in layer.bounds:
            where = "" if bound.machine == THIS_MACHINE else "gpu_"
            if where:
                found["gpu"] = bound.machine
            found |= {f"{where}bound": bound.resource, f"{where}floor_ms": bound.floor_ms}
        for row in layer.passes:
            times = row.milliseconds.get(row.backend), row.milliseconds.get("torch")
            values = (row.backend, row.kernel, row.reason, *times)
            found |= {f"{row.pass_}_{name}": value for name, value in zip(_PER_PASS, values, strict=True)}
        if shares is not None:
            found |= {"convolution_share": shares[0], "forward_share": shares[1]}
        return found

    def to_csv(self, path: str | Path | None = None) -> str:
        """The records as CSV, and written to a file if one is named; an OSError where it cannot be written."""
        rows = self.records()
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names or ["kind"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        if path is not None:
            Path(path).write_text(text.getvalue(), encoding="utf-8")
        return text.getvalue()

    def to_markdown(self) -> str:
        """The table of ``str()`` as Markdown, and the totals below it."""
        rows = [[cell.replace("|", "\\|") for cell in row] for row in self._cells()]
        rule = ["---:" if i in _RIGHT else "---" for i in range(len(rows[0]))]
        lines = ["| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:])]
        return "\n".join([*lines, "", *(f"- {line}" for line in self._totals())])

    def __str__(self) -> str:
        return "\n".join([aligned(self._cells(), _RIGHT), "", *self._totals()])

    def _cells(self) -> list[list[str]]:
        measured = self.forward_ms is not None
        head = ["module", "calls", "problem", "parameters", "multiply-adds", "FLOP", "elements", "bytes", "FLOP/byte"]
        head += ["field", "jump", "bound", "kernel", *(f"{p} ms" for p in PASSES if measured)]
        rows = [head + (["share", "of forward"] if measured else [])]
        for layer in self.layers:
            p = layer.problem
            row = [p.origin or "(the model)", f"{layer.count}", f"{p}{' transposed' if layer.transposed else ''}"]
            row += [f"{layer.parameters:,}", *map(short, (p.multiply_adds, p.flops, p.memory_access_cost))]
            row += [f"{short(p.compulsory_bytes(layer.dtype))}B", f"{p.arithmetic_intensity(layer.dtype):.2f}"]
            row += [_sizes(layer.reach.field), _sizes(layer.reach.jump)] if layer.reach else ["", ""]
            row.append(", ".join(f"{b.resource} ({b.machine})" for b in layer.bounds))
            row.append(f"{layer.forward.backend}:{layer.forward.kernel}")
            if measured:
                row += [_times(one) for one in layer.passes]
                shares = self.shares(layer)
                row += [f"{share:.1%}" for share in shares] if shares else ["", ""]
            rows.append(row)
        for other in self.others:
            row = [f"other: {other.kind}", f"x{other.modules}", "", f"{other.parameters:,}"]
            rows.append(row + [""] * (len(head) - len(row) + 2 * measured))
        return rows

    def _totals(self) -> list[str]:
        if not self.layers:
            return [f"no convolutions; {self.parameters:,} parameters"]
        calls = sum(layer.count for layer in self.layers)
        lines = [
            f"{calls} convolutions in {len(self.layers)} rows; {self.parameters:,} parameters, "
            f"{sum(layer.parameters for layer in self.layers):,} of them in convolutions",
            f"one forward pass: {short(self.multiply_adds)} multiply-adds ({short(self.flops)}FLOP) over "
            f"{short(self.memory_access_cost)} elements ({short(self.compulsory_bytes)}B) by convolutions",
        ]
        if self.forward_ms is not None and self.convolution_ms is not None:
            lines.append(
                f"measured: forward pass {self.forward_ms:.2f} ms, its convolutions by themselves "
                f"{self.convolution_ms:.2f} ms; times are medians, auto / torch"
            )
        return lines


def _times(row: PassExplanation) -> str:
    times = row.milliseconds
    return f"{times[row.backend]:.3f} / {times['torch']:.3f}" if times else ""


def _sizes(values: Sequence[Fraction]) -> str:
    texts = [str(value) for value in values]
    return texts[0] if len({*texts}) == 1 else "x".join(texts)
