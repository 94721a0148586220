"""The roofline picture: GFLOP/s over arithmetic intensity, under the two roofs measured on the same machine."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from convbound.bench.overhead import MODEL as HOST
from convbound.bench.rivals import RIVALS
from convbound.bench.rows import Result
from convbound.untrusted import replace_bytes

# Colours that stay apart for colour-blind eyes (Okabe and Ito).
COLOURS = {
    "depthwise": "#0072B2",
    "grouped": "#E69F00",
    "dilated": "#009E73",
    "transposed": "#CC79A7",
    "dense": "#999999",
}
MARKERS = {
    "torch": "x",
    "torch-native": "+",
    "torch-inductor": "1",
    "cpu": "o",
    "simt": "P",
    "cuda": "s",
    "triton": "^",
    "auto": "D",
}
_LINES = ("-", "--", ":", "-.")


def draw_roofline(result: Result, path: Path) -> None:
    """Write the roofline of a result as a PNG; families by colour, backends by marker, NHWC filled and NCHW hollow.

    Raises
    ------
    ValueError
        When no row has a time.
    """
    points = [(row, row.gflops) for row in result.rows if row.gflops is not None and row.model != HOST]
    rows = [row for row, _ in points]
    if not rows:
        raise ValueError("no row has a time, so there is nothing to draw")
    copy = result.roofs["copy_gbps"]
    peaks = {f"{dtype} matrix product": peak for dtype, peak in result.roofs["peak_gflops"].items()}
    if fma := result.roofs.get("fma_gflops"):
        peaks["fp32 without tensor cores"] = fma
    figure = Figure(figsize=(10, 6.5), dpi=120, layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    ridges = [peak / copy for peak in peaks.values()]
    low = min(*(row.intensity for row in rows), *ridges) / 2
    high = max(*(row.intensity for row in rows), *ridges) * 2
    for (name, peak), style in zip(peaks.items(), _LINES, strict=False):
        ridge = peak / copy
        axes.plot([low, ridge, high], [low * copy, peak, peak], style, color="black", linewidth=1.4, zorder=1)
        label = f"{_plain(name)} {peak:.0f} GFLOP/s"
        axes.annotate(
            label, (high, peak), ha="right", va="bottom", fontsize=8, xytext=(-4, 3), textcoords="offset points"
        )
        axes.axvline(ridge, color="black", linewidth=0.6, linestyle=":", zorder=0)
    axes.annotate(
        f"copy {copy:.1f} GB/s",
        (low * 1.2, low * 1.2 * copy),
        fontsize=8,
        xytext=(6, -14),
        textcoords="offset points",
    )
    for row, gflops in points:
        colour, marker = COLOURS.get(row.family, "black"), MARKERS.get(row.backend, "v")
        rival = row.backend in RIVALS
        hollow = row.layout == "NCHW" and not rival
        axes.plot(
            [row.intensity],
            [gflops],
            marker,
            color=colour,
            markerfacecolor="none" if hollow else colour,
            markersize=4 if rival else 5,
            markeredgewidth=0.9,
            alpha=0.45 if rival else 0.85,
            zorder=2 if rival else 3,
        )
    axes.set_xlim(low, high)
    axes.set_xlabel("arithmetic intensity (FLOP per compulsory byte)")
    axes.set_ylabel("GFLOP/s")
    machine = result.machine
    device = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} threads"
    axes.set_title(_plain(f"{device}, torch {machine['torch']}, {machine['date'][:10]}"), fontsize=10)
    axes.grid(True, which="major", linewidth=0.4, alpha=0.6)
    families = [name for name in COLOURS if any(row.family == name for row in rows)]
    backends = list(dict.fromkeys(row.backend for row in rows))
    handles = [Line2D([], [], marker="s", linestyle="", color=COLOURS[name], label=name) for name in families]
    handles += [
        Line2D([], [], marker=MARKERS.get(b, "v"), linestyle="", color="black", label=_plain(b)) for b in backends
    ]
    handles.append(
        Line2D([], [], marker="o", linestyle="", color="black", markerfacecolor="none", label="hollow: NCHW")
    )
    axes.legend(handles=handles, fontsize=8, loc="lower right")
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    replace_bytes(path, picture.getvalue())


def _plain(text: str) -> str:
    """A text of a result's, which is no formula."""
    return text.replace("$", r"\$")
