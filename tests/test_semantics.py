"""The six functions mean what their namesakes in torch.nn.functional mean: arguments, results, gradients, strides."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.dispatched import Dispatched
from support.preferring import native_preferred
from torch import Tensor

import convbound
from convbound.problem import PASSES

NAMES = ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]


def integers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """-1, 0 and 1: every sum of their products is exact in every dtype, and so every backend gives the same."""
    return torch.randint(-1, 2, shape).to(dtype)


def native(name: str) -> Callable[..., Tensor]:
    """The function, on the native kernels."""

    def call(*args: Any, **kwargs: Any) -> Tensor:
        with Dispatched() as dispatched:
            result: Tensor = getattr(convbound, name)(*args, **kwargs, backend="cpu")
        assert dispatched.names == ["convbound::cpu_dgrad" if "transpose" in name else "convbound::cpu_fprop"]
        return result

    return call


def operands(name: str, batch: int | None = 2, groups: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Input with 4 channels, weight and bias for 6 output channels; sizes and filter differ from axis to axis."""
    ndim = int(name[-2])
    sizes, filter = (7, 8, 6)[:ndim], (3, 2, 3)[:ndim]
    weight = (4, 6 // groups) if "transpose" in name else (6, 4 // groups)
    x = integers(4, *sizes) if batch is None else integers(batch, 4, *sizes)
    return x, integers(*weight, *filter), integers(6)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_torchs_in_torchs_order(name: str):
    documented = inspect.getfullargspec(getattr(convbound, name))
    last = ["output_padding", "groups", "dilation"] if "transpose" in name else ["dilation", "groups"]
    assert documented.args == ["input", "weight", "bias", "stride", "padding", *last]
    assert documented.kwonlyargs == ["backend"]
    positional: list[Any] = [2, 1, 1, 2, 2] if "transpose" in name else [2, 1, 2, 2]
    x, w, b = operands(name)
    assert torch.equal(native(name)(x, w, b, *positional), getattr(F, name)(x, w, b, *positional))
    keywords = dict(zip(documented.args, [x, w, b, *positional], strict=True))
    assert torch.equal(native(name)(**keywords), getattr(F, name)(**keywords))


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_torchs(name: str):
    x, w, _ = operands(name, groups=1)
    assert torch.equal(native(name)(x, w), getattr(F, name)(x, w))


@pytest.mark.parametrize("write", [tuple, list, torch.Size], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_sequences_of_one_and_of_one_entry_per_axis(name: str, write: Callable[[list[int]], Any]):
    x, w, b = operands(name)
    ndim = x.dim() - 2
    for stride, padding, dilation in [([2], [1], [2]), ([2, 1, 3][:ndim], [0, 1, 2][:ndim], [1, 2, 1][:ndim])]:
        options = {"stride": write(stride), "padding": write(padding), "dilation": write(dilation), "groups": 2}
        assert torch.equal(native(name)(x, w, b, **options), getattr(F, name)(x, w, b, **options))


@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("name", NAMES[:3])
def test_string_padding(name: str, padding: str, dilation: int):
    x, w, b = operands(name)  # filters of even size too, where 'same' is asymmetric
    if padding == "valid":
        x = F.pad(x, [3] * 2 * (x.dim() - 2))
    options = {"padding": padding, "dilation": dilation, "groups": 2}
    result, wanted = native(name)(x, w, b, **options), getattr(F, name)(x, w, b, **options)
    assert torch.equal(result, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_unbatched_input(name: str):
    x, w, b = operands(name, batch=None)
    for tensor in (x, w, b):
        tensor.requires_grad_()
    result, wanted = native(name)(x, w, b, 2, 1, groups=2), getattr(F, name)(x, w, b, 2, 1, groups=2)
    assert torch.equal(result, wanted)
    dy = integers(*wanted.shape)
    gradients, torchs = (torch.autograd.grad(y, (x, w, b), dy) for y in (result, wanted))
    assert all(map(torch.equal, gradients, torchs))


@pytest.mark.parametrize("name", NAMES)
def test_empty_batch(name: str):
    x, w, b = operands(name, batch=0)
    for tensor in (x, w, b):
        tensor.requires_grad_()
    result, wanted = native(name)(x, w, b, groups=2), getattr(F, name)(x, w, b, groups=2)
    assert result.shape == wanted.shape
    dx, dw, db = torch.autograd.grad(result.sum(), (x, w, b))
    assert dx.shape == x.shape
    assert torch.equal(dw, torch.zeros_like(w))
    assert torch.equal(db, torch.zeros_like(b))


def test_a_transposed_convolution_may_have_an_empty_output():
    x, w = integers(2, 4, 6, 6), integers(4, 3, 3, 2)
    wanted = F.conv_transpose2d(x, w, padding=(4, 0))
    assert wanted.shape == (2, 3, 0, 7)
    assert convbound.conv_transpose2d(x, w, padding=(4, 0), backend="cpu").shape == wanted.shape


@pytest.mark.parametrize("name", NAMES[3:])
def test_output_padding_up_to_the_dilation(name: str):
    x, w, b = operands(name)
    for stride, dilation in [(1, 3), (2, 3), (3, 2), (2, 5)]:
        for output_padding in range(max(stride, dilation)):
            arguments = (x, w, b, stride, 1, output_padding, 2, dilation)
            assert torch.equal(native(name)(*arguments), getattr(F, name)(*arguments))


def in_layout(tensor: Tensor, layout: str) -> Tensor:
    """The same values in another layout."""
    if layout == "NCHW":
        return tensor
    if layout == "sliced":
        wide = torch.zeros(*tensor.shape[:-1], tensor.shape[-1] + 3, dtype=tensor.dtype)
        wide[..., 2:-1] = tensor
        return wide[..., 2:-1]
    if tensor.dim() == 3:
        return tensor.transpose(1, 2).contiguous().transpose(1, 2)
    memory_format = torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d
    if layout == "NHWC":
        return tensor.contiguous(memory_format=memory_format)
    return tensor.to(memory_format=memory_format)  # leaves strides alone that fit by chance


def random_call(draw: random.Random) -> tuple[str, tuple[Tensor, Tensor, Tensor | None], dict[str, Any]]:
    """A function, its tensors and its options; often one that torch refuses."""
    ndim, transposed = draw.choice((1, 2, 2, 2, 3)), draw.random() < 0.4
    groups, c, k = draw.choice((1, 1, 2, 4)), draw.choice((1, 1, 2, 3)), draw.choice((1, 1, 2, 3))
    dtype = draw.choice((torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16))

    def per_axis(*choices: int) -> list[int]:
        return [draw.choice(choices) for _ in range(ndim)]

    options: dict[str, Any] = {
        "stride": per_axis(1, 1, 2, 3),
        "padding": per_axis(0, 1, 2, 4),
        "dilation": per_axis(1, 1, 2),
        "groups": groups,
    }
    if transposed:
        pairs = zip(options["stride"], options["dilation"], strict=True)
        options["output_padding"] = [draw.randrange(max(pair)) for pair in pairs]
    x = integers(draw.choice((1, 1, 2, 3)), groups * c, *per_axis(1, 2, 5, 6, 9), dtype=dtype)
    w_channels = (groups * c, k) if transposed else (groups * k, c)
    w = integers(*w_channels, *per_axis(1, 2, 3, 4, 5), dtype=dtype)
    bias = integers(groups * k, dtype=dtype) if draw.random() < 0.5 else None
    layouts = [draw.choice(("NCHW", "NHWC", "ambiguous", "sliced")) for _ in range(2)]
    tensors = (in_layout(x, layouts[0]), in_layout(w, layouts[1]), bias)
    for tensor in tensors:
        if tensor is not None and draw.random() < 0.8:
            tensor.requires_grad_()
    return f"conv{'_transpose' if transposed else ''}{ndim}d", tensors, options


def outcome(function: Callable[..., Tensor], tensors: Any, options: Any, dy_layout: str) -> Any:
    """All that a call gives: its result and gradients with their strides where there is a choice, or its error."""
    try:
        y = function(*tensors, **options)
    except (RuntimeError, TypeError) as error:
        return type(error)
    wanted = [tensor for tensor in tensors if tensor is not None and tensor.requires_grad]
    torch.manual_seed(1)
    dy = in_layout(integers(*y.shape, dtype=y.dtype), dy_layout)
    results = [y, *(torch.autograd.grad(y, wanted, dy) if wanted else ())]
    return [(r.dtype, r.shape, [r.stride(i) for i in range(r.dim()) if r.shape[i] > 1], r.tolist()) for r in results]


@pytest.mark.parametrize("seed", range(12))
def test_results_gradients_and_strides_are_torchs(seed: int):
    draw = random.Random(seed)
    for _ in range(25):
        name, tensors, options = random_call(draw)
        dy_layout = draw.choice(("NCHW", "NHWC", "sliced"))
        shapes = [None if t is None else (tuple(t.shape), t.stride(), t.dtype) for t in tensors]
        call = f"{name}({shapes}, {options}), dy in {dy_layout}"
        wanted = outcome(getattr(F, name), tensors, options, dy_layout)
        with native_preferred(draw.sample(PASSES, draw.randrange(4))):
            assert outcome(getattr(convbound, name), tensors, {**options, "backend": "auto"}, dy_layout) == wanted, call
        assert outcome(getattr(convbound, name), tensors, {**options, "backend": "cpu"}, dy_layout) == wanted, call


# (n, c, l) of the input and its strides: contiguous ones and one that is not, where a size of 1 leaves them free. torch
# adds a dimension and asks again which layout that is.
FREE_STRIDES = [
    ((2, 1, 23), (23, 1, 1)),
    ((2, 1, 23), (23, 23, 1)),
    ((3, 1, 4), (4, 1, 1)),
    ((2, 1, 23), (1, 1, 2)),
    ((3, 2, 1), (2, 1, 2)),
    ((3, 2, 1), (2, 1, 1)),
    ((1, 6, 1), (7, 1, 6)),
    ((1, 1, 5), (1, 1, 1)),
]


@pytest.mark.parametrize("backend", ["auto", "cpu"])
@pytest.mark.parametrize("name", ["conv1d", "conv_transpose1d"])
@pytest.mark.parametrize(("shape", "strides"), FREE_STRIDES, ids=str)
def test_strides_in_1d_where_the_inputs_own_are_ambiguous(shape: Any, strides: Any, name: str, backend: str):
    memory = integers(sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1)
    x = torch.as_strided(memory, shape, strides).requires_grad_()
    c, k = shape[1], 10
    w = integers(*((c, k) if "transpose" in name else (k, c)), 2).requires_grad_()
    wanted = outcome(getattr(F, name), (x, w), {"padding": 1}, "NCHW")
    with native_preferred():
        assert outcome(getattr(convbound, name), (x, w), {"padding": 1, "backend": backend}, "NCHW") == wanted


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("name", NAMES)
def test_autocast_casts_what_torch_casts(name: str, dtype: torch.dtype):
    x, w, b = (tensor.requires_grad_() for tensor in operands(name))
    half = x.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        for inputs in [(x, w, b), (x, w), (half, w, b)]:
            wanted, result = getattr(F, name)(*inputs, groups=2), native(name)(*inputs, groups=2)
            assert result.dtype == wanted.dtype == dtype
            assert torch.equal(result, wanted)
            gradients, torchs = (torch.autograd.grad(y.sum(), inputs) for y in (result, wanted))
            assert [g.dtype for g in gradients] == [g.dtype for g in torchs] == [t.dtype for t in inputs]
            assert all(map(torch.equal, gradients, torchs))
        doubles = [tensor.double() for tensor in (x, w, b)]
        assert native(name)(*doubles, groups=2).dtype == getattr(F, name)(*doubles, groups=2).dtype == torch.float64


def test_autocast_that_is_off_casts_nothing():
    x, w, b = operands("conv2d")
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
        assert native("conv2d")(x, w, b, groups=2).dtype == torch.float32


def test_parameters_are_tensors_too():
    x, w, b = operands("conv2d")
    parameters = torch.nn.Parameter(w), torch.nn.Parameter(b)
    assert torch.equal(native("conv2d")(x, *parameters, groups=2), F.conv2d(x, w, b, groups=2))


def test_no_graph_is_kept_without_need():
    x, w, b = operands("conv2d")
    assert native("conv2d")(x, w, b, groups=2).grad_fn is None
    with torch.no_grad():
        assert not native("conv2d")(x, w.requires_grad_(), b, groups=2).requires_grad
