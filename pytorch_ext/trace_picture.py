"""The x-ray of a trace: a plane of a tensor, each 32-byte sector in the colour of how often it is used.

Two maps for each trace: requests that touch a sector (what L1 answers), and how often it passed between SMs and L2.
Below stand the source lines that do it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from convbound import _library, fakes
from convbound.gpus import SECTOR
from convbound.problem import DTYPE_NAMES
from convbound.untrusted import replace_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from convbound.trace_report import Site, Trace

_MOST = 512  # elements along an axis that are drawn
_PIXELS = 560  # of a map along its longer axis, at most, where it has fewer elements
_MOST_LINES = 4
_LEAST_STEPS, _MOST_STEPS = 4, 8  # of a scale of whole numbers
# Sizes in inches; fonts in points.
_MAP, _GAP, _LEFT, _ABOVE, _BELOW, _LINE = 2.2, 0.3, 0.25, 1.32, 0.84, 0.52
_COLUMN = _LEFT + 2 * _MAP + _GAP + 0.25
_INK, _FAINT, _UNUSED = "#24292f", "#57606a", "#d0d7de"


def picture_path(path: str | Path) -> Path:
    """The path of a picture that can be written; a ValueError or OSError where its name or folder says otherwise."""
    path = Path(path)
    if path.suffix.lower() != ".svg":
        raise ValueError(f"picture: path={str(path)!r} must end in .svg")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"picture: path={str(path)!r}: there is no folder {str(path.parent)!r}")
    return path


def draw(traces: Sequence[Trace], path: str | Path, tensor: str | None = None) -> None:
    """Draw a tensor of traces side by side, in one scale; see :meth:`convbound.trace_report.Trace.picture`."""
    path = picture_path(path)
    try:
        import numpy  # noqa: F401
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RuntimeError(f"picture: needs {error.name}; pip install 'convbound[bench]'") from error
    name = tensor or ("dy" if traces[0].pass_ == "dgrad" else "x")
    maps = [_maps(trace, name) for trace in traces]
    most = [max(int(pair[which].max()) for pair in maps) for which in range(2)]
    # Text stays text: small files, and fonts of the reader's. The same picture has the same bytes each time.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "convbound", "font.sans-serif": ["DejaVu Sans", "Arial"]}):
        lines = max(len(_lines(trace, name)) for trace in traces)
        height = _ABOVE + _MAP + _BELOW + _LINE * lines
        figure = Figure(figsize=(_COLUMN * len(traces), height), facecolor="white")
        for column, (trace, pair) in enumerate(zip(traces, maps, strict=True)):
            _column(figure, column * _COLUMN + _LEFT, trace, name, pair, most)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Title": _title(traces[0], name)})
    replace_text(path, "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n")


def _maps(trace: Trace, name: str) -> tuple[Tensor, Tensor]:
    """Of each element that is drawn: how often its sector was requested, and moved, in all launches."""
    known = trace.launches[0].sectors
    if not known:
        raise ValueError("picture: this trace has no counts of sectors; trace(..., sectors=True) makes them")
    if name not in known or name not in _shapes(trace):
        raise ValueError(f"picture: tensor={name!r} must be one of {', '.join(_shapes(trace))}")
    offsets = _offsets(trace, name)
    sectors = offsets * trace.dtype.itemsize // SECTOR
    counts = [launch.sectors[name] for launch in trace.launches]
    requested, moved = sum(c.requested for c in counts), sum(c.moved for c in counts)
    return requested[sectors], moved[sectors]  # type: ignore[index]


def _shapes(trace: Trace) -> dict[str, tuple[int, ...]]:
    """The tensors of the pass, by the names that the pass gives them."""
    p = trace.problem
    x, w, y = {"fprop": ("x", "w", "y"), "dgrad": ("dx", "w", "dy"), "wgrad": ("x", "dw", "dy")}[trace.pass_]
    return {x: p.x_shape, w: p.w_shape, y: p.y_shape}


def _offsets(trace: Trace, name: str) -> Tensor:
    """Where the elements that are drawn lie in the tensor, counted in elements: rows and columns of the picture."""
    shape = _shapes(trace)[name]
    like = fakes.empty_dense(torch.empty(0, device="meta"), shape, trace.layout == "NHWC")
    strides = like.stride()

    def along(*axes: int) -> Tensor:
        total = torch.zeros(1, dtype=torch.int64)
        for axis in axes:
            total = (total[:, None] + torch.arange(shape[axis]) * strides[axis]).flatten()
        return total[:_MOST]

    if name in ("w", "dw"):
        return along(0)[:, None] + along(*range(1, len(shape)))
    if len(shape) == 3:
        return along(1)[:, None] + along(2)
    middle = shape[2] // 2 * strides[2] if len(shape) == 5 else 0
    return middle + along(-2)[:, None] + along(-1)


def _what(trace: Trace, name: str) -> str:
    """What the rows and columns of the picture are."""
    shape = _shapes(trace)[name]
    if name in ("w", "dw"):
        text = f"{name}: a row for each filter"
    elif len(shape) == 3:
        text = f"{name}[0]: a row for each channel"
    else:
        text = f"{name}[0, 0{f', {shape[2] // 2}' if len(shape) == 5 else ''}]: one plane"
    channels = trace.layout == "NHWC" and not (name in ("w", "dw") and shape[1] == 1)
    along = "channels of one pixel" if channels else "elements one after the other"
    return f"{text}; a sector is {SECTOR // trace.dtype.itemsize} {along}"


def _title(trace: Trace, name: str) -> str:
    p = trace.problem
    return f"{trace.pass_} of {p} in {DTYPE_NAMES[trace.dtype]} {trace.layout}: the sectors of {name}"


def _column(
    figure: Figure, left: float, trace: Trace, name: str, pair: tuple[Tensor, Tensor], most: Sequence[int]
) -> None:
    width, height = figure.get_size_inches()

    def write(x: float, below_top: float, text: str, size: float = 9, **style: Any) -> None:
        place = (x / width, 1 - below_top / height)
        figure.text(*place, text.replace("$", r"\$"), fontsize=size, **{"color": _INK, **style})

    p = trace.problem
    write(left, 0.32, trace.kernel, 12, weight="bold")
    write(left, 0.55, f"{trace.pass_} of {p.family} {p}")
    write(left, 0.74, f"{DTYPE_NAMES[trace.dtype]} {trace.layout}, batch {p.n}, counted as on {trace.gpu.name}")
    write(left, 0.93, _what(trace, name), color=_FAINT)
    stored = name in ("y", "dx", "dw")
    heads = ("requests by warps", "stores to L2" if stored else "fetches from L2")
    for which, (head, counts) in enumerate(zip(heads, pair, strict=True)):
        x = left + which * (_MAP + _GAP)
        axes = figure.add_axes((x / width, 1 - (_ABOVE + _MAP) / height, _MAP / width, _MAP / height))
        _map(axes, counts, _offsets(trace, name) * trace.dtype.itemsize // SECTOR, most[which])
        write(x, _ABOVE - 0.08, head, 10)
        write(
            x, _ABOVE + _MAP + 0.54, f"mean {_number(float(counts.double().mean()))}, most {_number(int(counts.max()))}"
        )
    for row, line in enumerate(_lines(trace, name)):
        y = _ABOVE + _MAP + _BELOW + _LINE * row
        each = f"{line.requests:,} requests, {line.transactions / line.requests:.1f} sectors each"
        write(left, y, f"{line.location}   {line.kind} of {line.width} bytes")
        write(left, y + 0.16, f"{each}, {line.waste:.2f} x the fewest")
        write(left, y + 0.31, _source(line.location), 7, family="monospace", color=_FAINT)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _lines(trace: Trace, name: str) -> list[Site]:
    """The lines of the source that access the tensor."""
    return [line for launch in trace.launches for line in launch.lines if line.tensor == name][:_MOST_LINES]


def _map(axes: Axes, counts: Tensor, sectors: Tensor, most: int) -> None:
    """One heat map, as a small raster; every other sector is a little darker, so that one sees them."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, Normalize
    from matplotlib.ticker import MaxNLocator

    colours = colormaps["YlOrRd"].with_extremes(under=_UNUSED)
    steps = range(1, max(most, _LEAST_STEPS) + 1) if most <= _MOST_STEPS else None
    scale = BoundaryNorm([0.5, *(i + 0.5 for i in steps)], colours.N) if steps else Normalize(1, most)
    pixels = colours(scale(counts.numpy()))
    pixels[sectors.numpy() % 2 == 1, :3] *= 0.93
    cell = max(1, min(10, _PIXELS // max(counts.shape)))  # viewers that smooth pixels then blur little
    pixels = pixels.repeat(cell, axis=0).repeat(cell, axis=1)
    wide = 0.75 <= counts.shape[0] / counts.shape[1] <= 1.33
    axes.imshow(pixels, interpolation="none", aspect="equal" if wide else "auto")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_anchor("NW")
    bar = axes.inset_axes((0, -0.09, 1, 0.04))
    ticks = steps or MaxNLocator(5, integer=True)
    axes.figure.colorbar(ScalarMappable(scale, colours), cax=bar, orientation="horizontal", ticks=ticks)
    bar.tick_params(labelsize=8, length=2, colors=_INK)
    for spine in axes.spines.values():
        spine.set_linewidth(0.5)


def _source(location: str) -> str:
    """The text of a source line, in a checkout."""
    name, _, number = location.rpartition(":")
    for file in (_library.PACKAGE.parent / "csrc").rglob(name) if name and number.isdigit() else ():
        lines = file.read_text(encoding="utf-8").splitlines()
        if 0 < int(number) <= len(lines):
            text = lines[int(number) - 1].strip()
            if text.endswith("{") and int(number) < len(lines):  # the head of a loop, say
                text += " " + lines[int(number)].strip()
            return text if len(text) <= 76 else text[:75] + "…"
    return ""
