"""How far the Triton kernels spread an infinity or NaN to results that do not depend on it.

Where a result depends on one, by IEEE arithmetic over the taps that lie inside of a tensor, it is an infinity or NaN:
none is missed. But a kernel multiplies by zeros, too: in place of what lies outside of a tensor, and where a product of
matrices has no element. A zero times an infinity is a NaN. Rows that no pattern names spread nothing else.
"""

from __future__ import annotations

_TAP = "a weight reaches results of its own channel whose tap lies outside of {}, too"
_BETWEEN = "a weight reaches results of its channel between the strides, too"
_DY = "dy reaches the elements of its own filter whose taps lie in the padding, too"
_X = "x reaches the filters of its own channel, where their taps meet no row of dy, too"
_PACK = "{0} reaches neighbouring groups, too, as many as have 32 channels together, at the positions that depend on it"
_WINDOW = (
    "{0} reaches the results of its channel in the rows that the filter reaches from there, up to 46 columns further"
)

# Patterns of names of rows, and what these do. Several may be about one row.
SPREADS: tuple[tuple[str, str], ...] = (
    ("*_fprop_*", _TAP.format("x")),
    ("*_dgrad_*", _TAP.format("dy")),
    ("*_dgrad_naive_*", _BETWEEN),
    ("*_wgrad_*", _DY),
    *((f"depthwise_wgrad_{name}_*", _X) for name in ("rows9", "rows49", "large")),
    *((f"*_fprop_{name}_*", _PACK.format("x")) for name in ("packs", "any", "fp64")),
    *((f"*_dgrad_{name}_*", _PACK.format("dy")) for name in ("packs", "any", "fp64")),
    ("depthwise_fprop_toeplitz_*", _WINDOW.format("x")),
    ("depthwise_dgrad_toeplitz_*", _WINDOW.format("dy")),
)
