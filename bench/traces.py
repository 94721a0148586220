"""``--trace``: the memory traffic of the CUDA kernels on the layers of a run, counted in the emulator.

Of a batch, the blocks of one image are traced, then of two, and counts are extrapolated from there.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from convbound import tracing
from convbound.bench.cases import Case
from convbound.bench.plan import Options, cases
from convbound.bench.report import escaped, replace_between, shape
from convbound.bench.rows import STATUS_FAILED, STATUS_OK
from convbound.gpus import find_gpu
from convbound.problem import DTYPE_NAMES, Layout
from convbound.trace_report import Trace
from convbound.untrusted import replace_text

TABLE = "traffic"
# So many reports can be read one by one; of more, the table says what matters.
_MOST_REPORTS = 6


@dataclass
class TraceRow:
    """One traced case, with the ratios of a :class:`convbound.trace_report.Trace`.

    `floor_us` is the time that `bound` takes at least, `compulsory_us` that of the compulsory bytes from DRAM.
    """

    model: str
    layer: str
    problem: str
    pass_: str
    dtype: str
    layout: str
    gpu: str
    status: str = STATUS_OK
    message: str = ""
    kernel: str = ""
    sm_l2: float = 0.0
    dram: float = 0.0
    coalescing: float = 0.0
    shared: float = 0.0
    wide_share: float | None = 0.0
    bound: str = ""
    floor_us: float = 0.0
    compulsory_us: float = 0.0


# Heads of the tables, and their texts.
COLUMNS: dict[str, Callable[[TraceRow], str]] = {
    "layer": lambda row: f"{row.model}:{row.layer}" if row.layer != row.problem else row.problem,
    "shape": lambda row: shape(row.problem),
    "pass": lambda row: row.pass_,
    "dtype": lambda row: row.dtype,
    "layout": lambda row: row.layout,
    "kernel": lambda row: row.kernel,
    "SM-L2": lambda row: f"{row.sm_l2:.2f}",
    "DRAM": lambda row: f"{row.dram:.2f}",
    "coalescing": lambda row: f"{row.coalescing:.2f}",
    "shared": lambda row: f"{row.shared:.2f}",
    "16 B": lambda row: "-" if row.wide_share is None else f"{row.wide_share:.0%}",
    "bound by": lambda row: row.bound,
    "floor": lambda row: f"{row.floor_us / row.compulsory_us:.2f}",
}


def trace_all(options: Options, gpu: str, kernel: str | None, folder: Path, console: Console) -> list[TraceRow]:
    """Trace every case of the options, print the reports or a table of them, and write ``traces.json``."""
    todo = [(case, layout) for case in cases(options) for layout in options.layouts]
    rows: list[TraceRow] = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(todo))
        for case, layout in todo:
            progress.update(task, description=escape(f"{case} {layout}"))
            row, trace = _trace(case, layout, gpu, kernel)
            rows.append(row)
            if trace is not None and len(todo) <= _MOST_REPORTS:
                console.print(Text(str(trace)), soft_wrap=True)
            _write(rows, folder / "traces.json")
            progress.advance(task)
    if len(todo) > _MOST_REPORTS:
        console.print(_table(rows))
    for row in rows:
        if row.status != STATUS_OK:
            where = f"{row.problem} {row.pass_} {row.dtype} {row.layout}"
            console.print(Text(f"FAILED {where}: {row.message}", style="red"), soft_wrap=True)
    return rows


def _trace(case: Case, layout: Layout, gpu: str, kernel: str | None) -> tuple[TraceRow, Trace | None]:
    layer = case.layer
    found = find_gpu(gpu)
    row = TraceRow(layer.model, layer.name, str(layer.problem), case.pass_, DTYPE_NAMES[case.dtype], layout, found.name)
    try:
        trace = tracing.trace(
            layer.problem, case.pass_, dtype=case.dtype, layout=layout, gpu=gpu, kernel=kernel, images=1
        )
    except (ValueError, RuntimeError) as error:
        row.status, row.message = STATUS_FAILED, " ".join(str(error).split())
        return row, None
    row.kernel = trace.kernel
    row.sm_l2, row.dram = trace.sm_l2_ratio, trace.dram_ratio
    row.wide_share = None if math.isnan(trace.wide_share) else trace.wide_share
    row.coalescing, row.shared = trace.coalescing, trace.bank_conflicts
    row.bound, row.floor_us = trace.bounds[0].resource, trace.bounds[0].seconds * 1e6
    row.compulsory_us = trace.compulsory_bytes / found.dram * 1e6
    return row, trace


def _write(rows: list[TraceRow], file: Path) -> None:
    records: list[dict[str, Any]] = [dataclasses.asdict(row) for row in rows]
    replace_text(file, "[\n" + ",\n".join(json.dumps(record) for record in records) + "\n]\n")


def _table(rows: list[TraceRow]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for head in COLUMNS:
        table.add_column(head, no_wrap=True)
    for row in rows:
        if row.status == STATUS_OK:
            table.add_row(*(Text(text(row)) for text in COLUMNS.values()))
    return table


def markdown(rows: list[TraceRow]) -> str:
    """The rows as a table of a document."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(escaped(text(row)) for text in COLUMNS.values()) + " |" for row in rows if row.kernel]
    gpus = ", ".join(dict.fromkeys(row.gpu for row in rows))
    return f"Counted in the emulator with the architecture of {gpus}.\n\n" + "\n".join(lines)


def rewrite_table(place: str, rows: list[TraceRow]) -> None:
    """Put the table between ``<!-- NAME:start -->`` and ``<!-- NAME:end -->`` of a document, `place` being FILE#NAME.

    Raises
    ------
    ValueError
        When the markers are missing or in the wrong order.
    """
    document, _, name = place.partition("#")
    name = name or TABLE
    replace_between(Path(document), f"<!-- {name}:start -->", f"<!-- {name}:end -->", markdown(rows))
