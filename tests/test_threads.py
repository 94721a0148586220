"""Results do not depend on the number of threads, nor on the run: bit for bit, on real data."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from support.check import assert_exact, expected, run
from support.data import integers, reals
from support.problems import Case, cases, instruction_set

import convbound
from convbound.problem import ConvProblem

# Enough work that the kernels split it: over planes, over the rows of few planes, over columns, over pixels; wgrad has
# several sums then, which are added at the end.
PROBLEMS = [
    ConvProblem.parse(text)
    for text in (
        "mb3g16ic16ih20iw21oc16kh3ph1",
        "g1ic1ih150iw90oc1kh5ph2",
        "g2ic2ih64iw400oc4kh3sh2ph1",
        "g48ic48ih13iw40oc48kh3ph1dh2",
        "ic1iw30000oc1kw3pw1",
        "g2ic2ih201iw190oc2kh5sh2ph2",
        "mb6g40ic40ih33iw30oc40kh7ph3",
        "mb2g3ic3id6ih17iw40oc3kd3kh3kw2sd1sh2sw1pd1ph1pw0",
        "mb2g2ic8ih12iw13oc6kh3ph1",
        "mb3g4ic16ih70iw61oc20kh3ph1",
        "mb2g2ic16iw5000oc8kw9sw2pw4",
    )
]


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", cases(PROBLEMS, [torch.float32]), ids=str)
def test_threads_and_runs_make_no_difference(case: Case):
    operands = reals(case.problem, case.pass_, torch.float32)
    with instruction_set(case.isa):
        torch.set_num_threads(1)
        alone = run(case.pass_, operands, case.problem, "cpu", case.channels_last)
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            together = run(case.pass_, operands, case.problem, "cpu", case.channels_last)
            assert all(torch.equal(together[name], alone[name]) for name in alone), f"{threads} threads"


@pytest.mark.parametrize("case", cases(PROBLEMS, [torch.float32]), ids=str)
def test_results_of_several_threads_are_exact(case: Case):
    operands = integers(case.problem, case.pass_, torch.float32)
    with instruction_set(case.isa):
        torch.set_num_threads(3)
        results = run(case.pass_, operands, case.problem, "cpu", case.channels_last)
    assert_exact(results, expected(case.pass_, operands, case.problem), torch.float32)


def test_calls_from_several_python_threads_do_not_disturb_each_other():
    x = torch.randint(-4, 5, (4, 8, 20, 21)).float()
    weights = [torch.randint(-4, 5, (8, 1, 3, 3)).float() for _ in range(6)]
    wanted = [torch.nn.functional.conv2d(x, w, groups=8, stride=2) for w in weights]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(20):
            if not torch.equal(convbound.conv2d(x, weights[i], groups=8, stride=2, backend="cpu"), wanted[i]):
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(weights))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
