"""The report of a run: tables for the terminal, and the results block of a README."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from convbound.bench.progress import FULL_WIDTH
from convbound.bench.rivals import RIVALS, TORCH
from convbound.bench.rows import Result, Row
from convbound.bench.summary import grouped, is_slower, ours, ratio, speedups, sum_up, summary_lines, with_auto
from convbound.choice.cpu_table import MEASURED_ISAS
from convbound.problem import LAYOUTS, PASSES, ConvProblem
from convbound.untrusted import read_text, replace_text

README_START, README_END = "<!-- results:start -->", "<!-- results:end -->"
_AUTO = "The rows with `auto` say what a user gets: torch's kernel counts where `auto` leaves a layer to torch."
# In terminals narrower than this, the table leaves out details; all of them stand in the files.
_MEDIUM, _WIDE = 110, 150
_SLOWER, _FAILED = "slower", "FAILED"
# What makes tags, comments, links, pictures, code, emphasis or cells of a table.
_MARKUP = str.maketrans({character: f"&#{ord(character)};" for character in "&<>[]|`*~\\"})


@dataclass(frozen=True)
class Column:
    """One column of the results table: its head, its text for a row of ours beside torch's, and how it is set."""

    head: str
    text: Callable[[Row, Row | None], str]
    right: bool = True
    min_width: int = 0


def _number(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return "-"
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2 if value >= 0.9995 else 3
    return f"{value:.{digits}f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _note(row: Row, torch_row: Row | None) -> str:
    if not row.ok:
        return _FAILED
    if torch_row is not None and not torch_row.ok:
        return "torch failed"
    return _SLOWER if is_slower(row) else ""


COLUMNS = (
    Column("layer", lambda row, _: row.layer, right=False),
    Column("shape", lambda row, _: shape(row.problem), right=False, min_width=_MEDIUM),
    Column("layout", lambda row, _: row.layout, right=False),
    Column("ours ms", lambda row, _: _number(row.median_ms)),
    Column("p20-p80", lambda row, _: f"{_number(row.p20_ms)}-{_number(row.p80_ms)}", min_width=FULL_WIDTH),
    Column("torch ms", lambda _, rival: _number(rival.median_ms if rival else None)),
    Column("vs same", lambda row, _: ratio(row.speedup_same_layout)),
    Column("vs best", lambda row, _: ratio(row.speedup_best_layout)),
    Column("GB/s", lambda row, _: _number(row.gbps), min_width=_WIDE),
    Column("of copy", lambda row, _: _percent(row.copy_share), min_width=_WIDE),
    Column("GFLOP/s", lambda row, _: _number(row.gflops), min_width=_WIDE),
    Column("of peak", lambda row, _: _percent(row.peak_share), min_width=_WIDE),
    Column("FLOP/B", lambda row, _: _number(row.intensity), min_width=FULL_WIDTH),
    Column("bound", lambda row, _: row.bound, right=False, min_width=_MEDIUM),
    Column("error", lambda row, _: "-" if row.error is None else f"{row.error:.0e}", min_width=_WIDE),
    Column("", _note, right=False),
)


def shape(text: str) -> str:
    """A problem in short, as ``144 @ 56 3x3 s2``: channels (input to output where they differ), input size, filter."""
    problem = ConvProblem.parse(text)
    channels = f"{problem.c}" if problem.c == problem.k else f"{problem.c}>{problem.k}"
    group = "" if problem.depthwise or problem.groups == 1 else f" g{problem.groups}"

    def sizes(values: tuple[int, ...]) -> str:
        return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))

    stride = f" s{sizes(problem.stride)}" if max(problem.stride) > 1 else ""
    dilation = f" d{sizes(problem.dilation)}" if max(problem.dilation) > 1 else ""
    return f"{channels}{group} @ {sizes(problem.input)} {'x'.join(map(str, problem.filter))}{stride}{dilation}"


def escaped(text: str) -> str:
    """A text as a Markdown document shows it, whatever it contains."""
    return text.translate(_MARKUP)


def machine_lines(result: Result) -> list[str]:
    """Where the numbers come from, in two lines."""
    machine, roofs = result.machine, result.roofs
    caches = ", ".join(f"{name} {size >> 10} KB" for name, size in machine["caches"].items())
    versions = ", ".join(f"{name} {machine[name]}" for name in ("convbound", "torch", "python") if machine[name])
    kernels = ", ".join(f"{name}: {kernels}" for name, kernels in machine["kernels"].items() if name != TORCH)
    gpu = gpu_line(machine) + "; " if machine.get("gpu") else ""
    lines = [
        f"{gpu}{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, {caches}; {kernels}; "
        f"{versions}, revision {machine['revision'] or 'unknown'}, {machine['date']}"
    ]
    if roofs:
        peaks = ", ".join(f"{peak:.0f} GFLOP/s {dtype}" for dtype, peak in roofs["peak_gflops"].items())
        ridges = ", ".join(f"{peak / roofs['copy_gbps']:.1f}" for peak in roofs["peak_gflops"].values())
        if fma := roofs.get("fma_gflops"):
            peaks += f", {fma:.0f} GFLOP/s fp32 without tensor cores (the bound of depthwise rows)"
        copy = f"copy {roofs['copy_gbps']:.1f} GB/s ({roofs['copy_method']})"
        lines.append(f"measured roofs: {copy}, {peaks}; ridge at {ridges} FLOP/byte")
    return lines


def gpu_line(machine: dict[str, Any]) -> str:
    """The GPU of a result, its driver and its libraries."""
    smi = machine["nvidia_smi"]
    driver = f"driver {smi['driver_version']}, SM clock {smi['clocks.sm']} of {smi['clocks.max.sm']}, " if smi else ""
    return (
        f"{machine['gpu']}, {machine['sms']} SMs, L2 {machine['l2'] >> 20} MB, {driver}CUDA {machine['cuda']}, "
        f"cuDNN {machine['cudnn']}"
    )


