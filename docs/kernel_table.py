"""Writes the table of ``docs/kernels.md``: ``python docs/kernel_table.py``. Needs the built package, and no GPU."""

from __future__ import annotations

import re
from pathlib import Path

import torch

import convbound
from convbound.bench.report import replace_between, shape
from convbound.kernels import table
from convbound.problem import LAYOUTS

DOCUMENT = Path(__file__).with_name("kernels.md")
ROOT = DOCUMENT.parent.parent
START, END = "<!-- kernels:start -->", "<!-- kernels:end -->"
ARCH = "sm_90"  # of an H100
NAMES = {"cuda": "CUDA C++", "triton": "Triton"}

# Layers of bench/layers, and of papers; a transposed layer is written as the convolution that it transposes.
LAYERS = {
    "MobileNetV2, block 1": "mb32g32ic32ih112oc32kh3ph1",
    "MobileNetV2, block 2": "mb32g96ic96ih112oc96kh3sh2ph1",
    "MobileNetV2, block 3": "mb32g144ic144ih56oc144kh3ph1",
    "MobileNetV2, block 15": "mb32g960ic960ih7oc960kh3ph1",
    "EfficientNet-B0, block 4": "mb32g144ic144ih56oc144kh5sh2ph2",
    "EfficientNet-B0, block 10": "mb32g672ic672ih14oc672kh5ph2",
    "ConvNeXt-T, stage 1": "mb32g96ic96ih56oc96kh7ph3",
    "ConvNeXt-T, stage 4": "mb32g768ic768ih7oc768kh7ph3",
    "RepLKNet-31B, stage 1": "mb32g128ic128ih56oc128kh31ph15",
    "RepLKNet-31B, stage 4": "mb32g1024ic1024ih7oc1024kh13ph6",
    "DeepLabV3+, depthwise, rate 6": "mb32g256ic256ih33oc256kh3ph6dh6",
    "DeepLabV3+, depthwise, rate 18": "mb32g256ic256ih33oc256kh3ph18dh18",
    "DeepLabV3, dense, rate 12": "mb4ic2048ih33oc256kh3ph12dh12",
    "ResNeXt-50, layer 1": "mb32g32ic128ih56oc128kh3ph1",
    "ResNeXt-50, layer 4.0": "mb32g32ic1024ih14oc1024kh3sh2ph1",
    "DCGAN, main.3, transposed": "mb32ic256ih8oc512kh4sh2ph1",
    "FCN, upsampling by 8, transposed": "mb8g21ic21ih256oc21kh16sh8ph4",
    "Depth multiplier 2": "mb8g96ic96ih56oc192kh3ph1",
    "WaveNet, depthwise, dilation 32": "mb1g64ic64iw8000oc64kw2pw32ew0dw32",
    "Mamba, conv1d": "mb1g1536ic1536iw512oc1536kw4pw3ew0",
    "Conformer, depthwise": "mb1g512ic512iw400oc512kw31pw15",
    "X3D, stage 2": "mb1g54ic54id16ih56oc54kd3pd1",
}


def markdown() -> str:
    """A small table for each layer: passes by languages and layouts, each kernel a link to its file."""
    lines = []
    for name, problem in LAYERS.items():
        heads = [f"{language} {layout}" for language in NAMES.values() for layout in LAYOUTS]
        lines += [f"### {name}", "", f"`{problem}`: {shape(problem)}", ""]
        lines += [f"| pass | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
        found = {
            (row.pass_, row.backend, layout): _link(row.backend, row.kernel)
            for layout in LAYOUTS
            for row in convbound.explain(problem, dtype=torch.float16, layout=layout, device="cuda", arch=ARCH).passes
        }
        for pass_ in dict.fromkeys(key[0] for key in found):
            cells = [found[pass_, backend, layout] for backend in NAMES for layout in LAYOUTS]
            lines.append(f"| {pass_} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def _link(backend: str, kernel: str) -> str:
    """A kernel's name, linked to its file; a dash stays as it is."""
    if kernel == "-":
        return kernel
    return f"[{kernel}](../{(cuda_file if backend == 'cuda' else triton_file)(kernel)})"


def cuda_file(kernel: str) -> str:
    """The file in which a row of the registry stands, with its kernel."""
    name = re.compile(f'"{kernel}"')
    files = [
        file
        for folder in ("depthwise", "dilated", "transposed", "grouped", "naive")
        for file in (ROOT / "csrc" / folder).glob("*")
        if not file.stem.endswith("_fma")  # the same rows in fp32
    ]
    (found,) = [file for file in files if name.search(file.read_text(encoding="utf-8"))]
    return str(found.relative_to(ROOT))


def triton_file(kernel: str) -> str:
    """The file of a Triton kernel."""
    row = next(row for row in table.KERNELS if row.name == kernel)
    return f"{row.planner.__module__.removeprefix('convbound.').replace('.', '/')}.py"


if __name__ == "__main__":
    replace_between(DOCUMENT, START, END, markdown())
