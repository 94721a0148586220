"""Draws the x-rays of these pages: ``python docs/xrays.py`` writes the SVG files beside this script.

They show what the emulator counts, so it has to be built (``make simt``); no GPU is needed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import convbound
from convbound.problem import Layout
from convbound.trace_picture import draw

# Picture: problem, layout, tensor, kernels. Layers of MobileNetV2 and ConvNeXt-T.
XRAYS: dict[str, tuple[str, Layout, str, tuple[str, ...]]] = {
    "xray.svg": ("mb2g144ic144ih56oc144kh3ph1", "NCHW", "x", ("naive_fprop", "depthwise_fprop_nchw_bands")),
    "xray_halo.svg": ("mb1g96ic96ih56oc96kh7ph3", "NHWC", "x", ("depthwise_fprop_nhwc_general",)),
    "xray_filter.svg": ("mb1g96ic96ih56oc96kh7ph3", "NHWC", "w", ("naive_fprop", "depthwise_fprop_nhwc_general")),
}


def main(names: list[str]) -> int:
    """Draw these pictures, or all of them."""
    for name in names or XRAYS:
        problem, layout, tensor, kernels = XRAYS[name]
        try:
            traces = [
                convbound.trace(problem, dtype=torch.float16, layout=layout, kernel=kernel, sectors=True)
                for kernel in kernels
            ]
        except RuntimeError as error:  # no emulator, and the message says how to get it
            print(f"docs/xrays.py: {error}", file=sys.stderr)
            return 1
        draw(traces, Path(__file__).with_name(name), tensor)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
