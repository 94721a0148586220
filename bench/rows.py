"""Rows: one per layer, pass, dtype, layout and backend, and the files that they are kept in."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, get_args, get_type_hints

from convbound.problem import DTYPE_NAMES, LAYOUTS, PASSES, ConvProblem
from convbound.untrusted import check_kinds, open_file, parse_json, read_text, replace_text

SCHEMA = 1
STATUS_OK, STATUS_FAILED = "ok", "failed"
# A row whose 80th percentile is so many times its median.
NOISY = 1.5
# Machine columns that each CSV row repeats, so that tables from several machines can be put together.
CSV_MACHINE = ("cpu", "gpu", "torch", "convbound", "revision", "date")


@dataclass
class Row:
    """One measured backend on one pass of one layer; times in milliseconds, empty where nothing was measured.

    ``error`` is the largest |y - y64| / sum |x||w| over all elements, ``error_limit`` what was allowed. ``gbps`` counts
    compulsory bytes. ``copy_share`` and ``peak_share`` are shares of the measured roofs, ``roof_share`` that of the one
    which binds the problem; with small outputs left in the cache it can exceed 1. ``bound`` is ``memory``, ``compute``,
    or ``either`` where the roofs of the run spread so far that both are possible. The speed-ups are torch's median over
    this row's, in the same layout and in torch's better one; where torch competes in several ways, its best. ``kernel``
    is what served, ``timing`` how it was timed: ``clock``, or on a GPU ``graph`` (a replayed CUDA graph) or ``events``.
    ``threads`` are those of the call, None in older files.
    """

    model: str
    layer: str
    count: int
    op: str
    family: str
    problem: str
    pass_: str
    role: str
    dtype: str
    layout: str
    backend: str
    device: str = "cpu"
    kernel: str = ""
    timing: str = ""
    status: str = STATUS_OK
    message: str = ""
    median_ms: float | None = None
    p20_ms: float | None = None
    p80_ms: float | None = None
    samples: int = 0
    cache: str = "cold"
    error: float | None = None
    error_limit: float | None = None
    flops: int = 0
    bytes: int = 0
    intensity: float = 0.0
    gbps: float | None = None
    gflops: float | None = None
    copy_share: float | None = None
    peak_share: float | None = None
    roof_share: float | None = None
    bound: str = ""
    speedup_same_layout: float | None = None
    speedup_best_layout: float | None = None
    threads: int | None = None

    def record(self) -> dict[str, Any]:
        """The row as it is written: six significant digits, and ``pass`` for the field that Python reserves."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"pass" if name == "pass_" else name: _plain(value) for name, value in values.items()}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Row:
        """The inverse of :meth:`record`; keys of later versions are ignored. A ValueError or TypeError: no such row."""
        renamed = {"pass_" if name == "pass" else name: value for name, value in record.items()}
        row = cls(**{name: value for name, value in renamed.items() if name in _KINDS})
        check_kinds(vars(row), _KINDS)
        ConvProblem.parse(row.problem)
        known = (STATUS_OK, STATUS_FAILED), PASSES, LAYOUTS, tuple(DTYPE_NAMES.values())
        for value, values in zip((row.status, row.pass_, row.layout, row.dtype), known, strict=True):
            if value not in values:
                raise ValueError(f"{value!r} is not one of {', '.join(values)}")
        for name, value in vars(row).items():
            if isinstance(value, int | float) and (value < 0 or (value == 0 and name.startswith("speedup"))):
                raise ValueError(f"{name}={value} is not positive")
        return row

    @property
    def ok(self) -> bool:
        """Whether the row was checked and timed."""
        return self.status == STATUS_OK

    @property
    def naive(self) -> bool:
        """Whether a naive kernel of ours served it: one to be read and to check others, which ``auto`` never takes."""
        return self.kernel.startswith("naive_")

    @property
    def noisy(self) -> bool:
        """Whether its times differ so much that the median says little."""
        return self.median_ms is not None and self.p80_ms is not None and self.p80_ms >= NOISY * self.median_ms


# A float may stand there as a whole number.
_KINDS = {n: kind | int if float in (kind, *get_args(kind)) else kind for n, kind in get_type_hints(Row).items()}


