"""convbound.nn's modules are torch.nn's: same constructor, parameters, results and errors, and a backend.

All data are small integers, so that every result is exact and has to be equal, bit for bit.
"""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convbound.nn

Compiler = Callable[..., Any]

NAMES = ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
CONV_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_bias": {"bias": False},
    "stride": {"stride": 2},
    "padding": {"padding": 2},
    "dilation": {"dilation": 2},
    "depthwise": {"groups": 4},
    "depthwise_multiplier": {"groups": 4, "out_channels": 8},
    "grouped": {"groups": 2, "out_channels": 6},
    "everything": {"groups": 2, "stride": 2, "padding": 1, "dilation": 2, "bias": False},
    "same": {"padding": "same"},
    "same_dilated_even": {"padding": "same", "dilation": 3, "kernel_size": 2},
    "valid": {"padding": "valid", "stride": 2},
    "reflect": {"padding": 2, "padding_mode": "reflect"},
    "replicate": {"padding": 3, "padding_mode": "replicate", "groups": 2},
    "circular": {"padding": 1, "padding_mode": "circular", "stride": 2},
    "circular_same": {"padding": "same", "padding_mode": "circular", "groups": 4},
    "float64": {"dtype": torch.float64},
}
TRANSPOSED_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_bias": {"bias": False},
    "stride": {"stride": 2},
    "padding": {"padding": 1, "stride": 2},
    "output_padding": {"stride": 3, "output_padding": 2},
    "dilation": {"dilation": 2},
    "grouped": {"groups": 2, "out_channels": 6},
    "depthwise": {"groups": 4, "stride": 2},
    "everything": {"groups": 2, "stride": 2, "padding": 2, "output_padding": 1, "dilation": 2, "bias": False},
    "float64": {"dtype": torch.float64},
}
UNEQUAL = {
    "Conv2d": {"kernel_size": (3, 2), "stride": (1, 2), "padding": (0, 2), "dilation": (2, 1)},
    "Conv3d": {"kernel_size": (1, 3, 2), "stride": (1, 2, 1), "padding": (0, 2, 1), "padding_mode": "circular"},
    "ConvTranspose2d": {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0), "output_padding": (0, 1)},
    "ConvTranspose3d": {"kernel_size": (1, 3, 2), "stride": (1, 2, 3), "output_padding": (0, 1, 2)},
}
CASES = [
    pytest.param(name, options, id=f"{name}-{case}")
    for name in NAMES
    for case, options in (TRANSPOSED_OPTIONS if "Transpose" in name else CONV_OPTIONS).items()
] + [pytest.param(name, options, id=f"{name}-unequal_axes") for name, options in UNEQUAL.items()]


def dims(name: str) -> int:
    return int(name[-2])


def integers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randint(-4, 5, shape, dtype=dtype)


def pair(name: str, backend: str | None = "cpu", **options: Any) -> tuple[nn.Module, nn.Module]:
    """A module of torch's and one of convbound's with the same integers for weights."""
    arguments: dict[str, Any] = {"in_channels": 4, "out_channels": 4, "kernel_size": 3, **options}
    theirs, ours = getattr(nn, name)(**arguments), getattr(convbound.nn, name)(**arguments, backend=backend)
    for parameter in theirs.parameters():
        parameter.data = integers(*parameter.shape, dtype=parameter.dtype)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def image(name: str, batch: tuple[int, ...] = (2,), dtype: torch.dtype = torch.float32) -> Tensor:
    return integers(*batch, 4, *(5, 7, 6)[: dims(name)], dtype=dtype)


