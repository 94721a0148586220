"""How an experiment is shown: its table, its picture, and its chapter of docs/experiments.md."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from convbound.bench.experiments.experiment import OURS, Experiment, Points
from convbound.bench.experiments.run import Record
from convbound.bench.report import escaped, machine_lines
from convbound.bench.rivals import TORCH
from convbound.bench.rows import Result
from convbound.text_table import short
from convbound.untrusted import replace_bytes, replace_text

_KEYS = ("series", "label", "layout", "pass_", "cache")
_HEADS = {
    "label": "",
    "series": "",
    "layout": "layout",
    "pass_": "pass",
    "cache": "caches",
    "multiply_adds": "multiply-adds",
    "bytes": "bytes",
    "parameters": "parameters",
    "intensity": "FLOP/byte",
}
# Colours that stay apart for colour-blind eyes (Okabe and Ito); what differs in colour differs in its marker, too.
# Blue is convbound and orange is torch, wherever both are compared.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_FAMILIES = {OURS: ("#0072B2", "#56B4E9", "#003a5c", "#9bb8ff"), TORCH: ("#D55E00", "#E69F00", "#7a3600", "#ffc09f")}
MARKERS = "osD^vPX"
# A longer table is folded on the page.
_MOST_ROWS = 20


def number(value: float) -> str:
    """Three significant digits, with a prefix (k, M, G) from a thousand on."""
    return short(value).rstrip()


def table(experiment: Experiment, points: Points) -> tuple[list[str], list[list[str]]]:
    """The points as heads and rows of text; times in milliseconds, one column for each combination of what differs."""
    names = _names(experiment, points)
    across = [key for key in _KEYS if key not in experiment.rows and len(points.values(key)) > 1]
    combinations = list(dict.fromkeys(tuple(getattr(p, key) for key in across) for p in points))
    facts = list(dict.fromkeys(name for point in points for name in point.facts))
    heads = [_HEADS[key] for key in (*names, *experiment.columns)] + facts
    heads += [" ".join((*map(str, combination), "ms")) for combination in combinations]
    rows = []
    for key in dict.fromkeys(tuple(getattr(p, name) for name in names) for p in points):
        row = points.where(**dict(zip(names, key, strict=True)))
        first = row[0]
        cells = [*map(str, key), *(number(getattr(first, column)) for column in experiment.columns)]
        cells += [number(first.facts[name]) if name in first.facts else "" for name in facts]
        for combination in combinations:
            found = row.where(**dict(zip(across, combination, strict=True)))
            cells.append(number(found[0].ms) if found else "")
        rows.append(cells)
    return heads, rows


def _names(experiment: Experiment, points: Points) -> list[str]:
    """The columns that name a row: those of the experiment's that differ, and the label."""
    return [key for key in experiment.rows if key == "label" or len(points.values(key)) > 1]


def print_experiment(experiment: Experiment, points: Points, record: Record, console: Console) -> None:
    """Print the hypothesis, the table and the verdict."""
    console.print(Text(f"{experiment.name}: {experiment.title}", style="bold"))
    console.print(Text(experiment.hypothesis))
    heads, rows = table(experiment, points)
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for i, head in enumerate(heads):
        left = i < len(_names(experiment, points))
        grid.add_column(Text(head), justify="left" if left else "right", no_wrap=left)
    for row in rows:
        grid.add_row(*map(Text, row))
    console.print(grid)
    verdict = experiment.verdict(points, record.roofs)
    console.print(Text(str(verdict), style="green" if verdict.holds else "yellow"))
    console.print()


def draw(experiment: Experiment, points: Points, record: Record, path: Path) -> None:
    """Write the picture as SVG, on a ground of its own, so that it reads on light and on dark pages."""
    # Texts stay texts; equal points give equal files.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": experiment.name, "font.family": "sans-serif"}):
        figure = Figure(figsize=(9, 4.8), layout="constrained")
        experiment.draw(figure, points, record.roofs)
        for axes in figure.axes:
            _plain_numbers(axes)
        picture = io.BytesIO()
        figure.savefig(picture, format="svg", metadata={"Date": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(path, picture.getvalue())


def _plain_numbers(axes: Axes) -> None:
    """Write 0.2 and 50 beside a logarithmic axis, not powers of ten."""
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log" and not isinstance(axis.get_major_locator(), FixedLocator):
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,), numticks=8))
            axis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_minor_formatter(NullFormatter())


def colours(names: Sequence[tuple[Any, ...]]) -> list[str]:
    """A colour for each name: blues for convbound and oranges for torch, if both are there."""
    texts = [" ".join(map(str, name)) for name in names]
    owners = [next((family for family in _FAMILIES if family in text), None) for text in texts]
    if {*owners} != {*_FAMILIES} or max(map(owners.count, owners)) > len(_FAMILIES[OURS]):
        return [COLOURS[i % len(COLOURS)] for i in range(len(names))]
    return [_FAMILIES[str(owner)][owners[:i].count(owner)] for i, owner in enumerate(owners)]


