"""The smaller commands: ``means``, ``tune`` and ``train``."""

from __future__ import annotations

import importlib.util
import itertools
import time
from collections.abc import Sequence

import torch

from convbound import _library
from convbound.bench.arguments import (
    MOST_BATCH,
    PROGRAM,
    one_of,
    path,
    positive,
    problem,
    refusing,
    require_extras,
    results_folder,
)
from convbound.bench.progress import Lines
from convbound.command_line import EXIT_FAILED_ROWS, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, Parser
from convbound.devices import default_device, find_device
from convbound.failures import failure, is_out_of_memory
from convbound.problem import LAYOUTS, NAMED_DTYPES, PASSES

MEANS_HELP = "Rewrite a document's table of mean speed-ups by kind of layer from the result files of some runs."


def means_command(arguments: Sequence[str], started: float) -> int:
    """Rewrite a document's table of means."""
    del started
    parser = Parser(prog=f"{PROGRAM} means", description=MEANS_HELP)
    parser.add_argument("document", type=path, metavar="DOCUMENT", help="such as docs/tables/cpu.md")
    parser.add_argument("files", type=path, nargs="+", metavar="RESULT", help="result.json of some runs")
    args = parser.parse_args(arguments)
    require_extras(parser)
    from convbound.bench.means import rewrite
    from convbound.bench.rows import read_result

    with refusing(parser):
        rewrite(args.document, [read_result(file) for file in args.files])
    return EXIT_OK


def tune_parser() -> Parser:
    """The options of ``tune``."""
    parser = Parser(
        prog=f"{PROGRAM} tune",
        description="Time the rows of the table of Triton kernels that serve a problem, with their tiles and those "
        "around them, on the GPU. The table itself is changed by hand: kernels/table.py.",
    )
    parser.add_argument("--problem", nargs="+", type=problem, metavar="TEXT", required=True)
    parser.add_argument("--pass", nargs="+", dest="passes", type=one_of("pass", PASSES), default=PASSES, metavar="PASS")
    parser.add_argument("--layout", nargs="+", type=one_of("layout", LAYOUTS), default=LAYOUTS, metavar="LAYOUT")
    dtype = one_of("dtype", list(NAMED_DTYPES))
    parser.add_argument("--dtype", nargs="+", type=dtype, default=["fp16"], metavar="DTYPE")
    return parser


def tune_command(arguments: Sequence[str], started: float) -> int:
    """Time the alternatives of the static table."""
    parser = tune_parser()
    args = parser.parse_args(arguments)
    if why := _library.ABSENT["triton"]:
        parser.error(f"there are no Triton kernels to time: {why}")
    if not torch.cuda.is_available():
        parser.error(f"times Triton kernels on a GPU, and torch {torch.__version__} sees none here")
    from convbound.bench.tune import report, search
    from convbound.kernels.launch import architecture

    device = torch.device("cuda", torch.cuda.current_device())
    timer = find_device("cuda").timer(cold=False)
    failed, done = False, 0
    cases = list(itertools.product(args.problem, args.dtype, args.layout, args.passes))
    progress = Lines()
    progress.total(len(cases))
    try:
        for what, name, layout, pass_ in cases:
            progress.step(f"{what} {pass_} {name} {layout}")
            try:
                timings = search(what, pass_, NAMED_DTYPES[name], layout, device, architecture(device), timer)
            except RuntimeError as error:
                failed = True
                print(f"  FAILED {failure(error, what, NAMED_DTYPES[name])}")
            else:
                print("\n".join(report(timings)), flush=True)
            progress.advance()
            done += 1
    except KeyboardInterrupt:
        print(f"interrupted: {done} of {len(cases)} problems were timed, as above")
        return EXIT_INTERRUPTED
    print(f"took {time.perf_counter() - started:.0f} s")
    return EXIT_FAILED_ROWS if failed else EXIT_OK


def train_parser() -> Parser:
    """The options of ``train``."""
    from convbound.bench.training import MODELS

    parser = Parser(
        prog=f"{PROGRAM} train",
        description="Time a training step of whole models with and without convbound.replace_convs, in turns, on the "
        f"GPU where torch sees one, else on the CPU. The models are those of transformers: {', '.join(MODELS)}.",
    )
    parser.add_argument("--model", nargs="+", type=one_of("model", list(MODELS)), default=list(MODELS), metavar="MODEL")
    parser.add_argument("--layout", nargs="+", type=one_of("layout", LAYOUTS), default=LAYOUTS, metavar="LAYOUT")
    parser.add_argument("--batch", type=positive(int, MOST_BATCH), default=8, metavar="N", help="images (default: 8)")
    parser.add_argument(
        "--time", type=positive(float), default=20.0, metavar="S", help="seconds per model and layout (default: 20)"
    )
    parser.add_argument(
        "--document", type=path, metavar="FILE", help="rewrite the table between its <!-- training --> markers"
    )
    parser.add_argument(
        "--out", type=path, metavar="DIR", help="folder for steps.jsonl (default: results/<date-time>-train)"
    )
    return parser


def train_command(arguments: Sequence[str], started: float) -> int:
    """Time training steps."""
    parser = train_parser()
    args = parser.parse_args(arguments)
    if importlib.util.find_spec("transformers") is None:
        parser.exit(EXIT_USAGE, f"{parser.prog} needs transformers: pip install 'convbound[test]'\n")
    from convbound.bench import training
    from convbound.bench.report import replace_between
    from convbound.timing import CpuTimer

    device = torch.device(default_device())
    folder = args.out or results_folder("-train")
    progress = Lines()
    progress.total(len(args.model) * len(args.layout))
    steps: list[training.Step] = []
    interrupted = False
    try:
        file = training.StepWriter(folder)
        timer = CpuTimer(cold=False)
        for step in training.measure(args.model, args.layout, args.batch, args.time, device, timer, progress):
            steps.append(step)
            file.append(step)
            print(f"  torch {1e3 * step.torch:.0f} ms, ours {1e3 * step.ours:.0f} ms: {step.speedup:.2f}x", flush=True)
    except KeyboardInterrupt:
        interrupted = True
    except OSError as error:
        parser.error(f"--out: cannot write to {folder}: {error.strerror or error}")
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        parser.error(f"--batch: out of memory for two models and {args.batch} images: {error}")
    table = training.markdown(steps, args.batch)
    if steps:
        print(f"\n{table}")
    if interrupted:
        # A document keeps the whole table that it has.
        print(f"interrupted: {len(steps)} steps were measured and kept in {folder / training.FILE}")
        return EXIT_INTERRUPTED
    if args.document is not None:
        marker = training.TRAINING
        with refusing(parser):
            replace_between(args.document, f"<!-- {marker}:start -->", f"<!-- {marker}:end -->", table)
    print(f"written: {folder / training.FILE}")
    print(f"took {time.perf_counter() - started:.0f} s")
    return EXIT_OK
