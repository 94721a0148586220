"""``python -m convbound``: one clear line for what it refuses, and nothing that would steer a terminal."""

from __future__ import annotations

import pytest

from convbound.__main__ import main

PROBLEM = "mb1g8ic8ih8oc8kh3ph1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain"], "explain: the following arguments are required: problem"),
        (["explain", "\x1b[2J"], r"cannot read '\x1b[2J' in problem"),
        (["explain", PROBLEM, "--dtype", "fp8"], "--dtype: invalid choice: 'fp8'"),
        (["explain", PROBLEM, "--device", "nowhere"], "device string: nowhere"),
        (["trace", PROBLEM, "--gpu", "x"], "gpu='x' is unknown; choose one of"),
        (["tuning", "--frobnicate"], "unrecognized arguments: --frobnicate; --help lists the options"),
        (["explan"], "invalid choice: 'explan'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bad_argument_is_refused_in_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    error = capsys.readouterr().err
    assert leaving.value.code == 2
    assert message in error
    assert error.count("\n") == 1


def test_the_note_of_a_problem_is_shown_and_does_nothing(capsys: pytest.CaptureFixture[str]):
    assert main(["explain", f"{PROBLEM} \x1b]0;a title\a"]) == 0
    printed = capsys.readouterr().out
    assert "(\\x1b]0;a title\\x07)" in printed
    assert all(line.isprintable() for line in printed.splitlines())
