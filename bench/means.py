"""``means``: geometric means of result files by kind of layer, as a table of a document; dense layers are left out.

A mean stands beside the least and the most of its rows: one layer that torch is very slow in can make a mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from convbound.bench.report import escaped, replace_between
from convbound.bench.rows import Result, Row
from convbound.bench.summary import geometric_mean, ours, ratio
from convbound.problem import LAYOUTS, PASSES, ConvProblem

MEANS = "means"
_LARGE = 9


def kind(row: Row) -> str:
    """What sort of depthwise or grouped layer a row is."""
    problem = ConvProblem.parse(row.problem)
    family = "depthwise" if problem.depthwise else "grouped"
    if problem.ndim != 2:
        return f"{family} {problem.ndim}-D"
    if "transpose" in row.op:
        return f"{family} 2-D transposed"
    if max(problem.filter) >= _LARGE:
        return f"{family} 2-D from {_LARGE}x{_LARGE} on"
    if max(problem.dilation) > 1:
        return f"{family} 2-D dilated"
    return f"{family} 2-D strided" if max(problem.stride) > 1 else f"{family} 2-D"


def markdown(results: Sequence[Result]) -> str:
    """The table: a line for each instruction set, dtype and kind, and for all; a column for each pass and layout."""
    columns = [(pass_, layout) for pass_ in PASSES for layout in LAYOUTS]
    lines = [f"| {' | '.join(['', 'layers', *(' '.join(column) for column in columns)])} |", "|---" * 8 + "|"]
    groups: defaultdict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for result in results:
        for row in ours(result.rows):
            if row.ok and ConvProblem.parse(row.problem).groups > 1:
                for sort in ("all", kind(row)):
                    groups[str(result.machine["isa"]), row.dtype, sort].append(row)
    for head, group in sorted(groups.items()):
        cells = [_means([row for row in group if (row.pass_, row.layout) == column]) for column in columns]
        layers = len({(row.problem, row.op) for row in group})
        lines.append(f"| {' | '.join([escaped(' '.join(head)), str(layers), *cells])} |")
    return "\n".join(lines)


def rewrite(document: Path, results: Sequence[Result]) -> None:
    """Put the table between the markers ``<!-- means:start -->`` and ``<!-- means:end -->`` of a document.

    Raises
    ------
    ValueError
        When the markers are missing or in the wrong order.
    """
    replace_between(document, f"<!-- {MEANS}:start -->", f"<!-- {MEANS}:end -->", markdown(results))


def _means(rows: Sequence[Row]) -> str:
    """Both means, and the least and most of the same layout, as ``2.03x (1.40x), 0.86-12.1x``; no range of one row."""
    same = [row.speedup_same_layout for row in rows if row.speedup_same_layout is not None]
    best = [row.speedup_best_layout for row in rows if row.speedup_best_layout is not None]
    if not same:
        return "-"
    limits = f", {ratio(min(same)).removesuffix('x')}-{ratio(max(same))}" if len(same) > 1 else ""
    return f"{ratio(geometric_mean(same))} ({ratio(geometric_mean(best))}){limits}"
