"""What the rows add up to: wins, geometric means, where ours is slower. Numbers only; ``report`` shows them."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar, cast

from convbound.bench.overhead import MODEL as HOST
from convbound.bench.rivals import RIVALS
from convbound.bench.rows import Row
from convbound.choice import cpu_table
from convbound.problem import DTYPE_NAMES, ConvProblem, Layout, Pass

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Group:
    """Some rows of ours, summed up: how many there are, how many beat torch, and the mean speed-ups.

    ``same`` and ``best`` are geometric means of torch's time over ours, against torch in the same layout and in its
    better one; ``roof`` is the median share of the roof. All are None where no row has a time.
    """

    rows: int
    failed: int
    wins_same: int
    wins_best: int
    same: float | None
    best: float | None
    roof: float | None


def ours(rows: Iterable[Row]) -> list[Row]:
    """The rows of convbound's backends, without torch's and the host overhead."""
    return [row for row in rows if row.backend not in RIVALS and row.model != HOST]


def sum_up(rows: Iterable[Row]) -> Group:
    """Sum up rows of ours."""
    chosen = list(rows)
    same = [row.speedup_same_layout for row in chosen if row.speedup_same_layout is not None]
    best = [row.speedup_best_layout for row in chosen if row.speedup_best_layout is not None]
    shares = [row.roof_share for row in chosen if row.roof_share is not None]
    return Group(
        rows=len(chosen),
        failed=sum(not row.ok for row in chosen),
        wins_same=sum(s >= 1 for s in same),
        wins_best=sum(s >= 1 for s in best),
        same=geometric_mean(same),
        best=geometric_mean(best),
        roof=statistics.median(shares) if shares else None,
    )


def grouped(rows: Iterable[Row], key: Callable[[Row], Key]) -> dict[Key, list[Row]]:
    """Rows by a key, in the order of their first appearance."""
    groups: defaultdict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return dict(groups)


def geometric_mean(values: list[float]) -> float | None:
    """Geometric mean of positive numbers, None of none."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def is_slower(row: Row) -> bool:
    """Whether torch is faster in the same layout."""
    return row.speedup_same_layout is not None and row.speedup_same_layout < 1


def with_auto(row: Row, isa: str) -> Row:
    """The row as ``backend="auto"`` gives it: as it is where the table for CPUs takes the kernel, else torch's."""
    dtype = next((dtype for dtype, name in DTYPE_NAMES.items() if name == row.dtype), None)
    if dtype is None or row.speedup_same_layout is None:
        return row
    problem = ConvProblem.parse(row.problem)
    choice = cpu_table.look_up(problem, cast(Pass, row.pass_), dtype, cast(Layout, row.layout), isa)
    if choice.backend == row.backend:
        return row
    best = row.speedup_best_layout and row.speedup_best_layout / row.speedup_same_layout
    return replace(row, backend=choice.backend, speedup_same_layout=1.0, speedup_best_layout=best)


def summary_lines(rows: Iterable[Row]) -> list[str]:
    """The run in a few sentences: wins, where ours is slower, geometric means, failures, host overhead."""
    everything = list(rows)
    mine = ours(everything)
    if not mine:
        return [*_overhead(everything), "no row of ours was measured"]
    total = sum_up(mine)
    lines = [
        f"ours wins {total.wins_same} of {total.rows} rows against torch in the same layout, "
        f"{total.wins_best} of {total.rows} against torch in its better layout"
    ]
    if any(map(is_slower, mine)):
        lines.append("slower in:")
        lines += [f"  {model}: {_slower_places(group)}" for model, group in grouped(mine, _model).items()]
    if total.same is not None:
        lines.append("geometric means of torch's time over ours, same layout (better layout):")
        for name, by in (("pass", _pass), ("layout", _layout), ("family", _family)):
            means = [f"{key} {speedups(sum_up(group))}" for key, group in grouped(mine, by).items()]
            lines.append(f"  by {name}: " + ", ".join(means))
    if total.failed:
        lines.append(f"{total.failed} of {total.rows} rows of ours failed; their errors stand in the rows")
    return [*lines, *_overhead(everything)]


def speedups(group: Group) -> str:
    """Both mean speed-ups of a group, as ``1.30x (0.90x)``."""
    return f"{ratio(group.same)} ({ratio(group.best)})"


def ratio(value: float | None) -> str:
    """A speed-up with as many digits as mean something."""
    if value is None:
        return "-"
    return f"{value:.0f}x" if value >= 99.5 else f"{value:.1f}x" if value >= 9.95 else f"{value:.2f}x"


def _slower_places(rows: list[Row]) -> str:
    """Where a model's rows are slower than torch, as ``12 of 24 rows: fprop NHWC 4 of 4, wgrad NCHW 8 of 8``."""
    slower = sum(map(is_slower, rows))
    if slower in (0, len(rows)):
        return f"{'all' if slower else 'none'} of {len(rows)} rows"
    counts = {key: (sum(map(is_slower, group)), len(group)) for key, group in grouped(rows, _place).items()}
    places = [f"{place} {losing} of {size}" for place, (losing, size) in counts.items() if losing]
    return f"{slower} of {len(rows)} rows: {', '.join(places)}"


def _model(row: Row) -> str:
    return row.model


def _place(row: Row) -> str:
    return f"{row.pass_} {row.layout}"


def _pass(row: Row) -> str:
    return row.pass_


def _layout(row: Row) -> str:
    return row.layout


def _family(row: Row) -> str:
    return row.family


def _overhead(rows: list[Row]) -> list[str]:
    parts = [
        f"{row.backend} {row.median_ms * 1e3:.1f} us" for row in rows if row.model == HOST and row.median_ms is not None
    ]
    return ["host overhead per call: " + ", ".join(parts)] if parts else []
