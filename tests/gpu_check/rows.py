"""Every kernel against fp64 rounded once, on integer data: rows of the registry by their index, and the ops."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import torch
from support import device as registry
from support.check import Results, assert_exact, expected, run
from support.data import Operands, Sign, amid_nan, integers
from support.edges import EDGES, walk
from support.problems import PROBLEMS

from convbound import fakes
from convbound.choice.backends import unsupported
from convbound.problem import DTYPE_NAMES, DTYPES, LAYOUTS, PASSES, ConvProblem, Layout, Pass
from gpu_check.check import Check
from gpu_check.target import Target

# Where operands and results lie in their buffers, in elements: aligned as torch allocates, and as little as may be.
OFFSETS = (64, 65)
# What each pass writes, by the names of operands and results.
WRITTEN: dict[Pass, dict[str, str]] = {
    "fprop": {"y": "y"},
    "dgrad": {"x": "dx"},
    "wgrad": {"w": "dw", "bias": "dbias"},
}


@cache
def case(problem: ConvProblem, pass_: Pass, dtype: torch.dtype, sign: Sign = "signed") -> tuple[Operands, Results]:
    """Operands on the CPU, and the exact results."""
    operands = integers(problem, pass_, dtype, sign)
    return operands, expected(pass_, operands, problem)


def signs(problem: ConvProblem) -> tuple[Sign, ...]:
    """Long sums are checked on positive numbers too, where an accumulator of 16 bits would show."""
    return ("signed", "positive") if "long sum" in problem.origin else ("signed",)


def served(row: dict[str, Any], target: Target) -> list[ConvProblem]:
    """The problems that the row computes there."""
    limits = (target.arch, target.shared_per_block, target.sms)
    plan = registry.introspect.device_plan
    return [p for p in walk(row["name"]) if not isinstance(plan(row["index"], registry.native(p), *limits), str)]


def row_checks(target: Target) -> Iterator[Check]:
    """Every row of the registry on every problem that it serves."""
    if not target.registry_backend:
        yield Check("row of the CUDA registry", refuse)
        return
    for row in registry.rows():
        problems = served(row, target)
        for problem in problems:
            yield Check(f"row {registry.row_id(row)} {problem}", partial(check_row, target, row, problem))
        if not problems:
            yield Check(f"row {registry.row_id(row)}", skip=f"serves no problem of the tests on sm_{target.arch}")


def refuse() -> None:
    """A GPU without our kernels on it is what this run is not to pass over."""
    raise RuntimeError(f"backend cuda is absent: {registry._library.ABSENT['cuda']}")


def check_row(target: Target, row: dict[str, Any], problem: ConvProblem) -> None:
    """One row: right results, and nothing written beside them."""
    pass_, dtype = row["pass"].name, registry.dtype_of(row)
    for sign in signs(problem):
        operands, wanted = case(problem, pass_, dtype, sign)
        for offset in OFFSETS:
            results = run_row(target, row, problem, operands, offset)
            assert_exact({name: tensor.cpu() for name, tensor in results.items()}, wanted, dtype)
            for name, tensor in results.items():
                if beside := written_beside(tensor):
                    raise AssertionError(f"{name}: {beside} elements beside the tensor were written (offset {offset})")


def run_row(target: Target, row: dict[str, Any], problem: ConvProblem, operands: Operands, offset: int) -> Results:
    """The results of one row, from operands amid NaN into outputs of NaN amid NaN."""
    channels_last = row["layout"].name == "NHWC"
    names = WRITTEN[row["pass"].name]
    shapes = {"x": problem.x_shape, "w": problem.w_shape, "y": problem.y_shape, "bias": (problem.k,)}
    tensors: dict[str, torch.Tensor] = {}
    for name in shapes:
        tensor = getattr(operands, name).to(target.device)
        if name in names:
            last = channels_last and len(shapes[name]) > 1
            tensor = fakes.empty_dense(tensor, shapes[name], last).fill_(torch.nan)
        tensors[name] = amid_nan(tensor, channels_last, offset)
    launch(target, row, problem, tensors)
    return {result: tensors[name] for name, result in names.items()}


def launch(target: Target, row: dict[str, Any], problem: ConvProblem, tensors: dict[str, torch.Tensor]) -> None:
    """The row's kernel on these tensors (x, w, y, bias)."""
    op = getattr(torch.ops.convbound, f"{target.registry_backend}_run_row")
    padding = [p for pair in problem.padding for p in pair]
    op(row["index"], *tensors.values(), problem.stride, padding, problem.dilation, problem.groups)


def written_beside(tensor: torch.Tensor) -> int:
    """How many elements of the tensor's buffer, which was NaN around it, are no longer NaN."""
    buffer, view = tensor._base, tensor
    assert buffer is not None
    view.fill_(torch.nan)
    return int((~buffer.isnan()).sum())


# As many channels as the tiles of Triton's products take, which the interpreter would be too slow for.
PRODUCTS = tuple(
    map(
        ConvProblem.parse,
        """
        mb2g2ic512ih9iw8oc512kh3ph1 grouped:two groups
        mb2g2ic512ih9iw8oc512kh3sh2ph1 grouped:strided
        mb2g16ic128ih9iw8oc128kh3ph1 grouped:packs
        mb2g16ic128ih9iw8oc128kh3sh2ph1 grouped:strided packs
        mb2ic96ih9iw8oc136kh3ph1 dense:channels beyond a tile
        """.strip().splitlines(),
    )
)


def triton_checks(target: Target) -> Iterator[Check]:
    """Every row of the table of Triton kernels on every problem that it serves; each compiles first."""
    if "triton" not in target.backends:
        return
    from convbound.kernels.table import KERNELS

    for row in KERNELS:
        for dtype in row.dtypes:
            for problem in (*PROBLEMS, *PRODUCTS):
                if row.serves(problem, row.pass_, dtype, row.layout, target.arch):
                    name = f"row triton {row.name} {DTYPE_NAMES[dtype]} {problem}"
                    yield Check(name, partial(check_triton_row, row, dtype, problem))


def check_triton_row(row: Any, dtype: torch.dtype, problem: ConvProblem) -> None:
    """One row of Triton's table; running it looks for writes beside the outputs."""
    from support import triton_rows

    for sign in signs(problem):
        operands, wanted = case(problem, row.pass_, dtype, sign)
        assert_exact(triton_rows.run_row(row, operands, problem), wanted, dtype)


def op_checks(target: Target) -> Iterator[Check]:
    """Every backend's ops, with the row that the dispatcher chooses, on every problem."""
    for backend in target.backends:
        for problem in (*PROBLEMS, *EDGES):
            for pass_ in PASSES:
                for dtype in DTYPES:
                    if unsupported(problem, pass_, dtype, backend):
                        continue
                    for layout in LAYOUTS:
                        name = f"op {backend}_{pass_} {DTYPE_NAMES[dtype]} {layout} {problem}"
                        yield Check(name, partial(check_op, target, backend, problem, pass_, dtype, layout))


def check_op(
    target: Target, backend: str, problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout
) -> None:
    """One op on operands at odd offsets, into poisoned outputs."""
    for sign in signs(problem):
        operands, wanted = case(problem, pass_, dtype, sign)
        there = operands.map(lambda tensor: tensor.to(target.device))
        results = run(pass_, there, problem, backend, layout == "NHWC")
        assert_exact({name: tensor.cpu() for name, tensor in results.items()}, wanted, dtype)
