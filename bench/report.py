"""The report of a run: one screen for the terminal, the long table for a file, and the results block of a README."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from convbound.bench.auto import AUTO
from convbound.bench.progress import FULL_WIDTH
from convbound.bench.rivals import TORCH
from convbound.bench.rows import Result, Row
from convbound.bench.summary import (
    best_rivals,
    grouped,
    is_slower,
    ours,
    place,
    ratio,
    remark_lines,
    roof_share,
    speedups,
    sum_up,
    summary_lines,
    verdict_lines,
    with_auto,
)
from convbound.choice.cpu_table import MEASURED_ISAS
from convbound.problem import LAYOUTS, PASSES, ConvProblem
from convbound.untrusted import read_text, replace_text

README_START, README_END = "<!-- results:start -->", "<!-- results:end -->"
_AUTO = "The rows with `auto` say what a user gets: torch's kernel counts where `auto` leaves a layer to torch."
# In terminals narrower than this, the table leaves out details; all of them stand in the files.
_NARROW, _MEDIUM, _WIDE = 96, 110, 150
_SLOWER, _FAILED, _NOISY = "slower", "FAILED", "noisy"
# A run of so few rows shows its table on its screen; so many failed rows have room there.
_FEW_ROWS, _FEW_FAILURES = 12, 5
_VERSUS = "vs same, vs best: torch's time over ours, in the same layout and in torch's better one"
# What makes tags, comments, links, pictures, code, emphasis or cells of a table.
_MARKUP = str.maketrans({character: f"&#{ord(character)};" for character in "&<>[]|`*~\\"})


@dataclass(frozen=True)
class Column:
    """One column of the results table: its head, its text for a row beside torch's best, and how it is set.

    `{}` in the head stands for the row's backend. A `versus` column compares, so that a table of torch alone lacks it.
    """

    head: str
    text: Callable[[Row, Row | None], str]
    right: bool = True
    min_width: int = 0
    versus: bool = False


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
    noisy = row.noisy or (torch_row is not None and torch_row.noisy)
    return ", ".join([_NOISY] * noisy + [_SLOWER] * is_slower(row))


def _kernel(row: Row, _: Row | None) -> str:
    return row.kernel.removeprefix(f"{AUTO}: ")


COLUMNS = (
    Column("layer", lambda row, _: row.layer, right=False),
    Column("shape", lambda row, _: shape(row.problem), right=False, min_width=_MEDIUM),
    Column("layout", lambda row, _: row.layout, right=False),
    Column("{} ms", lambda row, _: _number(row.median_ms)),
    Column("p20-p80", lambda row, _: f"{_number(row.p20_ms)}-{_number(row.p80_ms)}", min_width=FULL_WIDTH),
    Column("torch ms", lambda _, rival: _number(rival.median_ms if rival else None), versus=True),
    Column("vs same", lambda row, _: ratio(row.speedup_same_layout), versus=True),
    Column("vs best", lambda row, _: ratio(row.speedup_best_layout), versus=True),
    Column("of roof", lambda row, _: _percent(row.roof_share), min_width=_NARROW),
    Column("torch's", lambda _, rival: _percent(rival.roof_share if rival else None), min_width=_NARROW, versus=True),
    Column("bound", lambda row, _: row.bound, right=False, min_width=_MEDIUM),
    Column("GB/s", lambda row, _: _number(row.gbps), min_width=_WIDE),
    Column("of copy", lambda row, _: _percent(row.copy_share), min_width=_WIDE),
    Column("GFLOP/s", lambda row, _: _number(row.gflops), min_width=_WIDE),
    Column("of peak", lambda row, _: _percent(row.peak_share), min_width=_WIDE),
    Column("FLOP/B", lambda row, _: _number(row.intensity), min_width=FULL_WIDTH),
    Column("error", lambda row, _: "-" if row.error is None else f"{row.error:.0e}", min_width=_WIDE),
    Column("kernel", _kernel, right=False, min_width=FULL_WIDTH),
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
    machine = result.machine
    caches = ", ".join(f"{name} {size >> 10} KB" for name, size in machine["caches"].items())
    versions = ", ".join(f"{name} {machine[name]}" for name in ("convbound", "torch", "python") if machine[name])
    kernels = ", ".join(f"{name}: {kernels}" for name, kernels in machine["kernels"].items() if name != TORCH)
    gpu = gpu_line(machine) + "; " if machine.get("gpu") else ""
    lines = [
        f"{gpu}{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, {caches}; {kernels}; "
        f"{versions}, revision {machine['revision'] or 'unknown'}, {machine['date']}"
    ]
    return [*lines, roof_line(result)] if result.roofs else lines


def roof_line(result: Result) -> str:
    """The measured roofs and the ridges; where they were measured several times, with the least and the most."""
    roofs = result.roofs
    spread = roofs.get("spread", {})

    def limits(name: str) -> str:
        return f" ({_number(spread[name][0])}-{_number(spread[name][1])})" if name in spread else ""

    def ridge(dtype: str, peak: float) -> str:
        middle = f"{peak / roofs['copy_gbps']:.1f}"
        if "copy" not in spread or dtype not in spread:
            return middle
        return f"{middle} ({spread[dtype][0] / spread['copy'][1]:.1f}-{spread[dtype][1] / spread['copy'][0]:.1f})"

    peaks = ", ".join(f"{peak:.0f} GFLOP/s {dtype}{limits(dtype)}" for dtype, peak in roofs["peak_gflops"].items())
    ridges = ", ".join(ridge(dtype, peak) for dtype, peak in roofs["peak_gflops"].items())
    if fma := roofs.get("fma_gflops"):
        peaks += f", {fma:.0f} GFLOP/s fp32 without tensor cores{limits('fma')} (the bound of depthwise rows)"
    copy = f"copy {roofs['copy_gbps']:.1f} GB/s{limits('copy')} ({roofs['copy_method']})"
    repeats = f"; medians of {roofs['repeats']} measurements (least-most)" if spread else ""
    return f"measured roofs: {copy}, {peaks}; ridge at {ridges} FLOP/byte{repeats}"


def gpu_line(machine: dict[str, Any]) -> str:
    """The GPU of a result, its driver and its libraries."""
    smi = machine["nvidia_smi"]
    driver = f"driver {smi['driver_version']}, SM clock {smi['clocks.sm']} of {smi['clocks.max.sm']}, " if smi else ""
    return (
        f"{machine['gpu']}, {machine['sms']} SMs, L2 {machine['l2'] >> 20} MB, {driver}CUDA {machine['cuda']}, "
        f"cuDNN {machine['cudnn']}"
    )


def print_screen(result: Result, console: Console) -> None:
    """Print what fits one screen."""
    for part in screen(result, console.width):
        console.print(part)


def screen(result: Result, width: int = FULL_WIDTH) -> list[RenderableType]:
    """What a run comes to, part by part: machine, speed-ups by model (or a short table), what was slower, remarks."""
    machine = result.machine
    device = gpu_line(machine) if machine.get("gpu") else f"{machine['cpu']}, {machine['threads']} threads"
    parts: list[RenderableType] = [Text(f"{device}, torch {machine['torch']}", style="dim")]
    if result.roofs:
        parts.append(Text(roof_line(result), style="dim"))
    shown = ours(result.rows) or list(best_rivals(result.rows).values())
    if len(shown) <= _FEW_ROWS:
        parts += [*long_tables(result, width), *_legend(result)]
    else:
        parts.append(model_table(result))
    failures = _failures(result)
    parts += failures[:_FEW_FAILURES]
    if len(failures) > _FEW_FAILURES:
        parts.append(Text(f"and {len(failures) - _FEW_FAILURES} more {_FAILED} in the long table", style="red"))
    return [*parts, *map(Text, verdict_lines(result.rows)), *map(Text, remark_lines(result.rows))]


def print_table(result: Result, console: Console) -> None:
    """Print all there is: the machine, a table per model with a section per pass, failures and the whole summary."""
    for line in machine_lines(result):
        console.print(Text(line, style="dim"))
    for part in (*long_tables(result, console.width), *_failures(result), *_legend(result)):
        console.print(part)
    for line in summary_lines(result.rows):
        console.print(Text(line))


def table_text(result: Result) -> str:
    """What :func:`print_table` prints, in full width."""
    text = io.StringIO()
    print_table(result, Console(file=text, width=FULL_WIDTH, color_system=None))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def model_table(result: Result) -> Table:
    """Mean speed-ups by model, pass and layout, by what was measured and by what ``auto`` makes of it.

    Where torch alone was measured: its median shares of the roof.
    """
    rivals = best_rivals(result.rows)
    mine = ours(result.rows)
    shown = mine or list(rivals.values())
    columns = [(p, layout) for p in PASSES for layout in LAYOUTS if any(_is(r, p, layout) for r in shown)]
    means = "torch's time over ours in the same layout, geometric means; and the median share of the roof"
    table = _new_table(means if mine else "torch's median share of the roof")
    for head in ("model", "dtype", "by"):
        table.add_column(head, no_wrap=True)
    for head in (
        *(f"{pass_}\n{layout}" for pass_, layout in columns),
        *(["of\nroof", "torch\nof roof"] if mine else ()),
    ):
        table.add_column(head, justify="right", no_wrap=True)

    def cells(rows: list[Row]) -> list[str]:
        parts = [[row for row in rows if _is(row, *column)] for column in columns]
        return [ratio(sum_up(part).same) if mine else _percent(roof_share(part)) for part in parts]

    for (model, dtype, backend), rows in grouped(shown, lambda row: (row.model, row.dtype, row.backend)).items():
        by = {backend: cells(rows)}
        if taken := _taken_by_auto(result, rows):
            by[AUTO] = cells(taken)
            if by[AUTO] == by[backend]:
                by = {f"{backend}, {AUTO}": by[AUTO]}
        of_torch = roof_share(rivals[place(row)] for row in rows if place(row) in rivals)
        shares = [_percent(roof_share(rows)), _percent(of_torch)] if mine else []
        for i, (name, values) in enumerate(by.items()):
            texts = ["", "", name, *values] if i else [model, dtype, name, *values, *shares]
            table.add_row(*map(Text, texts))
    return table


def long_tables(result: Result, width: int) -> Iterator[Table]:
    """A table per model, dtype and backend with a section per pass; of torch's rows where there are none of ours."""
    rivals = best_rivals(result.rows)
    mine = ours(result.rows)
    shown = mine or list(rivals.values())
    for (model, dtype, backend), rows in grouped(shown, lambda r: (r.model, r.dtype, r.backend)).items():
        transposed = " (transposed layers: dgrad is their forward)" if "transpose" in rows[0].op else ""
        # A single layer is named once, and the shape of a problem without a name would only repeat it.
        single = len({(row.layer, row.problem) for row in rows}) == 1
        skip = {"layer"} if single else {"shape"} if all(row.layer == row.problem for row in rows) else set()
        name = f"{model} {rows[0].layer}" if single else model
        columns = [
            c
            for c in COLUMNS
            if (width >= c.min_width or (c.head == "kernel" and backend == AUTO))
            and c.head not in skip
            and (mine or not c.versus)
        ]
        table = _new_table(f"{name}: {backend}{' against torch' if mine else ''}, {dtype}{transposed}")
        table.add_column("pass", no_wrap=True)
        for column in columns:
            least = len(_SLOWER) if column.text is _note else None
            head = Text(column.head.format(backend))
            table.add_column(head, justify="right" if column.right else "left", no_wrap=True, min_width=least)
        for pass_, section in grouped(rows, lambda r: r.pass_).items():
            table.add_section()
            for i, row in enumerate(section):
                rival = rivals.get(place(row))
                style = "red" if not row.ok else "yellow" if is_slower(row) else None
                cells = (Text(column.text(row, rival)) for column in columns)
                table.add_row("" if i else pass_, *cells, style=style)
        yield table


