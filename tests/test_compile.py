"""The ops' contracts with the compiler (opcheck), torch.compile of whole graphs with gradients, dynamic shapes, export.

Everything compiles with aot_eager, which needs no C++ compiler; one test goes through Inductor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.data import reals
from support.preferring import native_preferred
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import convbound
from convbound.layout import to_layout
from convbound.problem import LAYOUTS, PASSES, ConvProblem, Layout, Pass


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("problem", ["mb2g2ic4ih5iw6oc4kh3sh2ph1", "mb2g2ic4iw6oc2kw3pw2ew0", "ic2id3ih4iw5oc3kd2"])
def test_opcheck(problem: str, pass_: Pass, layout: Layout):
    p = ConvProblem.parse(problem)
    t = reals(p, pass_, torch.float32).map(lambda t: to_layout(t, layout == "NHWC" and t.dim() > 1))
    padding = [amount for pair in p.padding for amount in pair]
    window = (p.stride, padding, p.dilation, p.groups)
    arguments: dict[Pass, tuple[Any, ...]] = {
        "fprop": (t.x, t.w, t.bias, *window, layout == "NHWC"),
        "dgrad": (t.y, t.w, t.bias, p.input, *window, layout == "NHWC"),
        "wgrad": (t.y, t.x, p.filter, *window, True, layout == "NHWC"),
    }
    op = getattr(torch.ops.convbound, f"cpu_{pass_}").default
    # The most expensive of opcheck's tests, on symbolic shapes, for one problem only.
    cheap = ("test_schema", "test_autograd_registration", "test_faketensor")
    utils = (*cheap, "test_aot_dispatch_dynamic") if p.ndim == 2 else cheap
    torch.library.opcheck(op, arguments[pass_], test_utils=utils)


def two_layers(conv: Callable[..., Tensor], transposed: Callable[..., Tensor], **options: Any) -> Callable[..., Tensor]:
    """A depthwise layer and a transposed one, with what usually stands between."""

    def model(x: Tensor, w: Tensor, b: Tensor, wt: Tensor) -> Tensor:
        y = conv(x, w, b, padding=1, groups=4, **options).relu()
        return transposed(y, wt, stride=2, padding=1, output_padding=1, **options) * 2

    return model


OURS = two_layers(convbound.conv2d, convbound.conv_transpose2d, backend="cpu")
AUTO = two_layers(convbound.conv2d, convbound.conv_transpose2d, backend="auto")
TORCHS = two_layers(F.conv2d, F.conv_transpose2d)


def tensors(height: int = 6, width: int = 7, batch: int = 2) -> tuple[Tensor, ...]:
    shapes = ((batch, 4, height, width), (4, 1, 3, 3), (4,), (4, 3, 3, 3))
    return tuple(torch.randint(-2, 3, shape).float().requires_grad_() for shape in shapes)


def assert_same_with_gradients(compiled: Callable[..., Tensor], eager: Callable[..., Tensor], inputs: Any) -> None:
    y, wanted = compiled(*inputs), eager(*inputs)
    assert torch.equal(y, wanted)
    assert y.stride() == wanted.stride()
    gradients, eagers = (torch.autograd.grad(result.square().sum(), inputs) for result in (y, wanted))
    assert all(map(torch.equal, gradients, eagers))


@pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
def test_whole_graphs_compile_with_gradients(channels_last: bool):
    x, *weights = tensors()
    if channels_last:
        x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    compiled = torch.compile(OURS, fullgraph=True, backend="aot_eager")
    assert_same_with_gradients(compiled, TORCHS, (x, *weights))


@pytest.mark.parametrize("passes", [(), ("fprop",), ("dgrad", "wgrad")], ids=str)
def test_auto_compiles_whichever_backends_it_mixes(passes: tuple[Pass, ...]):
    with native_preferred(passes):
        compiled = torch.compile(AUTO, fullgraph=True, backend="aot_eager")
        assert_same_with_gradients(compiled, TORCHS, tensors())


@pytest.mark.parametrize("model", [OURS, AUTO], ids=["cpu", "auto"])
def test_new_sizes_do_not_compile_anew(model: Callable[..., Tensor]):
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for batch, height, width in [(2, 6, 7), (3, 8, 9), (2, 11, 5), (5, 7, 7), (4, 16, 12), (7, 9, 10), (6, 20, 8)]:
        assert_same_with_gradients(compiled, TORCHS, tensors(height, width, batch))
    assert counter.frame_count <= 2


def test_sizes_marked_dynamic_compile_once():
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(OURS, fullgraph=True, backend=counter, dynamic=True)
    for height, width in [(6, 7), (8, 9), (11, 5)]:
        assert_same_with_gradients(compiled, TORCHS, tensors(height, width))
    assert counter.frame_count == 1


def test_autocast_compiles():
    def under_autocast(*inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return OURS(*inputs)

    inputs = tuple(tensor.detach() for tensor in tensors())
    result = torch.compile(under_autocast, fullgraph=True, backend="aot_eager")(*inputs)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, under_autocast(*inputs))


def test_errors_say_the_same_when_compiled():
    compiled = torch.compile(
        lambda x, w: convbound.conv2d(x, w, groups=3, backend="cpu"), fullgraph=True, backend="aot_eager"
    )
    with pytest.raises(Exception, match="groups=3 does not divide C=4"):
        compiled(torch.ones(1, 4, 5, 5), torch.ones(4, 1, 3, 3))


def test_inductor():
    def model(x: Tensor, w: Tensor) -> Tensor:
        return convbound.conv2d(x, w, padding=1, groups=4, backend="cpu").relu()

    x, w, *_ = tensors()
    assert_same_with_gradients(
        torch.compile(model, fullgraph=True), lambda x, w: F.conv2d(x, w, None, 1, 1, 1, 4).relu(), (x, w)
    )


class Model(torch.nn.Module):
    """Two modules of convbound.nn."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = convbound.nn.Conv2d(4, 4, 3, padding=1, groups=4, backend="cpu")
        self.up = convbound.nn.ConvTranspose2d(4, 3, 2, stride=2, backend="cpu")

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.depthwise(x).relu())  # type: ignore[no-any-return]


def test_export_keeps_the_ops_and_a_free_size():
    model, x = Model().eval(), torch.randn(2, 4, 6, 7)
    batch, height = torch.export.Dim("batch"), torch.export.Dim("height")
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch, 2: height},))
    called = {str(node.target) for node in program.graph.nodes if "convbound" in str(node.target)}
    assert called == {"convbound.cpu_fprop.default", "convbound.cpu_dgrad.default"}
    other = torch.randn(3, 4, 11, 7)
    assert torch.equal(program.module()(other), model(other))
