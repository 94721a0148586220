"""Whole models before and after replace_convs: outputs and every gradient, against the same model in fp64."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from models import MODELS, Model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from convbound.replace import OWN_FAMILIES, replace_convs, restore_convs

# torch.backends.mkldnn.flags touches a setting that only Intel GPUs have.
pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")

MEMORY_FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
BY_NAME = {model.name: model for model in MODELS}


@cache
def built(model: Model) -> tuple[nn.Module, Tensor, Tensor]:
    """The model with random weights, in evaluation mode, an input, and a gradient of its output.

    Batch statistics are taken over from one batch: computed in the pass itself they would make some gradients zero but
    for rounding.
    """
    torch.manual_seed(0)
    module, x = model.build(), torch.randn(model.input_shape)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
    dy = torch.randn_like(output(module.train(), x))
    return module.eval(), x, dy


def output(module: nn.Module, x: Tensor) -> Tensor:
    y = module(x)
    return y if isinstance(y, Tensor) else y.logits


def tensors(module: nn.Module, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """Output and every gradient, by name."""
    x = x.detach().requires_grad_()
    y = output(module, x)
    y.backward(dy.to(y.dtype))
    gradients = {f"{name}.grad": parameter.grad for name, parameter in module.named_parameters()}
    return {"output": y.detach(), "input.grad": x.grad, **gradients}


def in_layout(model: Model, layout: str) -> tuple[nn.Module, Tensor, Tensor]:
    module, x, dy = built(model)
    format = MEMORY_FORMATS[layout]
    return copy.deepcopy(module).to(memory_format=format), x.to(memory_format=format), dy


@cache
def exact(model: Model) -> dict[str, Tensor]:
    module, x, dy = built(model)
    return tensors(copy.deepcopy(module).double(), x.double(), dy.double())


@cache
def torchs_error(model: Model, dtype: torch.dtype) -> float:
    """The error of torch in its worst tensor, the largest of four: in either layout, with oneDNN and without.

    One run alone is a poor measure: after fifty layers the error of the same model varies by a factor of 3.
    """
    errors = []
    for layout, onednn in product(MEMORY_FORMATS, (True, False)):
        with torch.backends.mkldnn.flags(enabled=onednn):
            errors.append(worst(with_autocast(*in_layout(model, layout), dtype), exact(model))[0])
    return max(errors)


def with_autocast(module: nn.Module, x: Tensor, dy: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        return tensors(module, x, dy)


def worst(results: Mapping[str, Tensor], references: Mapping[str, Tensor]) -> tuple[float, str]:
    """The largest error of any tensor, and its name; errors are relative to the tensor's largest element."""
    errors = []
    for name, reference in references.items():
        error, scale = (results[name] - reference).abs().max().item(), reference.abs().max().item()
        errors.append((error / scale if error else 0.0, name))
    return max(errors)


def assert_as_good_as_torch(results: dict[str, Tensor], model: Model, dtype: torch.dtype = torch.float32) -> None:
    error, name = worst(results, exact(model))
    bound = 2 * torchs_error(model, dtype) + 8 * torch.finfo(dtype).eps
    assert error <= bound, f"{name}: error {error:.2g} of its largest element; torch allows {bound:.2g}"


