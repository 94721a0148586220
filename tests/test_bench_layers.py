"""The layer tables say what the models are made of: checked against model definitions run on shapes alone."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convbound.bench.tables import Layer, load_models, load_suites, parse_table
from convbound.problem import ConvProblem

MODELS = load_models()
LISTS = {name: suite for name, suite in load_suites().items() if not suite.is_model}


def convolutions(model: nn.Module, image: torch.Tensor) -> Iterator[tuple[ConvProblem, bool]]:
    """The problem of every convolution that a forward pass runs, and whether it is a transposed one."""
    seen: list[tuple[ConvProblem, bool]] = []

    def hook(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        transposed = isinstance(module, nn.ConvTranspose2d)
        x, y = (output, inputs[0]) if transposed else (inputs[0], output)
        same = module.padding == "same"
        padding = [d * (f - 1) // 2 for d, f in zip(module.dilation, module.kernel_size, strict=True)]
        problem = ConvProblem(
            n=x.shape[0],
            c=x.shape[1],
            k=y.shape[1],
            input=tuple(x.shape[2:]),
            filter=module.kernel_size,
            stride=module.stride,
            padding=tuple(padding if same else [0, 0] if module.padding == "valid" else module.padding),
            dilation=module.dilation,
            groups=module.groups,
        )
        seen.append((problem, transposed))

    handles = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    with torch.no_grad():
        model.eval()(image)
    for handle in handles:
        handle.remove()
    yield from seen


def mobilenet_v2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return transformers.MobileNetV2Model(transformers.MobileNetV2Config(tf_padding=False))


def efficientnet_b0() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.EfficientNetConfig(
        image_size=224, width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280
    )
    return transformers.EfficientNetModel(config)


def convnext_t() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return transformers.ConvNextModel(transformers.ConvNextConfig())


class Bottlenecks(nn.Sequential):
    """The grouped layers of ResNeXt-50 (32x4d) behind its stem; the first block of a stage carries the stride."""

    def __init__(self) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, 128, 7, 2, 3), nn.MaxPool2d(3, 2, 1)]
        width = 128
        for stage, blocks in enumerate((3, 4, 6, 3)):
            for block in range(blocks):
                if stage and not block:
                    layers.append(nn.Conv2d(width, 2 * width, 1))
                    width *= 2
                layers.append(nn.Conv2d(width, width, 3, 2 if stage and not block else 1, 1, groups=32))
        super().__init__(*layers)


class Aspp(nn.Module):
    """DeepLabV3's pyramid on the 33 x 33 map that ResNet-50 makes of 513 x 513 at output stride 16."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = nn.ModuleList(nn.Conv2d(2048, 256, 3, padding=rate, dilation=rate) for rate in (6, 12, 18))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([rate(x) for rate in self.rates], 1)


def dcgan() -> nn.Module:
    widths = (100, 512, 256, 128, 64, 3)
    pairs = itertools.pairwise(widths)
    return nn.Sequential(*(nn.ConvTranspose2d(c, k, 4, 2 if i else 1, 1 if i else 0) for i, (c, k) in enumerate(pairs)))


DEFINITIONS = {
    "mobilenet_v2": (mobilenet_v2, (3, 224, 224)),
    "efficientnet_b0": (efficientnet_b0, (3, 224, 224)),
    "convnext_t": (convnext_t, (3, 224, 224)),
    "resnext50": (Bottlenecks, (3, 224, 224)),
    "deeplabv3_aspp": (Aspp, (2048, 33, 33)),
    "dcgan": (dcgan, (100, 1, 1)),
}


def test_every_table_has_a_definition_to_be_checked_against():
    assert set(DEFINITIONS) == set(MODELS)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_layers_and_counts_are_those_of_the_model(name: str):
    definition, shape = DEFINITIONS[name]
    with torch.device("meta"):
        found = convolutions(definition(), torch.empty(1, *shape))
    wanted = (
        (problem, transposed)
        for problem, transposed in found
        if problem.groups > 1 or max(problem.dilation) > 1 or transposed
    )
    table = {(layer.problem, layer.transposed): layer.count for layer in MODELS[name].layers}
    if name == "efficientnet_b0":
        # That definition pads its strided layers on one side and in a layer of its own, as TensorFlow does; the table
        # pads both sides alike, as PyTorch's definitions do. Everything but the place of the zeros has to agree.
        def unpadded(problem: ConvProblem) -> tuple[Any, ...]:
            return (problem.c, problem.k, problem.groups, problem.filter, problem.stride, problem.output)

        assert Counter(unpadded(p) for p, _ in wanted) == {unpadded(p): count for (p, _), count in table.items()}
    else:
        assert Counter(wanted) == table


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_tables_name_their_source_and_their_layers(model: Any):
    assert "arXiv:" in model.paper
    assert model.code.startswith("https://")
    assert len({layer.problem for layer in model.layers}) == len({layer.name for layer in model.layers})
    assert all(layer.problem.origin == f"{model.name}:{layer.name}" for layer in model.layers)
    assert all(layer.problem.n == 1 for layer in model.layers)


def test_tiers_include_each_other():
    for model in MODELS.values():
        quick, default, full = (set(model.select(tier)) for tier in ("quick", "default", "full"))
        assert quick <= default <= full == set(model.layers)
    assert sum(len(model.select("quick")) for model in MODELS.values()) >= 8


@pytest.mark.parametrize("suite", LISTS.values(), ids=LISTS)
def test_lists_hold_different_problems_with_batches_of_their_own(suite: Any):
    problems = [layer.problem for layer in suite.layers]
    assert len(set(problems)) == len(problems) > 1
    assert all(layer.name == str(layer.problem) and layer.name.startswith("mb") for layer in suite.layers)
    assert suite.at_batch(3, "cpu") is suite.at_batch(None, "cuda") is suite
    assert suite.select("quick") == suite.layers


def test_suites_that_a_command_names_exist():
    makefile = (Path(__file__).resolve().parent.parent / "Makefile").read_text()
    named = re.findall(r"--suite ([a-z_0-9]+)\n", makefile)
    named += [name for names in re.findall(r"call PERF,\w+,([^)]*)\)", makefile) for name in names.split()]
    assert set(named) == set(LISTS)


def test_batch_is_chosen_at_run_time():
    layer: Layer = MODELS["convnext_t"].layers[0]
    assert layer.with_batch(4).problem == dataclasses.replace(layer.problem, n=4)
    assert layer.with_batch(4).name == layer.name


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,1,conv9d,quick,ic1ih3oc1kh3", "toy:a: .*op=conv9d"),
        ("a,1,conv1d,quick,ic1ih3oc1kh3", "op=conv1d"),
        ("a,1,conv2d,slow,ic1ih3oc1kh3", "tier=slow"),
    ],
)
def test_a_wrong_line_is_named(line: str, message: str):
    with pytest.raises(ValueError, match=message):
        parse_table("toy", f"# title: t\nlayer,count,op,tier,problem\n{line}\n")


def test_a_table_without_its_source_is_refused():
    with pytest.raises(ValueError, match=r"toy.csv lacks the line '# batch"):
        parse_table("toy", "# title: t\n# paper: p\nlayer,count,op,tier,problem\n")