def _plain(value: Any) -> Any:
    """A value as JSON knows it: there is no infinity there, and the row's message tells of it."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


@dataclass
class Result:
    """A run: what it ran on, the roofs it measured, how it was started, its rows, and why it ended early if it did."""

    machine: dict[str, Any]
    roofs: dict[str, Any]
    options: dict[str, Any]
    complete: bool = False
    ended: str = ""
    rows: list[Row] = field(default_factory=list)

    def header(self) -> dict[str, Any]:
        """Everything but the rows."""
        head = {name: getattr(self, name) for name in ("machine", "roofs", "options", "complete", "ended")}
        return {"schema": SCHEMA, **head}

    def write_json(self, path: Path) -> None:
        """Write the whole run, one row a line so that committed files show readable differences; atomically."""
        head = json.dumps(self.header(), indent=1)
        rows = ",\n".join(json.dumps(row.record()) for row in self.rows)
        replace_text(path, f'{head[:-2]},\n "rows": [\n{rows}\n ]\n}}\n')


_HEAD = {"schema": int, "machine": dict, "roofs": dict, "options": dict, "complete": bool}
# What a report reads of them.
_MACHINE = {
    **dict.fromkeys(("cpu", "isa", "python", "torch", "date"), str),
    **dict.fromkeys(("convbound", "revision", "gpu"), str | None),
    "cores": int | None,
    "threads": int,
    "caches": dict,
    "kernels": dict,
}
_GPU = {"sms": int, "l2": int, "cuda": str | None, "cudnn": int | None, "nvidia_smi": dict}
_SMI = dict.fromkeys(("driver_version", "clocks.sm", "clocks.max.sm"), str)
_ROOFS = {"copy_gbps": int | float, "copy_method": str, "peak_gflops": dict, "fma_gflops": int | float | None}


def read_result(path: Path) -> Result:
    """Read a result file, which is not trusted: ``result.json``, or the ``rows.jsonl`` of a run that was killed.

    Raises
    ------
    OSError
        When it cannot be read.
    ValueError
        When the file is not a result file.
    """
    try:
        text = read_text(path)
        if path.suffix == ".jsonl":
            # What follows the last end of a line was being written when the run was killed.
            head, *records = (parse_json(line) for line in text.split("\n")[:-1])
        else:
            head = parse_json(text)
            check_kinds(head, {"rows": list})
            records = head["rows"]
        check_kinds(head, _HEAD)
        if head["schema"] != SCHEMA:
            raise ValueError(f"schema {head['schema']} is not {SCHEMA}, the one that this version reads")
        rows = [Row.from_record(record) for record in records]
        check_machine(head["machine"])
        if rows or head["roofs"]:
            check_roofs(head["roofs"])
        ended = str(head.get("ended", ""))
        return Result(head["machine"], head["roofs"], head["options"], head["complete"], ended, rows)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a result file of convbound.bench ({error})") from error


def check_machine(machine: dict[str, Any]) -> None:
    """Raise a ValueError where a machine lacks what reports read of it."""
    check_kinds({"gpu": None, **machine}, _MACHINE)
    for name, kind in (("caches", int), ("kernels", str)):
        check_kinds(machine[name], dict.fromkeys(machine[name], kind))
    if machine.get("gpu"):
        check_kinds(machine, _GPU)
        if machine["nvidia_smi"]:
            check_kinds(machine["nvidia_smi"], _SMI)


def check_roofs(roofs: dict[str, Any]) -> None:
    """Raise a ValueError where roofs are missing or not positive."""
    check_kinds({"fma_gflops": None, **roofs}, _ROOFS)
    check_kinds(roofs["peak_gflops"], dict.fromkeys(roofs["peak_gflops"], int | float))
    check_kinds({"repeats": 1, "spread": {}, **roofs}, {"repeats": int, "spread": dict})
    spread = roofs.get("spread", {})
    for name, limits in spread.items():
        if not isinstance(limits, list) or len(limits) != 2 or not all(isinstance(one, int | float) for one in limits):
            raise ValueError(f"the spread of {name} is {limits!r} and not two numbers")
    values = (roofs["copy_gbps"], roofs.get("fma_gflops"), *roofs["peak_gflops"].values())
    for roof in (*values, *(limit for limits in spread.values() for limit in limits)):
        if roof is not None and not roof > 0:
            raise ValueError(f"a roof of {roof} is not positive")


class RowWriter:
    """Appends rows to ``rows.csv`` and ``rows.jsonl`` as they are measured, so that no end of the run can lose them.

    They are judged by the roofs as they are known by then. :func:`write_rows` writes both files once more at the end.
    """

    def __init__(self, folder: Path, result: Result) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._result = result
        self._csv, self._jsonl = (_created(folder / name) for name in ("rows.csv", "rows.jsonl"))
        self._csv.write(_csv_text(result, [], head=True))
        self._jsonl.write(json.dumps(result.header()) + "\n")

    def append(self, rows: list[Row]) -> None:
        """Write rows and hand them to the system at once."""
        self._csv.write(_csv_text(self._result, rows))
        self._jsonl.writelines(json.dumps(row.record()) + "\n" for row in rows)
        self._csv.flush()
        self._jsonl.flush()

    def close(self) -> None:
        """Close both files."""
        self._csv.close()
        self._jsonl.close()


def write_rows(folder: Path, result: Result) -> None:
    """Write ``rows.csv`` and ``rows.jsonl`` of a finished run, each as a whole: rows as the final roofs judge them."""
    replace_text(folder / "rows.csv", _csv_text(result, result.rows, head=True))
    lines = [result.header(), *(row.record() for row in result.rows)]
    replace_text(folder / "rows.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def _csv_text(result: Result, rows: list[Row], *, head: bool = False) -> str:
    """Rows of a result as lines of CSV, under the names of their columns where those are asked for."""
    machine = {name: result.machine.get(name) for name in CSV_MACHINE}
    names = ["pass" if field.name == "pass_" else field.name for field in dataclasses.fields(Row)]
    text = io.StringIO()
    table = csv.DictWriter(text, [*names, *CSV_MACHINE])
    if head:
        table.writeheader()
    table.writerows(row.record() | machine for row in rows)
    return text.getvalue()


def _created(path: Path) -> IO[str]:
    """A new, empty file, or one that is there emptied."""
    return os.fdopen(open_file(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w", newline="", encoding="utf-8")
