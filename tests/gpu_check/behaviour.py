"""How the ops live with CUDA: the current stream, several streams, captured graphs, several devices, autograd."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from support.check import Results, assert_exact, compute, expected
from support.data import Operands, integers

import convbound
from convbound.choice.backends import unsupported
from convbound.cuda_timing import capture
from convbound.layout import to_layout
from convbound.problem import LAYOUTS, PASSES, ConvProblem, Layout, Pass
from gpu_check.check import Check
from gpu_check.rows import case
from gpu_check.target import Target

PROBLEMS = tuple(
    map(
        ConvProblem.parse,
        (
            "mb2g24ic24ih28oc24kh3ph1 depthwise",
            "mb2g4ic32ih14oc32kh3ph1 grouped",
            "mb2ic8ih12oc16kh3ph2dh2 dilated",
            "mb2ic8ih16oc4kh4sh2ph1 transposed",
        ),
    )
)
DTYPE = torch.float16
_STREAMS, _BUSY_PRODUCTS, _REPLAYS = 4, 20, 3


def behaviour_checks(target: Target) -> Iterator[Check]:
    """All of them, for each backend, on one problem of each family."""
    second = "" if len(target.devices) > 1 else "there is one GPU"
    for backend in target.backends:
        for problem in (p for p in PROBLEMS if not any(unsupported(p, pass_, DTYPE, backend) for pass_ in PASSES)):
            for pass_ in PASSES:
                for layout in LAYOUTS:
                    of = (target, backend, problem, pass_, layout)
                    name = f"{backend}_{pass_} {layout} {problem}"
                    yield Check(f"stream {name}", partial(check_current_stream, *of))
                    yield Check(f"streams {name}", partial(check_several_streams, *of))
                    yield Check(f"graph {name}", partial(check_graph, *of))
                    yield Check(f"devices {name}", partial(check_second_device, *of), skip=second)
            yield Check(f"autograd {backend} {problem}", partial(check_autograd, target, backend, problem))
    for problem in PROBLEMS:
        yield Check(f"autograd auto {problem}", partial(check_autograd, target, "auto", problem))


def operands_on(device: torch.device, problem: ConvProblem, pass_: Pass, layout: Layout) -> tuple[Operands, Results]:
    """Operands on a device, dense in the layout, and the exact results."""
    operands, wanted = case(problem, pass_, DTYPE)
    return operands.map(lambda tensor: placed(tensor, device, layout)), wanted


def placed(tensor: torch.Tensor, device: torch.device, layout: Layout) -> torch.Tensor:
    """A copy of the tensor on a device, dense in the layout; a vector has none."""
    return to_layout(tensor.to(device, copy=True), layout == "NHWC" and tensor.dim() > 1)


def assert_right(results: Results, wanted: Results) -> None:
    """The results, on whatever device, are the exact ones."""
    assert_exact({name: tensor.cpu() for name, tensor in results.items()}, wanted, DTYPE)


def check_current_stream(target: Target, backend: str, problem: ConvProblem, pass_: Pass, layout: Layout) -> None:
    """An op waits for what its own stream computes: its operands are written there, late."""
    given, wanted = operands_on(target.device, problem, pass_, layout)
    late = given.map(lambda tensor: torch.full_like(tensor, torch.nan))
    busy = torch.ones(target.busy_edge, target.busy_edge, device=target.device)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_BUSY_PRODUCTS):
            busy = busy @ busy
        for source, destination in zip(vars(given).values(), vars(late).values(), strict=True):
            destination.copy_(source)
        results = compute(pass_, late, problem, backend, layout == "NHWC")
    side.synchronize()
    assert_right(results, wanted)


def check_several_streams(target: Target, backend: str, problem: ConvProblem, pass_: Pass, layout: Layout) -> None:
    """The same op on several streams at once, each on operands of its own."""
    given, wanted = operands_on(target.device, problem, pass_, layout)
    copies = [given.map(torch.clone) for _ in range(_STREAMS)]
    streams = [torch.cuda.Stream() for _ in range(_STREAMS)]
    results: list[Results] = []
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream())
    for stream, operands in zip(streams, copies, strict=True):
        with torch.cuda.stream(stream):
            results.append(compute(pass_, operands, problem, backend, layout == "NHWC"))
    for stream in streams:
        stream.synchronize()
    for result in results:
        assert_right(result, wanted)


def check_graph(target: Target, backend: str, problem: ConvProblem, pass_: Pass, layout: Layout) -> None:
    """A captured op computes anew from what its operands hold at each replay."""
    static, _ = operands_on(target.device, problem, pass_, layout)
    results: Results = {}
    graph = capture([lambda: results.update(compute(pass_, static, problem, backend, layout == "NHWC"))])
    for seed in range(1, 1 + _REPLAYS):
        fresh = integers(problem, pass_, DTYPE, seed=seed)
        for source, destination in zip(vars(fresh).values(), vars(static).values(), strict=True):
            destination.copy_(source)
        for tensor in results.values():
            tensor.fill_(torch.nan)
        graph.replay()
        torch.cuda.synchronize()
        assert_right(results, expected(pass_, fresh, problem))


def check_second_device(target: Target, backend: str, problem: ConvProblem, pass_: Pass, layout: Layout) -> None:
    """Tensors on each device in turn, while the first is the current one."""
    before = torch.cuda.current_device()
    for device in (target.devices[1], target.devices[0], target.devices[1]):
        given, wanted = operands_on(device, problem, pass_, layout)
        assert_right(compute(pass_, given, problem, backend, layout == "NHWC"), wanted)
    assert torch.cuda.current_device() == before, "an op changed the current device"


def check_autograd(target: Target, backend: str, problem: ConvProblem) -> None:
    """Output and gradients of ``convbound.conv2d`` on small whole numbers are those of torch in fp64."""
    generator = torch.Generator().manual_seed(0)

    def draw(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randint(-2, 3, shape, generator=generator).double()

    x, w, bias, dy = map(draw, (problem.x_shape, problem.w_shape, (problem.k,), problem.y_shape))
    padding = [begin for begin, _ in problem.padding]
    settings = (problem.stride, padding, problem.dilation, problem.groups)
    wanted = _gradients(lambda *a: torch.nn.functional.conv2d(*a, *settings), (x, w, bias), dy)
    there = [tensor.to(target.device, torch.float32) for tensor in (x, w, bias, dy)]
    found = _gradients(lambda *a: convbound.conv2d(*a, *settings, backend=backend), there[:3], there[3])
    assert_exact({name: tensor.cpu() for name, tensor in found.items()}, wanted, torch.float32)


def _gradients(call, inputs, dy: torch.Tensor) -> Results:  # type: ignore[no-untyped-def]
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    y = call(*leaves)
    return dict(zip(("y", "dx", "dw", "dbias"), (y.detach(), *torch.autograd.grad(y, leaves, dy)), strict=True))