class Operators(TorchDispatchMode):
    """Counts the convolution operators that run, backward included."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removesuffix(".default")
        if name.startswith("convbound.") or "convolution" in name:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
class TestModels:
    @pytest.mark.parametrize("layout", MEMORY_FORMATS)
    @pytest.mark.parametrize(
        ("backend", "families"),
        [("cpu", "all"), ("cpu", OWN_FAMILIES), ("auto", OWN_FAMILIES)],
        ids=["cpu-all", "cpu-own_families", "auto-own_families"],
    )
    def test_outputs_and_gradients(self, model: Model, layout: str, backend: str, families: Any) -> None:
        module, x, dy = in_layout(model, layout)
        replace_convs(module, backend=backend, families=families)
        assert_as_good_as_torch(tensors(module, x, dy), model)

    @pytest.mark.parametrize("layout", MEMORY_FORMATS)
    def test_strides_of_outputs_and_gradients(self, model: Model, layout: str) -> None:
        before = tensors(*in_layout(model, layout))
        module, x, dy = in_layout(model, layout)
        replace_convs(module, backend="cpu", families="all")
        after = tensors(module, x, dy)
        assert {n: t.stride() for n, t in after.items()} == {n: t.stride() for n, t in before.items()}

    def test_every_pass_runs_on_our_kernels(self, model: Model) -> None:
        module, x, dy = in_layout(model, "NCHW")
        report = replace_convs(module, backend="cpu", families="all")
        with Operators() as operators:
            tensors(module, x, dy)
        each = len(report)
        assert operators.counts == {f"convbound.cpu_{p}": each for p in ("fprop", "dgrad", "wgrad")}

    def test_report(self, model: Model) -> None:
        module = copy.deepcopy(built(model)[0])
        report = replace_convs(module)
        assert Counter(r.family for r in report) == model.families
        assert {r.family for r in report.left} == {"dense"}
        assert {r.reason for r in report.left} == {"dense is not in families"}
        modules = dict(module.named_modules())
        assert all(type(modules[r.path]) is nn.Conv2d for r in report.left)
        for family, count in model.families.items():
            assert f"{count} {family}" in str(report).splitlines()[-1]

    def test_restored_is_the_original_to_the_bit(self, model: Model) -> None:
        expected = tensors(*in_layout(model, "NCHW"))
        module, x, dy = in_layout(model, "NCHW")
        replaced = replace_convs(module, backend="cpu").replaced
        restored = restore_convs(module).restored
        assert [r.path for r in restored] == [r.path for r in replaced]
        assert [type(m) for m in module.modules()] == [type(m) for m in built(model)[0].modules()]
        torch.testing.assert_close(tensors(module, x, dy), expected, rtol=0, atol=0)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_criterion_sees_one_tap_of_one_filter_off_by_a_hundredth(model: Model) -> None:
    module, x, dy = in_layout(model, "NCHW")
    report = replace_convs(module, backend="cpu", families="all")
    middle = module.get_submodule(report[len(report) // 2].path)
    with torch.no_grad():
        middle.weight.view(-1)[middle.weight[0].numel() // 2] *= 1.01
    with pytest.raises(AssertionError, match="of its largest element; torch allows"):
        assert_as_good_as_torch(tensors(module, x, dy), model)


@pytest.mark.parametrize("name", ["efficientnet", "unet"])
@pytest.mark.parametrize("layout", MEMORY_FORMATS)
def test_autocast_to_bf16(name: str, layout: str) -> None:
    module, x, dy = in_layout(BY_NAME[name], layout)
    replace_convs(module, backend="cpu", families="all")
    with Operators() as operators:
        results = with_autocast(module, x, dy, torch.bfloat16)
    assert set(operators.counts) == {"convbound.cpu_fprop", "convbound.cpu_dgrad", "convbound.cpu_wgrad"}
    assert_as_good_as_torch(results, BY_NAME[name], torch.bfloat16)


def test_training_mode_takes_the_same_course() -> None:
    """Three steps with the statistics of each batch: the loss falls, and the weights arrive where torch's do."""

    def train(dtype: torch.dtype, replaced: bool) -> dict[str, Tensor]:
        module, x, dy = in_layout(BY_NAME["unet"], "NCHW")
        module, x, target = module.train().to(dtype), x.to(dtype), dy.to(dtype)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        if replaced:
            replace_convs(module, backend="cpu", families="all")
        losses = []
        for _ in range(3):
            loss = nn.functional.mse_loss(module(x), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        assert losses[0] > losses[1] > losses[2]
        return {"losses": torch.stack(losses), **{name: p.detach() for name, p in module.named_parameters()}}

    reference = train(torch.float64, replaced=False)
    (ours, name), (theirs, _) = (worst(train(torch.float32, replaced), reference) for replaced in (True, False))
    assert ours <= 2 * theirs + 8 * torch.finfo(torch.float32).eps, name