def _new_table(title: str) -> Table:
    return Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _legend(result: Result) -> list[Text]:
    return [Text(_VERSUS, style="dim")] if ours(result.rows) else []


def _failures(result: Result) -> list[Text]:
    failed = [row for row in result.rows if not row.ok]
    where = [f"{row.model}:{row.layer} {row.pass_} {row.layout} {row.dtype}" for row in failed]
    return [
        Text(f"{_FAILED} {row.backend} {one} [{row.problem}]: {row.message}", style="red")
        for row, one in zip(failed, where, strict=True)
    ]


def _taken_by_auto(result: Result, rows: list[Row]) -> list[Row]:
    """Rows of the native CPU kernels as ``auto`` gives them; none where that is unknown, or was measured itself."""
    isa = _native_isa(result)
    measured = any(row.backend == AUTO for row in ours(result.rows))
    if isa is None or measured or rows[0].backend != "cpu":
        return []
    return [with_auto(row, isa) for row in rows]


def markdown(result: Result, picture: str) -> str:
    """The results block of a README: speed-ups by model, pass and layout, the summary, and the roofline."""
    mine = ours(result.rows)
    columns = [(p, layout) for p in PASSES for layout in LAYOUTS if any(_is(r, p, layout) for r in mine)]
    lines = [
        "From `python -m convbound.bench`: torch's time over ours, geometric mean over the model's layers, in the same "
        "layout and in brackets against torch in its better layout. Above 1 ours is faster.",
        *(["", _AUTO] if _native_isa(result) else []),
        "",
        "| | " + " | ".join(f"{pass_} {layout}" for pass_, layout in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    several = len({(row.dtype, row.backend) for row in mine}) > 1
    for (model, dtype, backend), rows in grouped(mine, lambda r: (r.model, r.dtype, r.backend)).items():
        cells = [speedups(sum_up(r for r in rows if _is(r, *column))) for column in columns]
        name = f"{model} {dtype} {backend}" if several else model
        lines.append(f"| {escaped(name)} | " + " | ".join(cells) + " |")
        if taken := _taken_by_auto(result, rows):
            cells = [speedups(sum_up(r for r in taken if _is(r, *column))) for column in columns]
            lines.append("| with `auto` | " + " | ".join(cells) + " |")
    summary = [
        f"{'  ' * line.startswith('  ')}- {escaped(line.strip())}"
        for line in (*summary_lines(result.rows), *machine_lines(result))
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


def _is(row: Row, pass_: str, layout: str) -> bool:
    return row.pass_ == pass_ and row.layout == layout