def results(module: nn.Module, x: Tensor, *arguments: Any) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    y = module(x, *arguments)
    gradients = torch.autograd.grad(y, [x, *module.parameters()], torch.full_like(y, 2.0))
    names = ["x", *(name.removeprefix("_orig_mod.") for name, _ in module.named_parameters())]
    return {"y": y, **dict(zip(names, gradients, strict=True))}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name, tensor in theirs.items():
        torch.testing.assert_close(
            ours[name], tensor, rtol=0, atol=0, check_stride=True, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.fixture
def compiler() -> Iterator[Compiler]:
    """torch.compile without breaks, and without what other tests compiled: recompilations are counted and limited."""
    torch._dynamo.reset()
    yield partial(torch.compile, fullgraph=True)
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(("name", "options"), CASES)
def test_results_and_gradients_are_torchs(name: str, options: dict[str, Any]) -> None:
    theirs, ours = pair(name, **options)
    x = image(name, dtype=options.get("dtype", torch.float32))
    assert_same(results(ours, x), results(theirs, x))


@pytest.mark.parametrize("name", NAMES)
def test_unbatched_input(name: str) -> None:
    theirs, ours = pair(name, stride=2)
    x = image(name, batch=())
    assert_same(results(ours, x), results(theirs, x))


@pytest.mark.parametrize("backend", ["auto", "cpu", "torch", None])
@pytest.mark.parametrize("name", NAMES)
def test_backends(name: str, backend: str | None) -> None:
    theirs, ours = pair(name, backend=backend, groups=2)
    x = image(name)
    assert_same(results(ours, x), results(theirs, x))


@pytest.mark.parametrize("batch", [(2,), ()], ids=["batched", "unbatched"])
@pytest.mark.parametrize("name", NAMES[3:])
def test_output_size(name: str, batch: tuple[int, ...]) -> None:
    theirs, ours = pair(name, stride=3, padding=1)
    x = image(name, batch)
    smallest = theirs(x).shape[-dims(name) :]
    for extra in range(3):
        size = [s + extra for s in smallest]
        assert_same(results(ours, x, size), results(theirs, x, size))
        assert ours(x, output_size=[*x.shape[: len(batch) + 1], *size]).shape[-dims(name) :] == torch.Size(size)
    for wrong in ([s + 3 for s in smallest], [*smallest, 1, 1, 1]):
        with pytest.raises(ValueError, match=r"output_size|output size"):
            ours(x, wrong)


@pytest.mark.parametrize("name", NAMES)
class TestConstructor:
    def test_signature_is_torchs_with_a_backend(self, name: str) -> None:
        ours = inspect.signature(getattr(convbound.nn, name)).parameters
        theirs = inspect.signature(getattr(nn, name)).parameters
        assert list(ours.values())[:-1] == list(theirs.values())
        assert ours["backend"].kind is inspect.Parameter.KEYWORD_ONLY
        assert ours["backend"].default is None

    def test_takes_positional_arguments(self, name: str) -> None:
        ours, theirs = getattr(convbound.nn, name)(2, 4, 3, 2, 1), getattr(nn, name)(2, 4, 3, 2, 1)
        assert (ours.stride, ours.padding) == (theirs.stride, theirs.padding)

    def test_initialises_as_torch_does(self, name: str) -> None:
        torch.manual_seed(3)
        theirs = getattr(nn, name)(4, 4, 3).state_dict()
        torch.manual_seed(3)
        ours = getattr(convbound.nn, name)(4, 4, 3).state_dict()
        assert list(ours) == list(theirs)
        assert_same(ours, theirs)

    def test_device_and_dtype(self, name: str) -> None:
        module = getattr(convbound.nn, name)(4, 4, 3, device="meta", dtype=torch.bfloat16)
        assert {(p.device.type, p.dtype) for p in module.parameters()} == {("meta", torch.bfloat16)}

    @pytest.mark.parametrize(
        "wrong",
        [
            {"groups": 0},
            {"groups": 3},
            {"out_channels": 5, "groups": 2},
            {"padding_mode": "mirror"},
            {"no_such_argument": 1},
        ],
        ids=lambda wrong: "-".join(wrong),
    )
    def test_errors_are_torchs(self, name: str, wrong: dict[str, Any]) -> None:
        arguments: dict[str, Any] = {"in_channels": 4, "out_channels": 4, "kernel_size": 3, **wrong}
        with pytest.raises((ValueError, TypeError)) as theirs:
            getattr(nn, name)(**arguments)
        with pytest.raises(theirs.type):
            getattr(convbound.nn, name)(**arguments)

    def test_unknown_backend(self, name: str) -> None:
        with pytest.raises(ValueError, match=rf"{name}: backend='cudnn' is unknown; choose one of auto, "):
            getattr(convbound.nn, name)(4, 4, 3, backend="cudnn")

    def test_skip_init(self, name: str) -> None:
        module = nn.utils.skip_init(getattr(convbound.nn, name), 4, 4, 3, backend="cpu")
        assert module(image(name)).shape == getattr(nn, name)(4, 4, 3)(image(name)).shape


@pytest.mark.parametrize(
    "wrong", [{"padding": "full"}, {"padding": "same", "stride": 2}], ids=["unknown_padding", "same_with_stride"]
)
def test_string_padding_errors_are_torchs(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="padding"):
        convbound.nn.Conv2d(4, 4, 3, **wrong)


@pytest.mark.parametrize("name", NAMES)
class TestModule:
    def test_is_an_instance_of_torchs(self, name: str) -> None:
        assert isinstance(getattr(convbound.nn, name)(4, 4, 3), getattr(nn, name))

    def test_state_dict_goes_both_ways(self, name: str) -> None:
        theirs, ours = getattr(nn, name)(4, 4, 3), getattr(convbound.nn, name)(4, 4, 3)
        assert list(ours.state_dict()) == list(theirs.state_dict()) == ["weight", "bias"]
        ours.load_state_dict(theirs.state_dict())
        assert_same(ours.state_dict(), theirs.state_dict())
        theirs.load_state_dict(getattr(convbound.nn, name)(4, 4, 3).state_dict())

    @pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
    def test_copies(self, name: str, how: str) -> None:
        _, ours = pair(name, stride=2)
        if how == "deepcopy":
            twin = copy.deepcopy(ours)
        elif how == "pickle":
            twin = pickle.loads(pickle.dumps(ours))
        else:
            file = io.BytesIO()
            torch.save(ours, file)
            twin = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
        assert type(twin) is type(ours)
        assert twin.backend == "cpu"
        x = image(name)
        assert_same(results(twin, x), results(ours, x))

    def test_printout_names_convbound_and_the_backend(self, name: str) -> None:
        theirs, ours = pair(name, stride=2)
        assert repr(ours) == f"convbound.{repr(theirs)[:-1]}, backend='cpu')"
        ours.backend = None
        assert repr(ours) == f"convbound.{theirs!r}"

    def test_backend_is_looked_up_in_each_call(self, name: str) -> None:
        _, ours = pair(name)
        ours(image(name))
        ours.backend = "cudnn"
        with pytest.raises(ValueError, match="backend='cudnn' is unknown"):
            ours(image(name))

    def test_compiles_without_a_break(self, name: str, compiler: Compiler) -> None:
        theirs, ours = pair(name, groups=2, stride=2, padding=1)
        x = image(name)
        compiled = compiler(ours, backend="aot_eager")
        assert_same(results(compiled, x), results(theirs, x))


def test_compiled_padding_mode(compiler: Compiler) -> None:
    theirs, ours = pair("Conv2d", padding=2, padding_mode="reflect", groups=4)
    x = image("Conv2d")
    torch.testing.assert_close(compiler(ours, backend="aot_eager")(x), theirs(x), rtol=0, atol=0)


def test_compiled_output_size(compiler: Compiler) -> None:
    theirs, ours = pair("ConvTranspose2d", stride=2)
    x, size = image("ConvTranspose2d"), [12, 16]
    compiled = compiler(ours, backend="aot_eager")
    torch.testing.assert_close(compiled(x, output_size=size), theirs(x, output_size=size), rtol=0, atol=0)


def test_change_of_backend_reaches_compiled_code(compiler: Compiler) -> None:
    graphs = []

    def remember(graph: torch.fx.GraphModule, _: Any) -> torch.fx.GraphModule:
        graphs.append(str(graph.graph))
        return graph

    _, ours = pair("Conv2d", groups=4)
    compiled = compiler(ours, backend=remember)
    for backend in ("cpu", "torch"):
        ours.backend = backend
        compiled(image("Conv2d"))
    assert ["conv2d" in graph for graph in graphs] == [False, True]


def test_conv_forward_takes_a_weight_of_the_callers() -> None:
    """The hook that weight standardisation, low-rank adapters and the like call."""
    theirs, ours = pair("Conv2d", groups=2, padding=1, padding_mode="replicate")
    x, weight = image("Conv2d"), integers(4, 2, 3, 3)
    torch.testing.assert_close(
        ours._conv_forward(x, weight, None), theirs._conv_forward(x, weight, None), rtol=0, atol=0
    )


def test_subclass_may_override_conv_forward() -> None:
    class Doubled(convbound.nn.Conv2d):
        def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return super()._conv_forward(input, 2 * weight, bias)

    module = Doubled(4, 4, 3, bias=False, groups=4, backend="cpu")
    plain = convbound.nn.Conv2d(4, 4, 3, bias=False, groups=4, backend="cpu")
    plain.load_state_dict(module.state_dict())
    x = image("Conv2d")
    torch.testing.assert_close(module(x), 2 * plain(x))


def test_batch_norm_can_be_fused_into_it() -> None:
    _, ours = pair("Conv2d", groups=4)
    fused = nn.utils.fusion.fuse_conv_bn_eval(ours.eval(), nn.BatchNorm2d(4, eps=0.0).eval())
    assert type(fused) is convbound.nn.Conv2d
    x = image("Conv2d")
    torch.testing.assert_close(fused(x), ours(x))


def test_torchs_lazy_modules_stay_torchs() -> None:
    module = nn.LazyConv2d(4, 3)
    module(image("Conv2d"))
    assert type(module) is nn.Conv2d