def lines(axes: Axes, points: Points, key: Iterable[str] = ("series",)) -> None:
    """A line for each combination of the columns of `key`; torch's are dashed."""
    key = tuple(key)
    names = list(dict.fromkeys(tuple(getattr(p, column) for column in key) for p in points))
    for i, (name, colour) in enumerate(zip(names, colours(names), strict=True)):
        line = points.where(**dict(zip(key, name, strict=True)))
        axes.plot(
            [p.x for p in line],
            [p.ms for p in line],
            linestyle="-" if any(OURS in str(part) for part in name) else "--",
            marker=MARKERS[i % len(MARKERS)],
            color=colour,
            label=" ".join(map(str, name)),
        )


def ticks(axes: Axes, points: Points) -> None:
    """Name the places of the x axis by the points' labels."""
    places: dict[float, str] = {point.x: point.label for point in points}
    axes.set_xticks(list(places), list(places.values()), rotation=45 if len(places) > 6 else 0)
    axes.minorticks_off()


def legend(figure: Figure, axes: Axes) -> None:
    """The legend, beside the data and not on them."""
    axes.grid(True, which="major", linewidth=0.4, alpha=0.6)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=9)


def bars(axes: Axes, points: Points, key: Iterable[str] = ("series",)) -> None:
    """Groups of bars: a group for each label, in it one bar for each combination of the columns of `key`."""
    key = tuple(key)
    names = list(dict.fromkeys(tuple(getattr(p, column) for column in key) for p in points))
    labels = points.values("label")
    width = 0.8 / len(names)
    for i, (name, colour) in enumerate(zip(names, colours(names), strict=True)):
        line = points.where(**dict(zip(key, name, strict=True)))
        places = [labels.index(p.label) + (i - (len(names) - 1) / 2) * width for p in line]
        drawn = axes.bar(places, [p.ms for p in line], width, color=colour, label=" ".join(map(str, name)))
        axes.bar_label(drawn, [number(p.ms) for p in line], fontsize=7, padding=1)
    axes.set_xticks(range(len(labels)), [fill(label, 12) for label in labels])
    axes.set_ylabel("ms")


def chapter(experiment: Experiment, points: Points, record: Record, picture: str) -> str:
    """The experiment as a chapter of a document."""
    heads, rows = table(experiment, points)
    left = len(_names(experiment, points))
    grid = [
        f"| {' | '.join(map(escaped, heads))} |",
        "|" + "---|" * left + "--:|" * (len(heads) - left),
        *(f"| {' | '.join(map(escaped, row))} |" for row in rows),
    ]
    if len(rows) > _MOST_ROWS:
        grid = [f"<details><summary>the table, {len(rows)} rows</summary>", "", *grid, "", "</details>"]
    return "\n".join(
        [
            f"## {experiment.name}: {experiment.title}",
            "",
            experiment.hypothesis,
            "",
            f"![{experiment.title}]({picture})",
            "",
            *grid,
            "",
            f"**{experiment.verdict(points, record.roofs)}**",
        ]
    )


def introduction(record: Record) -> str:
    """The head of the page: how to make it, how to read it, and where the numbers come from."""
    result = Result(record.machine, dataclasses.asdict(record.roofs), {})
    lines = "\n".join(f"- {escaped(line)}" for line in machine_lines(result))
    return f"""# The experiments

What the usual notes on convolutions claim, measured. Each chapter states a hypothesis, shows what was measured and ends
in a verdict that follows from the data by a rule. On your machine it may be another:

```sh
python -m convbound.bench experiment --list
python -m convbound.bench experiment three
python -m convbound.bench experiment --all     # four minutes
```

Times are medians in milliseconds, of calls that are sampled in turns. *Warm*: the operands of the call before are still
in the caches. *Cold*: the caches hold none of them. *torch* is PyTorch's own convolution, *convbound* what `auto`
chooses, which is torch's kernel where none of ours is faster. Bytes are compulsory: every input read once, every output
written once. The points stand in [bench/results/experiments.json](../bench/results/experiments.json), of which
`python -m convbound.bench experiment --from bench/results/experiments.json --docs docs` makes this page.

{lines}"""


def write_page(experiments: Iterable[Experiment], record: Record, folder: Path) -> None:
    """Write experiments.md and its pictures into a folder, from the points of a file."""
    chapters = []
    for experiment in experiments:
        points = record.points[experiment.name]
        picture = folder / "experiments" / f"{experiment.name}.svg"
        draw(experiment, points, record, picture)
        chapters.append(chapter(experiment, points, record, f"experiments/{picture.name}"))
    replace_text(folder / "experiments.md", "\n\n".join([introduction(record), *chapters]) + "\n")
