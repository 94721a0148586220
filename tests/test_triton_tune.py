"""``bench tune``: what it tries, what it reports, and what ``auto`` may take from Triton's table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from support import triton_rows

if triton_rows.DEVICE != "cpu":
    pytest.skip("about the interpreter", allow_module_level=True)

from convbound import choice
from convbound.bench import tune
from convbound.choice import backends
from convbound.kernels import table
from convbound.kernels.implicit_gemm import ProductTile
from convbound.kernels.launch import Plan
from convbound.kernels.strips import StripTile
from convbound.problem import ConvProblem
from convbound.timing import Prepared

PROBLEM = ConvProblem.parse("g2ic2ih6iw5oc2kh3kw2ph1")
CPU = torch.device("cpu")


class Timer:
    """Makes each call and says that it took less than the one before."""

    def __init__(self) -> None:
        self.seconds = 1.0

    def sample(self, call: Any) -> float:
        call()
        self.seconds /= 2
        return self.seconds

    def prepare(self, calls: Any, seconds: float) -> Prepared:
        return Prepared(calls(1)[0], 1, "invented")


def test_alternatives_are_the_selected_row_others_and_tiles_around():
    rows = tune.alternatives(PROBLEM, "fprop", torch.float16, "NHWC", 90)
    assert rows[0] is table.select(PROBLEM, "fprop", torch.float16, "NHWC", 90)
    assert {row.name for row in rows} == {
        f"depthwise_fprop_{row}_nhwc" for row in ("rows9", "rows25", "rows49", "large")
    }
    assert len({(row.name, row.tile) for row in rows}) == len(rows) > 12
    assert all(row.serves(PROBLEM, "fprop", torch.float16, "NHWC", 90) for row in rows)


def test_tiles_around_one_have_another_size_each():
    product = ProductTile(64, 32, 32, stages=3, warps=8)
    assert set(tune.neighbours(product)) == {
        *(replace(product, rows=rows) for rows in (32, 128)),
        *(replace(product, columns=columns) for columns in (16, 64)),
        *(replace(product, depth=depth) for depth in (16, 64)),
        *(replace(product, stages=stages) for stages in (2, 4)),
        *(replace(product, warps=warps) for warps in (4, 16)),
    }
    strip = StripTile(512, 1, 1, warps=1)  # a row of one channel stays one
    assert set(tune.neighbours(strip)) == {*(replace(strip, columns=n) for n in (256, 1024)), replace(strip, warps=2)}


@pytest.mark.parametrize("pass_", ["fprop", "dgrad", "wgrad"])
def test_the_fastest_is_first_and_what_fails_is_last(pass_: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tune, "BUDGET", 1e-6)
    run = Plan.run

    def failing(plan: Plan, tensors: Any) -> None:
        if plan.launches[0].warps == 2:
            raise RuntimeError("out of resources")
        run(plan, tensors)

    monkeypatch.setattr(Plan, "run", failing)
    timings = tune.search(PROBLEM, pass_, torch.float32, "NCHW", CPU, None, Timer())
    timed = [timing.seconds for timing in timings if timing.seconds is not None]
    assert len(timed) >= 3
    assert timed == sorted(timed)
    assert sum(timing.selected for timing in timings) == 1
    assert timings[-1].reason == "RuntimeError: out of resources"
    lines = tune.report(timings)
    assert "out of resources" in lines[-1]
    assert sum("selected by the table" in line for line in lines) == 1


def test_a_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tune, "BUDGET", 1e-6)
    run = Plan.run

    def wrong(plan: Plan, tensors: Any) -> None:
        run(plan, tensors)
        if plan.launches[0].warps == 2:
            tensors["y"][0, 0, 0, 0] = torch.nan

    monkeypatch.setattr(Plan, "run", wrong)
    timings = tune.search(PROBLEM, "fprop", torch.float32, "NCHW", CPU, None, Timer())
    erring = [timing for timing in timings if timing.seconds is None]
    assert erring
    assert all("the result is off by nan" in timing.reason for timing in erring)


@pytest.mark.parametrize(
    ("text", "dtype", "competing"),
    [
        ("g4ic4ih9oc4kh3ph1", torch.float16, True),
        ("g4ic4ih9oc4kh3ph1", torch.float64, False),  # a naive row
        ("ic4id6ih6iw6oc4kd3kh3kw3", torch.float16, False),  # no row
    ],
)
def test_triton_competes_on_gpus(text: str, dtype: torch.dtype, competing: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backends, "_BACKENDS", (backends.Backend("triton", "Triton", ("cpu", "cuda")),))
    found = choice.candidates(ConvProblem.parse(text), "fprop", dtype, "NCHW", CPU)
    assert found == (("triton",) if competing else ())


def test_what_is_interpreted_does_not_compete(monkeypatch: pytest.MonkeyPatch):
    triton = backends.Backend("triton", "Triton, interpreted", ("cpu", "cuda"), emulated=True)
    monkeypatch.setattr(backends, "_BACKENDS", (triton,))
    assert choice.candidates(PROBLEM, "fprop", torch.float16, "NCHW", CPU) == ()