def best_rivals(rows: Iterable[Row]) -> dict[tuple[Any, ...], Row]:
    """The fastest of torch's rows for each row of ours, or a failed one where none has a time."""
    best: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        if row.backend in RIVALS:
            known = best.setdefault(_key(row), row)
            if row.median_ms is not None and (known.median_ms is None or row.median_ms < known.median_ms):
                best[_key(row)] = row
    return best


def print_report(result: Result, console: Console) -> None:
    """Print the machine, a table per model with a section per pass, and the summary."""
    for line in machine_lines(result):
        console.print(Text(line, style="dim"))
    rivals = best_rivals(result.rows)
    for (model, dtype, backend), rows in grouped(ours(result.rows), lambda r: (r.model, r.dtype, r.backend)).items():
        transposed = " (transposed layers: dgrad is their forward)" if "transpose" in rows[0].op else ""
        title = f"{model}: {backend} against torch, {dtype}{transposed}"
        table = Table(
            title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
        )
        table.add_column("pass", no_wrap=True)
        # A problem from the command line has no name but itself, and its shape would only repeat that.
        skip = "shape" if all(row.layer == row.problem for row in rows) else None
        columns = [c for c in COLUMNS if console.width >= c.min_width and c.head != skip]
        for column in columns:
            width = len(_SLOWER) if column.text is _note else None
            table.add_column(column.head, justify="right" if column.right else "left", no_wrap=True, min_width=width)
        for pass_, section in grouped(rows, lambda r: r.pass_).items():
            table.add_section()
            for i, row in enumerate(section):
                rival = rivals.get(_key(row))
                style = {_SLOWER: "yellow", _FAILED: "red"}.get(_note(row, rival))
                cells = (Text(column.text(row, rival)) for column in columns)
                table.add_row("" if i else pass_, *cells, style=style)
        console.print(table)
    for row in result.rows:
        if not row.ok:
            where = f"{row.model}:{row.layer} {row.pass_} {row.layout} {row.dtype}"
            console.print(Text(f"{_FAILED} {row.backend} {where} [{row.problem}]: {row.message}", style="red"))
    console.print(
        Text("vs same, vs best: torch's time over ours, in the same layout and in torch's better one", style="dim")
    )
    for line in summary_lines(result.rows):
        console.print(Text(line))


def markdown(result: Result, picture: str) -> str:
    """The results block of a README: speed-ups by model, pass and layout, the summary, and the roofline."""
    mine = ours(result.rows)
    isa = _native_isa(result)
    columns = [(p, layout) for p in PASSES for layout in LAYOUTS if any(_is(r, p, layout) for r in mine)]
    lines = [
        "From `python -m convbound.bench`: torch's time over ours, geometric mean over the model's layers, in the same "
        "layout and in brackets against torch in its better layout. Above 1 ours is faster.",
        *(["", _AUTO] if isa else []),
        "",
        "| | " + " | ".join(f"{pass_} {layout}" for pass_, layout in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    several = len({(row.dtype, row.backend) for row in mine}) > 1
    for (model, dtype, backend), rows in grouped(mine, lambda r: (r.model, r.dtype, r.backend)).items():
        cells = [speedups(sum_up(r for r in rows if _is(r, *column))) for column in columns]
        name = f"{model} {dtype} {backend}" if several else model
        lines.append(f"| {escaped(name)} | " + " | ".join(cells) + " |")
        if isa and backend == "cpu":
            taken = [with_auto(row, isa) for row in rows]
            cells = [speedups(sum_up(r for r in taken if _is(r, *column))) for column in columns]
            lines.append("| with `auto` | " + " | ".join(cells) + " |")
    others = summary_lines([r for r in result.rows if r not in mine])[:1]
    summary = [
        f"{'  ' * line.startswith('  ')}- {escaped(line.strip())}"
        for line in (*summary_lines(mine), *others, *machine_lines(result))
    ]
    return "\n".join([*lines, "", *summary, "", f"![Roofline]({quote(picture)})"])


def _native_isa(result: Result) -> str | None:
    """The instruction set that the native CPU kernels of a run used, if there were any: part of what names them."""
    found = re.search(r"\((\w+)\)", str(result.machine.get("kernels", {}).get("cpu", "")))
    return found[1] if found and found[1] in MEASURED_ISAS else None


def rewrite_readme(readme: Path, result: Result, picture: Path) -> None:
    """Put a result between the README's markers.

    Raises
    ------
    ValueError
        When the markers are missing or in the wrong order, or no row of ours has a time.
    """
    if not any(row.gflops for row in ours(result.rows)):
        raise ValueError(f"no row of ours has a time, so there is nothing to show in {readme}")
    relative = Path(os.path.relpath(picture, readme.parent)).as_posix()
    replace_between(readme, README_START, README_END, markdown(result, relative))


def replace_between(document: Path, start: str, end: str, block: str) -> None:
    """Put a block between two marker lines of a document.

    Raises
    ------
    ValueError
        When the markers are missing or in the wrong order.
    """
    text = read_text(document)
    head, found_start, rest = text.partition(start)
    _, found_end, tail = rest.partition(end)
    if not found_start or not found_end:
        raise ValueError(f"{document} needs the lines {start} and {end}, in this order")
    replace_text(document, f"{head}{start}\n{block}\n{end}{tail}")


def _key(row: Row) -> tuple[Any, ...]:
    return (row.model, row.layer, row.problem, row.op, row.pass_, row.dtype, row.layout)


def _is(row: Row, pass_: str, layout: str) -> bool:
    return row.pass_ == pass_ and row.layout == layout
