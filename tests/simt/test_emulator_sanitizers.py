"""Under real sanitizers, outside Python: the emulator's own tests, and every row of the registry on integers.

AddressSanitizer and UndefinedBehaviorSanitizer, and ThreadSanitizer with a fiber for each emulated thread; the latter
must see the missing barriers of the wrong kernels. Run by ``make sanitize``.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable

import pytest
from emulator_build import EMULATOR_TESTS, REGISTRY_WALK, build_program
from support import device
from support.problems import PROBLEMS

from convbound.problem import ConvProblem

pytestmark = pytest.mark.sanitize

ENVIRONMENT = {**os.environ, "TSAN_OPTIONS": "exitcode=66"}


def run(kind: str, *arguments: str, problems: Iterable[ConvProblem] = ()) -> subprocess.CompletedProcess[str]:
    walk = bool(problems)
    program = build_program(kind, *(("registry", REGISTRY_WALK) if walk else ("emulator", EMULATOR_TESTS)))
    lines = "".join(f"{numbers(problem)}\n" for problem in problems)
    return subprocess.run(
        [program, *arguments], input=lines, capture_output=True, text=True, timeout=1800, env=ENVIRONMENT
    )


def numbers(problem: ConvProblem) -> str:
    """The problem as walk_registry.cpp reads it."""
    lead = 3 - problem.ndim
    begin = tuple(pair[0] for pair in problem.padding)
    found = [problem.n, problem.c, problem.k, problem.groups]
    for values in (problem.input, problem.filter, problem.output, problem.stride, begin, problem.dilation):
        found += [0 if values is begin else 1] * lead + list(values)
    return " ".join(map(str, found))


def assert_passed(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]


@pytest.mark.parametrize("options", ["order=forward", "order=reverse profile=sm_80"])
@pytest.mark.parametrize("kind", ["asan", "tsan"])
def test_registry(kind: str, options: str) -> None:
    # ThreadSanitizer takes ten times as long: the first problem of each row is enough for it.
    first = [next(problem for problem in PROBLEMS if device.serves(row, problem)) for row in device.rows()]
    done = run(kind, options, problems=PROBLEMS if kind == "asan" else dict.fromkeys(first))
    assert_passed(done)
    assert " 0 failures" in done.stdout


def test_emulator_under_address_and_undefined() -> None:
    assert_passed(run("asan"))


@pytest.mark.parametrize(
    "name", ["shared_memory-forward", "warp_intrinsics-random", "async_ring-eager", "matrix_product-half"]
)
def test_right_kernels_under_thread(name: str) -> None:
    assert_passed(run("tsan", name))


@pytest.mark.parametrize("name", ["missing_barrier", "missing_second_barrier", "shuffles_are_no_barriers"])
def test_wrong_kernels_under_thread(name: str) -> None:
    done = run("tsan", name)
    assert done.returncode == 66, f"ThreadSanitizer saw nothing\n{done.stdout}{done.stderr[-4000:]}"
    assert "data race" in done.stderr
