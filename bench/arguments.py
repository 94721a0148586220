"""The kinds of arguments that the command line takes; a bad one is refused in one line that says what is right."""

from __future__ import annotations

import argparse
import datetime
import difflib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from convbound.bench.auto import AUTO
from convbound.choice.backends import backends
from convbound.command_line import EXIT_USAGE, Parser
from convbound.devices import NAMES
from convbound.problem import ConvProblem

PROGRAM = "python -m convbound.bench"
EXTRAS = ("rich", "matplotlib", "numpy")
# Beyond this, torch ends the process, or its numbers of 64 bits are too small.
MOST_THREADS, MOST_BATCH = 1024, (1 << 31) - 1

T = TypeVar("T")


@contextmanager
def refusing(parser: Parser) -> Iterator[None]:
    """Files that cannot be read, written or understood are one line of the parser's."""
    try:
        yield
    except OSError as error:
        parser.error(f"cannot read or write {error.filename}: {error.strerror}" if error.filename else str(error))
    except ValueError as error:
        parser.error(str(error))


def require_extras(parser: Parser) -> None:
    """Leave where the libraries of the benchmark are not installed."""
    if missing := [name for name in EXTRAS if importlib.util.find_spec(name) is None]:
        parser.exit(EXIT_USAGE, f"{PROGRAM} needs {', '.join(missing)}: pip install 'convbound[bench]'\n")


def backend(text: str) -> str:
    """A backend that is available, or ``auto``."""
    absent = {row.name: row.absent for row in backends()}
    name = one_of("backend", [AUTO, *absent])(text)
    if absent.get(name):
        raise argparse.ArgumentTypeError(f"{name} is not available: {absent[name]}")
    return name


def device(text: str) -> str:
    """A device that torch can use."""
    chosen = one_of("device", NAMES)(text)
    if chosen == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError(f"torch {torch.__version__} sees no GPU here; --device cpu measures the CPU")
    return chosen


def one_of(what: str, choices: Sequence[str]) -> Callable[[str], str]:
    """A type of argument that is one of some names, in any case of letters."""
    by_name = {choice.lower(): choice for choice in choices}

    def convert(text: str) -> str:
        if text.lower() in by_name:
            return by_name[text.lower()]
        near = difflib.get_close_matches(text.lower(), by_name, n=1)
        hint = f"did you mean {by_name[near[0]]}? " if near else ""
        raise argparse.ArgumentTypeError(f"unknown {what} {text!r}; {hint}it is one of {', '.join(choices)}")

    return convert


def path(text: str) -> Path:
    """The name of a file or folder."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty, and has to name a file or folder")
    return Path(text)


def made_folder(parser: Parser, folder: Path | None) -> Path:
    """The folder of ``--out``, or one by the time of day; it is made, or one line says why it cannot be."""
    folder = folder or results_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out: cannot use {folder}: {error.strerror}")
    return folder


def results_folder(ending: str = "") -> Path:
    """Where a command writes if it is not told: results/<date-time>."""
    return Path("results") / f"{datetime.datetime.now():%Y-%m-%d-%H%M%S}{ending}"


def positive(kind: Callable[[str], T], most: float = float("inf")) -> Callable[[str], T]:
    """A type of argument that is a number above 0, and no larger than `most`."""

    def convert(text: str) -> T:
        try:
            value = kind(text)
        except ValueError:
            value = kind("0")
        if not kind("0") < value <= most:  # type: ignore[operator]
            limit = "" if most == float("inf") else f" and at most {most:.0f}"
            raise argparse.ArgumentTypeError(f"{text!r} must be a {'whole ' * (kind is int)}number above 0{limit}")
        return value

    return convert


def problem(text: str) -> ConvProblem:
    """A problem string."""
    try:
        parsed = ConvProblem.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not parsed.n:
        raise argparse.ArgumentTypeError(f"mb0 in {text!r} leaves nothing to time; it must be at least 1")
    return parsed


def sizes(text: str) -> tuple[int, ...]:
    """The shape of a tensor."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} must be sizes above 0, such as 8,3,224,224")
    return tuple(map(int, parts))
