"""Rows: one per layer, pass, dtype, layout and backend, and the files that they are kept in."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

SCHEMA = 1
STATUS_OK, STATUS_FAILED = "ok", "failed"
# Machine columns that each CSV row repeats, so that tables from several machines can be put together.
CSV_MACHINE = ("cpu", "gpu", "threads", "torch", "convbound", "revision", "date")


@dataclass
class Row:
    """One measured backend on one pass of one layer; times in milliseconds, empty where nothing was measured.

    ``error`` is the largest |y - y64| / sum |x||w| over all elements, ``error_limit`` what was allowed. ``gbps`` counts
    compulsory bytes. ``copy_share`` and ``peak_share`` are shares of the measured roofs, ``roof_share`` that of the one
    which binds the problem; with small outputs left in the cache it can exceed 1. The speed-ups are torch's median over
    this row's, in the same layout and in torch's better one; where torch competes in several ways, its best. ``kernel``
    is what served, ``timing`` how it was timed: ``clock``, or on a GPU ``graph`` (a replayed CUDA graph) or ``events``.
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

    def record(self) -> dict[str, Any]:
        """The row as it is written: six significant digits, and ``pass`` for the field that Python reserves."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"pass" if name == "pass_" else name: _plain(value) for name, value in values.items()}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Row:
        """The inverse of :meth:`record`; keys of later versions are ignored."""
        names = {field.name for field in dataclasses.fields(cls)}
        renamed = {"pass_" if name == "pass" else name: value for name, value in record.items()}
        return cls(**{name: value for name, value in renamed.items() if name in names})

    @property
    def ok(self) -> bool:
        """Whether the row was checked and timed."""
        return self.status == STATUS_OK


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
        temporary = path.with_suffix(path.suffix + ".part")
        temporary.write_text(f'{head[:-2]},\n "rows": [\n{rows}\n ]\n}}\n', encoding="utf-8")
        os.replace(temporary, path)


def read_result(path: Path) -> Result:
    """Read a result file: ``result.json``, or the ``rows.jsonl`` of a run that was killed.

    Raises
    ------
    ValueError
        When the file is not a result file.
    """
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".jsonl":
            lines = [json.loads(line) for line in text.splitlines()]
            head, records = lines[0], lines[1:]
        else:
            head = json.loads(text)
            records = head["rows"]
        rows = [Row.from_record(record) for record in records]
        ended = head.get("ended", "")
        return Result(head["machine"], head["roofs"], head["options"], head["complete"], ended, rows)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{path} is not a result file of convbound.bench ({type(error).__name__}: {error})") from error


class RowWriter:
    """Appends rows to ``rows.csv`` and ``rows.jsonl`` as they are measured, so that no end of the run can lose them."""

    def __init__(self, folder: Path, result: Result) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._machine = {name: result.machine.get(name) for name in CSV_MACHINE}
        self._csv: IO[str] = (folder / "rows.csv").open("w", newline="", encoding="utf-8")
        self._jsonl: IO[str] = (folder / "rows.jsonl").open("w", encoding="utf-8")
        names = ["pass" if field.name == "pass_" else field.name for field in dataclasses.fields(Row)]
        self._table = csv.DictWriter(self._csv, [*names, *CSV_MACHINE])
        self._table.writeheader()
        self._jsonl.write(json.dumps(result.header()) + "\n")

    def append(self, rows: list[Row]) -> None:
        """Write rows and hand them to the system at once."""
        for row in rows:
            self._table.writerow(row.record() | self._machine)
            self._jsonl.write(json.dumps(row.record()) + "\n")
        self._csv.flush()
        self._jsonl.flush()

    def close(self) -> None:
        """Close both files."""
        self._csv.close()
        self._jsonl.close()
