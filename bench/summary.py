"""What the rows add up to: wins, geometric means, where ours is slower. Numbers only; ``report`` shows them."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from convbound.bench.auto import AUTO
from convbound.bench.measure import EITHER
from convbound.bench.overhead import MODEL as HOST
from convbound.bench.overhead import contention
from convbound.bench.rivals import RIVALS
from convbound.bench.rows import NOISY, Row
from convbound.choice import cpu_table
from convbound.problem import NAMED_DTYPES, ConvProblem, Layout, Pass

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
    return Group(
        rows=len(chosen),
        failed=sum(not row.ok for row in chosen),
        wins_same=sum(s >= 1 for s in same),
        wins_best=sum(s >= 1 for s in best),
        same=geometric_mean(same),
        best=geometric_mean(best),
        roof=roof_share(chosen),
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
    dtype = NAMED_DTYPES.get(row.dtype)
    if dtype is None or row.speedup_same_layout is None:
        return row
    problem = ConvProblem.parse(row.problem)
    choice = cpu_table.look_up(problem, cast(Pass, row.pass_), dtype, cast(Layout, row.layout), isa)
    if choice.backend == row.backend:
        return row
    best = row.speedup_best_layout and row.speedup_best_layout / row.speedup_same_layout
    return replace(row, backend=choice.backend, speedup_same_layout=1.0, speedup_best_layout=best)


def best_rivals(rows: Iterable[Row]) -> dict[tuple[Any, ...], Row]:
    """The fastest of torch's rows for the :func:`place` of each row of ours; a failed one where none has a time."""
    best: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        if row.backend in RIVALS and row.model != HOST:
            known = best.setdefault(place(row), row)
            if row.median_ms is not None and (known.median_ms is None or row.median_ms < known.median_ms):
                best[place(row)] = row
    return best


def place(row: Row) -> tuple[Any, ...]:
    """What a row measures, by whatever backend."""
    return (row.model, row.layer, row.problem, row.op, row.pass_, row.dtype, row.layout)


def roof_share(rows: Iterable[Row]) -> float | None:
    """The median share of the roof, None of rows without a time."""
    shares = [row.roof_share for row in rows if row.roof_share is not None]
    return statistics.median(shares) if shares else None


def summary_lines(rows: Iterable[Row]) -> list[str]:
    """The run in a few sentences: :func:`verdict_lines`, geometric means, and :func:`remark_lines`."""
    everything = list(rows)
    lines = []
    for name, group in _by_backend(everything):
        if sum_up(group).same is not None:
            lines.append(f"geometric means of torch's time over {name}, same layout (better layout):")
            for what, by in (("pass", _pass), ("layout", _layout), ("family", _family)):
                means = [f"{key} {speedups(sum_up(part))}" for key, part in grouped(group, by).items()]
                lines.append(f"  by {what}: " + ", ".join(means))
    return [*verdict_lines(everything), *lines, *remark_lines(everything)]


def verdict_lines(rows: Iterable[Row]) -> list[str]:
    """How often ours wins, and where it is slower."""
    backends = _by_backend(list(rows))
    lines = []
    for name, group in backends:
        total = sum_up(group)
        lines.append(
            f"{name} wins {total.wins_same} of {total.rows} rows against torch in the same layout, "
            f"{total.wins_best} of {total.rows} against torch in its better layout"
        )
    for name, group in backends:
        if any(map(is_slower, group)):
            lines.append(f"{name if len(backends) > 1 else ''} slower in:".strip())
            models = grouped(group, _model).items()
            lines += [f"  {model}: {_slower_places(part)}" for model, part in models if any(map(is_slower, part))]
    return lines or ["no row of ours was measured"]


def remark_lines(rows: Iterable[Row]) -> list[str]:
    """How far from the roof, what a naive kernel serves, failures, noise, and the host overhead."""
    everything = list(rows)
    rivals = best_rivals(everything).values()
    named = [*_by_backend(everything), ("torch", list(rivals))]
    shares = [(name, share) for name, group in named if (share := roof_share(group)) is not None]
    lines = []
    if shares:
        lines.append("of the roof, in the median: " + ", ".join(f"{name} {share:.0%}" for name, share in shares))
    for name, group in _by_backend(everything):
        if left := sum(row.backend == AUTO and row.kernel.startswith(f"{AUTO}: torch") for row in group):
            lines.append(
                f"{AUTO} leaves {left} of {len(group)} rows to torch: these differ by noise and the call alone"
            )
        if naive := sum(row.naive for row in group):
            serves = f"a naive kernel serves {naive} of {len(group)} rows of {name}, for lack of a fast one"
            lines.append(f"{serves}; auto leaves these to torch")
        if failed := sum(not row.ok for row in group):
            lines.append(f"{failed} of {len(group)} rows of {name} failed; their errors stand in the rows")
    timed = [row for row in everything if row.model != HOST and row.median_ms is not None]
    if noisy := sum(row.noisy for row in timed):
        lines.append(
            f"{noisy} of {len(timed)} times are noisy: the 80th percentile is {NOISY} times the median, or more"
        )
    if either := sum(row.bound == EITHER for row in timed):
        lines.append(f"{either} of {len(timed)} rows are bound by either: the roofs spread too far to tell")
    return [*lines, *_overhead(everything)]


def _by_backend(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    """The rows of ours by backend; a single backend is called ours."""
    groups = grouped(ours(rows), lambda row: row.backend)
    return [(backend if len(groups) > 1 else "ours", group) for backend, group in groups.items()]


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
    """A line for each number of threads, and one for threads that wait for one another."""
    host = [row for row in rows if row.model == HOST and row.median_ms is not None]
    lines = []
    for count, group in grouped(host, lambda row: row.threads).items():
        layers = list(dict.fromkeys(row.layer for row in group))
        where = f" on {count} thread{'s' * (count != 1)}" if count else ""
        of = f" ({', '.join(layers)})" if len(layers) > 1 else ""
        backends = grouped(group, lambda row: row.backend).items()
        times = [f"{backend} {', '.join(_microseconds(row) for row in part)}" for backend, part in backends]
        lines.append(f"host overhead per call{where}, us{of}: {'; '.join(times)}")
    if waiting := contention(host):
        calls = ", ".join(
            f"{many.backend} {many.layer} {_microseconds(many)} us instead of {_microseconds(one)}"
            for one, many in waiting
        )
        lines.append(
            f"on {waiting[0][1].threads} threads these calls spend their time waiting for threads, as they do where "
            f"other programs use the cores: {calls}"
        )
    return lines


def _microseconds(row: Row) -> str:
    return f"{1e3 * (row.median_ms or 0.0):.1f}"
