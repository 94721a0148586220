"""``python -m convbound.bench experiment``: run experiments, show them, or rewrite docs/experiments.md from a file."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from convbound.bench.arguments import (
    MOST_THREADS,
    PROGRAM,
    device,
    made_folder,
    one_of,
    path,
    positive,
    refusing,
    require_extras,
)
from convbound.bench.progress import bar, terminal
from convbound.command_line import EXIT_INTERRUPTED, EXIT_OK, Parser
from convbound.devices import NAMES, default_device, find_device
from convbound.gpus import DEFAULT_GPU, find_gpu
from convbound.problem import NAMED_DTYPES

if TYPE_CHECKING:
    from rich.console import Console

    from convbound.bench.experiments.experiment import Points
    from convbound.bench.experiments.run import Record

_OPENING_SECONDS = 3.0

HELP = """\
Run experiments: each states a hypothesis about convolutions, measures it here, draws it, and ends in a verdict that the
data decide. Each takes less than a minute on two cores. An interrupted run (Ctrl-C) keeps what it measured.
"""
EXAMPLES = f"""\
examples:
  {PROGRAM} experiment --list                    names and titles
  {PROGRAM} experiment three                     one of them
  {PROGRAM} experiment --all --out results/all   every one, in four minutes
  {PROGRAM} experiment three --predict H100      what its kernels' traffic binds on a GPU, traced without one
  {PROGRAM} experiment --from results/all/experiments.json
"""


def parser() -> Parser:
    """The options of ``experiment``."""
    made = Parser(
        prog=f"{PROGRAM} experiment",
        description=HELP,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("names", nargs="*", metavar="NAME", help="experiments; --list names all")
    made.add_argument("--list", action="store_true", help="print names and titles, and stop")
    made.add_argument("--all", action="store_true", help="run every experiment")
    made.add_argument(
        "--device", type=device, metavar="DEVICE", help=f"{', '.join(NAMES)} (default: a GPU if there is one)"
    )
    made.add_argument(
        "--dtype", type=one_of("dtype", list(NAMED_DTYPES)), metavar="DTYPE", help="fp32 (default on a CPU), …"
    )
    made.add_argument("--threads", type=positive(int, MOST_THREADS), metavar="N", help="threads (default: torch's)")
    made.add_argument(
        "--time", type=positive(float), metavar="SECONDS", help="of sampling for each experiment (default: 30)"
    )
    made.add_argument(
        "--predict",
        metavar="GPU",
        help=f"also trace what binds each convolution on a GPU, such as {DEFAULT_GPU}; needs the emulator",
    )
    made.add_argument("--out", type=path, metavar="DIR", help="folder for the results (default: results/<date-time>)")
    made.add_argument(
        "--from", type=path, dest="file", metavar="FILE", help="show the experiments of a file, and run none"
    )
    made.add_argument(
        "--docs", type=path, metavar="DIR", help="with --from, write experiments.md and its pictures there"
    )
    return made


def experiment_command(arguments: Sequence[str], started: float) -> int:
    """Run or show experiments."""
    options = parser()
    args = options.parse_args(arguments)
    require_extras(options)
    from convbound.bench.experiments.catalogue import EXPERIMENTS

    if args.list:
        width = max(map(len, EXPERIMENTS))
        print("\n".join(f"{name:{width}}  {one.title}" for name, one in EXPERIMENTS.items()))
        return EXIT_OK
    try:
        names = [*dict.fromkeys(map(one_of("experiment", list(EXPERIMENTS)), args.names))]
    except argparse.ArgumentTypeError as error:
        options.error(str(error))
    if args.all:
        names = list(EXPERIMENTS)
    if args.docs and not args.file:
        options.error("--docs: is written from a file, so it needs --from FILE")
    if args.predict:
        with refusing(options):
            find_gpu(args.predict)
    console = terminal()
    if args.file:
        _show_file(options, args, names, console)
        return EXIT_OK
    if not names:
        options.error(f"no experiment is named; it is --all or some of {', '.join(EXPERIMENTS)}")
    if args.threads:
        torch.set_num_threads(args.threads)
    return _run(options, args, names, console, started)


def _run(options: Parser, args: argparse.Namespace, names: list[str], console: Console, started: float) -> int:
    from convbound.bench.experiments import show
    from convbound.bench.experiments.catalogue import EXPERIMENTS
    from convbound.bench.experiments.run import FILE, SECONDS, Run

    folder = made_folder(options, args.out)
    found = find_device(args.device or default_device())
    dtype = NAMED_DTYPES[args.dtype] if args.dtype else found.dtype
    finished: list[str] = []
    try:
        run = Run(found, dtype, folder)
        for name in names:
            points = run.add(EXPERIMENTS[name], args.time or SECONDS, bar(console))
            finished.append(name)
            show.draw(EXPERIMENTS[name], points, run.record, folder / f"{name}.svg")
            show.print_experiment(EXPERIMENTS[name], points, run.record, console)
            if args.predict:
                _predict(points, args.predict, console)
    except KeyboardInterrupt:
        console.print(f"interrupted: {len(finished)} of {len(names)} experiments were measured and kept in {folder}")
        return EXIT_INTERRUPTED
    except OSError as error:
        options.error(f"--out: cannot write to {folder}: {error.strerror}")
    pictures = ", ".join(f"{name}.svg" for name in finished)
    console.print(f"written to {folder}: {FILE}, {pictures}", soft_wrap=True)
    console.print(f"took {time.perf_counter() - started:.0f} s")
    return EXIT_OK


def open_benchmark(name: str, dtype: torch.dtype, folder: Path) -> None:
    """What a run of the benchmark begins with: the three convolutions, with warm caches, in a few seconds."""
    from convbound.bench.experiments import show
    from convbound.bench.experiments.catalogue import EXPERIMENTS
    from convbound.bench.experiments.run import Run

    console = terminal()
    three = dataclasses.replace(EXPERIMENTS["three"], caches=("warm",))
    run = Run(find_device(name), dtype, folder)
    points = run.add(three, _OPENING_SECONDS, bar(console))
    show.draw(three, points, run.record, folder / "three.svg")
    show.print_experiment(three, points, run.record, console)


def _predict(points: Points, gpu: str, console: Console) -> None:
    """Print what binds each single convolution on a GPU."""
    from convbound.bench.experiments.predict import predictions

    for line in predictions(points, gpu):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    console.print()


def _show_file(options: Parser, args: argparse.Namespace, names: list[str], console: Console) -> None:
    from convbound.bench.experiments import show
    from convbound.bench.experiments.catalogue import EXPERIMENTS
    from convbound.bench.experiments.run import read

    with refusing(options):
        record: Record = read(args.file)
        if missing := [name for name in names if name not in record.points]:
            raise ValueError(f"{args.file} has no experiment {missing[0]}; it has {', '.join(record.points)}")
        chosen = [EXPERIMENTS[name] for name in names or record.points if name in EXPERIMENTS]
        for experiment in chosen:
            show.print_experiment(experiment, record.points[experiment.name], record, console)
            if args.predict:
                _predict(record.points[experiment.name], args.predict, console)
        if args.docs:
            show.write_page(chosen, record, args.docs)
