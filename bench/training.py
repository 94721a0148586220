"""``train``: a training step of whole models of ``transformers``, with and without :func:`convbound.replace_convs`.

A step is forward, cross-entropy and backward at random weights and images; what an optimizer adds is the same for both.
The two copies of a model take turns (A B B A).
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import IO, Any

import torch
from torch import nn

import convbound
from convbound.bench.progress import Progress
from convbound.problem import Layout
from convbound.timing import Call, Sampler, interleave, keep_freed_pages
from convbound.untrusted import open_file

TRAINING = "training"
FILE = "steps.jsonl"
IMAGE, LABELS = 224, 1000


# By name: the classes of transformers begin with, and what its configuration has besides the defaults. Depthwise,
# depthwise, depthwise 7x7, grouped by 8, and dense, of which nothing is replaced.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mobilenet_v2": ("MobileNetV2", {"tf_padding": False}),
    "efficientnet_b0": (
        "EfficientNet",
        {"image_size": IMAGE, "width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280},
    ),
    "convnext_t": ("ConvNext", {}),
    "regnet_y_004": ("RegNet", {"hidden_sizes": [48, 104, 208, 440], "depths": [1, 3, 6, 6], "groups_width": 8}),
    "resnet_50": ("ResNet", {}),
}


def build(name: str) -> nn.Module:
    """A model with random weights."""
    import transformers

    prefix, options = MODELS[name]
    config = getattr(transformers, f"{prefix}Config")(num_labels=LABELS, **options)
    model: nn.Module = getattr(transformers, f"{prefix}ForImageClassification")(config)
    return model


@dataclass(frozen=True)
class Step:
    """Median seconds of a training step of a model in one layout."""

    model: str
    layout: Layout
    replaced: int
    convolutions: int
    ours: float
    torch: float

    @property
    def speedup(self) -> float:
        """Torch's time over ours."""
        return self.torch / self.ours


class StepWriter:
    """Appends steps to ``steps.jsonl`` of a folder as they are measured, so that no end can lose them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / FILE
        with self._open(os.O_TRUNC):
            pass

    def append(self, step: Step) -> None:
        """Write a step and hand it to the system at once."""
        with self._open(os.O_APPEND) as file:
            file.write(json.dumps(dataclasses.asdict(step)) + "\n")

    def _open(self, how: int) -> IO[str]:
        return os.fdopen(open_file(self._file, os.O_WRONLY | os.O_CREAT | how), "w", encoding="utf-8")


def measure(
    names: Sequence[str],
    layouts: Sequence[Layout],
    batch: int,
    seconds: float,
    device: torch.device,
    timer: Sampler,
    progress: Progress,
) -> Iterator[Step]:
    """Time every model in every layout, for `seconds` each."""
    keep_freed_pages()
    # `python -m` puts the current folder on the path: a checkout, where kernels/ would pass for Hugging Face's package.
    checkout = Path(__file__).resolve().parents[1]
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != checkout]
    for name in names:
        torch.manual_seed(0)
        model = build(name).to(device).train()
        for layout in layouts:
            progress.step(f"{name} {layout}")
            memory = torch.channels_last if layout == "NHWC" else torch.contiguous_format
            images = torch.randn(batch, 3, IMAGE, IMAGE, device=device).to(memory_format=memory)
            labels = torch.randint(LABELS, (batch,), device=device)
            rivals = [copy.deepcopy(model).to(memory_format=memory) for _ in range(2)]  # type: ignore[call-overload]
            report = convbound.replace_convs(rivals[0])
            calls: list[Call] = [partial(_step, rival, images, labels) for rival in rivals]
            ours, torchs = map(median, interleave(calls, timer, seconds, [0.0, 0.0]))
            yield Step(name, layout, len(report.replaced), len(report), ours, torchs)
            progress.advance()


def _step(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    model.zero_grad(set_to_none=True)
    loss: Any = model(pixel_values=images, labels=labels).loss
    loss.backward()
    if images.is_cuda:
        torch.cuda.synchronize(images.device)


def markdown(steps: Sequence[Step], batch: int) -> str:
    """The steps as a table."""
    lines = [
        f"A training step at batch {batch}, {IMAGE}x{IMAGE}, fp32:",
        "",
        "| model | convolutions replaced | layout | torch | convbound | torch over convbound |",
        "|---|---|---|---|---|---|",
    ]
    for step in steps:
        lines.append(
            f"| {step.model} | {step.replaced} of {step.convolutions} | {step.layout} | {1e3 * step.torch:.0f} ms | "
            f"{1e3 * step.ours:.0f} ms | {step.speedup:.2f}x |"
        )
    return "\n".join(lines)
