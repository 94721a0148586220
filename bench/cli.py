"""The command line: ``python -m convbound.bench [run options]``, ``… report FILE`` and the smaller commands."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from convbound.bench.arguments import (
    MOST_BATCH,
    MOST_THREADS,
    PROGRAM,
    backend,
    device,
    made_folder,
    one_of,
    path,
    positive,
    problem,
    refusing,
    require_extras,
    sizes,
)
from convbound.bench.auto import AUTO
from convbound.bench.commands import means_command, train_command, tune_command
from convbound.bench.experiments.command import experiment_command, open_benchmark
from convbound.bench.plan import TARGET_SECONDS, Options, layers
from convbound.bench.progress import Lines, bar, terminal
from convbound.bench.rivals import INDUCTOR, TORCH, usual_rivals
from convbound.bench.tables import Tier, load_models, load_suites, usual_models
from convbound.choice.backends import backends, our_backends, refusal
from convbound.command_line import EXIT_FAILED_ROWS, EXIT_INTERRUPTED, EXIT_OK, Parser
from convbound.devices import NAMES, default_device, find_device
from convbound.gpus import DEFAULT_GPU, NAMED_GPUS, OWN_GPU, find_gpu
from convbound.problem import LAYOUTS, NAMED_DTYPES, PASSES
from convbound.profile_report import Profile
from convbound.untrusted import printable, replace_text

RUN_HELP = """\
Time convbound's kernels against PyTorch's on the depthwise, grouped, dilated and transposed layers of real models, on
the GPU where torch sees one, else on the CPU.

Every result is checked against fp64 before it is timed. Contenders are timed interleaved (A B B A), with cold caches,
and set against this machine's copy bandwidth and matrix product, which are measured first. Rows are written as they are
measured: an interrupted run (Ctrl-C) keeps them and still writes its report.
"""
RUN_EXAMPLES = f"""\
examples:
  {PROGRAM}                                      most layers, in under 3 minutes
  {PROGRAM} --quick                              a few layers of each kind, in under a minute
  {PROGRAM} --suite convnext_t dcgan --full      every layer of two models
  {PROGRAM} --suite dimensions                   a list of 1-D and 3-D layers; --list-suites names all
  {PROGRAM} --pass wgrad --layout NHWC           one pass in one layout
  {PROGRAM} --problem mb8g144ic144ih56oc144kh3ph1   what serves it, by auto, and what our kernels do
  {PROGRAM} --backend torch --quick              how far torch alone is from the roofs
  {PROGRAM} --model model.py:net --input 8,3,224,224    a model of yours: its layers and its profile
  {PROGRAM} --trace --problem mb1g144ic144ih56oc144kh3ph1 --gpu A100
  {PROGRAM} report results/2025-01-31-120000/result.json --readme README.md

`{PROGRAM} report --help` tells how to redraw the table and the picture of a run, `{PROGRAM} tune --help` how
to time the alternatives of the table of Triton kernels, `{PROGRAM} train --help` how to time training steps.
"""
REPORT_HELP = (
    "Print what a result file comes to, write its long table (table.txt) and draw its roofline, both beside it. With "
    "--readme the results block of a README is rewritten instead of the table."
)
REPORT_EXAMPLES = f"""\
examples:
  {PROGRAM} report results/2025-01-31-120000/result.json
  {PROGRAM} report results/2025-01-31-120000/rows.jsonl        of a run that was killed
  {PROGRAM} report bench/results/cpu.json --readme README.md   and docs/roofline.png beside it
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 for failed rows, 2 for a bad argument, 130 when interrupted."""
    started = time.perf_counter()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in COMMANDS:
        return COMMANDS[arguments[0]](arguments[1:], started)
    return run_command(arguments, started)


def run_parser() -> Parser:
    """The options of a run."""
    parser = Parser(
        prog=PROGRAM, description=RUN_HELP, epilog=RUN_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a few layers of each kind, in under a minute")
    size.add_argument(
        "--full", action="store_true", help="every layer of the same models, each with its full share of time"
    )
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--suite",
        nargs="+",
        action="extend",
        type=one_of("suite", list(load_suites())),
        metavar="NAME",
        help=f"models ({', '.join(load_models())}) or lists of problems, which --list-suites names "
        f"(default: {', '.join(usual_models())})",
    )
    what.add_argument(
        "--problem",
        nargs="+",
        type=problem,
        metavar="TEXT",
        help="problems instead of models' layers (or besides, with --suite), like mb8g144ic144ih56oc144kh3sh2ph1",
    )
    what.add_argument(
        "--model",
        metavar="PLACE",
        help="the convolutions of a model of yours: module:callable or path/to/file.py:callable, a torch.nn.Module or "
        "a function that returns one",
    )
    what.add_argument(
        "--input",
        nargs="+",
        type=sizes,
        metavar="SIZES",
        help="shapes of the arguments of --model, such as 8,3,224,224; random numbers of the first --dtype",
    )
    what.add_argument(
        "--transposed", action="store_true", help="take each --problem as the one that a transposed layer transposes"
    )
    what.add_argument(
        "--pass", nargs="+", dest="passes", type=one_of("pass", PASSES), metavar="PASS", help="fprop, dgrad, wgrad"
    )
    what.add_argument("--layout", nargs="+", type=one_of("layout", LAYOUTS), metavar="LAYOUT", help="NCHW, NHWC")
    what.add_argument(
        "--dtype",
        nargs="+",
        type=one_of("dtype", list(NAMED_DTYPES)),
        metavar="DTYPE",
        help="fp32 (default on a CPU), fp16 (default on a GPU), bf16, fp64",
    )
    what.add_argument(
        "--device", type=device, metavar="DEVICE", help=f"{', '.join(NAMES)} (default: a GPU if there is one)"
    )
    what.add_argument(
        "--backend",
        nargs="+",
        type=backend,
        metavar="BACKEND",
        help=f"{', '.join(our_backends(default_device()))}; auto, which takes ours or torch for each pass; or torch, "
        "which is measured in any case, and alone where it is named alone (default: ours, and auto with --problem)",
    )
    what.add_argument(
        "--inductor", action="store_true", help="torch.compile competes too; it compiles seconds for each row"
    )
    what.add_argument(
        "--batch", type=positive(int, MOST_BATCH), metavar="N", help="batch of the models' layers (default: per model)"
    )
    how = parser.add_argument_group("how it is measured")
    how.add_argument("--threads", type=positive(int, MOST_THREADS), metavar="N", help="threads (default: torch's)")
    how.add_argument("--warm", action="store_true", help="leave data in the caches between calls")
    how.add_argument(
        "--time", type=positive(float), metavar="SECONDS", help="aim at this run time; slow kernels may exceed it"
    )
    traffic = parser.add_argument_group("memory traffic, counted instead of timed")
    traffic.add_argument("--trace", action="store_true", help="count the CUDA kernels' traffic in the emulator")
    traffic.add_argument(
        "--gpu",
        default=DEFAULT_GPU,
        metavar="GPU",
        help=f"{NAMED_GPUS}; or your own: {OWN_GPU} (default: {DEFAULT_GPU})",
    )
    traffic.add_argument(
        "--kernel", metavar="NAME", help="such as naive, or triton (default: the one that would serve)"
    )
    traffic.add_argument("--document", metavar="FILE#NAME", help="rewrite the table between the markers NAME of FILE")
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=path, metavar="DIR", help="folder for the results (default: results/<date-time>)")
    output.add_argument("--table", action="store_true", help="print the long table too, which goes to table.txt")
    output.add_argument(
        "--plain", action="store_true", help="only measure and write the rows: needs neither rich nor matplotlib"
    )
    output.add_argument("--list-suites", action="store_true", help="print what --suite can name, and stop")
    output.add_argument("--list", action="store_true", help="print the layers that would be measured, and stop")
    return parser


def report_parser() -> Parser:
    """The options of ``report``."""
    parser = Parser(
        prog=f"{PROGRAM} report",
        description=REPORT_HELP,
        epilog=REPORT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=path, metavar="RESULT", help="result.json, or the rows.jsonl of a killed run")
    parser.add_argument(
        "--plot", type=path, metavar="PNG", help="where to draw the roofline (default: beside the result)"
    )
    parser.add_argument(
        "--readme",
        type=path,
        metavar="FILE",
        help="rewrite the results block of FILE, with docs/roofline.png beside it",
    )
    parser.add_argument("--table", action="store_true", help="print the long table too, which goes to table.txt")
    return parser


def run_command(arguments: Sequence[str], started: float) -> int:
    """Measure, then report."""
    parser = run_parser()
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.list_suites:
        print_suites()
        return EXIT_OK
    options = _options(parser, args)
    found = None
    if args.model or args.input:
        options, found = _record(parser, args, options)
    if args.list:
        print_layers(options)
        _print_profile(found)
        return EXIT_OK
    if not args.plain or args.trace:
        require_extras(parser)
    folder = made_folder(parser, args.out)
    if args.trace:
        return _trace(parser, args, options, folder)
    from convbound.bench.runner import INTERRUPTED, run

    file = folder / "result.json"
    try:
        if not (args.problem or args.suite or args.model or args.plain):
            open_benchmark(options.device, options.dtypes[0], folder)
        result = run(options, folder, Lines() if args.plain else bar(terminal()), started)
        result.write_json(file)
        if found is not None:
            found.to_csv(folder / "profile.csv")
    except OSError as error:  # such as a full disk; the rows that found room are kept
        parser.error(f"--out: cannot write to {folder}: {error.strerror}")
    if result.rows and not args.plain:
        _show(parser, file, folder / "roofline.png", table=folder / "table.txt", whole=args.table)
    _print_profile(found)
    if not result.complete:
        print(f"{result.ended}: {len(result.rows)} rows were measured and kept")
    print(f"written to {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    print(f"took {time.perf_counter() - started:.0f} s")
    if result.ended == INTERRUPTED:
        return EXIT_INTERRUPTED
    return EXIT_OK if result.complete and all(row.ok for row in result.rows) else EXIT_FAILED_ROWS


def report_command(arguments: Sequence[str], started: float) -> int:
    """Show a result file again."""
    del started
    parser = report_parser()
    args = parser.parse_args(arguments)
    require_extras(parser)
    beside_readme = args.readme.parent / "docs" / "roofline.png" if args.readme else None
    if beside_readme is not None and beside_readme.parent.is_symlink():
        parser.error(f"--readme: {beside_readme.parent} is a symbolic link; --plot names another place for the picture")
    picture = args.plot or beside_readme or args.file.with_name("roofline.png")
    table = None if args.readme else args.file.with_name("table.txt")
    written = _show(parser, args.file, picture, args.readme, table=table, whole=args.table)
    print(f"written: {', '.join(printable(str(path)) for path in written)}")
    return EXIT_OK


COMMANDS: dict[str, Callable[[Sequence[str], float], int]] = {
    "run": run_command,
    "report": report_command,
    "means": means_command,
    "tune": tune_command,
    "train": train_command,
    "experiment": experiment_command,
}


def print_suites() -> None:
    """Print every suite with its title."""
    width = max(map(len, load_suites()))
    for name, suite in load_suites().items():
        print(f"{name:{width}}  {'model' if suite.is_model else 'list '}  {len(suite.layers):3} layers  {suite.title}")


def print_layers(options: Options) -> None:
    """Print the layers of a run, and where they come from."""
    chosen = layers(options)
    suites = load_suites()
    width = max((len(layer.name) for layer in chosen), default=0)
    for name in dict.fromkeys(layer.model for layer in chosen):
        if name in suites:
            print(f"{name}: {suites[name].title}")
            if suites[name].is_model:
                print(f"  paper: {suites[name].paper}\n  code:  {suites[name].code}")
        for layer in (layer for layer in chosen if layer.model == name):
            transposed = "  transposed" if layer.transposed else ""
            print(f"  {layer.name:{width}}  x{layer.count:<2} {layer.problem.family:9}  {layer.problem}{transposed}")
    combinations = len(options.passes) * len(options.layouts) * len(options.dtypes)
    print(
        f"{len(chosen)} layers x {len(options.passes)} passes x {len(options.layouts)} layouts x {len(options.dtypes)} "
        f"dtypes: {len(chosen) * combinations} comparisons of {', '.join(options.backends) or 'nothing of ours'} with "
        f"{', '.join(options.rivals)} on {options.device}"
    )


def _options(parser: Parser, args: argparse.Namespace) -> Options:
    size: Tier = "quick" if args.quick else "full" if args.full else "default"
    # A suite that is asked for by name is measured whole, unless the run is to be quick.
    tier: Tier = "full" if args.suite and not args.quick else size
    if args.transposed and not args.problem:
        parser.error("--transposed: says how to read --problem, which is missing")
    for given in args.problem or ():
        if args.transposed and any(begin != end for begin, end in given.padding):
            parser.error(f"--transposed: torch pads both ends alike, but {given} has padding={given.padding}")
    suites = args.suite or ([] if args.problem or args.model else usual_models())
    chosen = args.device or default_device()
    # Of a problem of his own a user wants to know what serves it; of a suite, what our kernels do.
    if not (names := args.backend or [*([AUTO] if args.problem else ()), *our_backends(chosen)]):
        reasons = "; ".join(f"{b.name}: {b.absent}" for b in backends() if chosen in b.devices and b.absent)
        parser.error(f"--backend: no backend of convbound is available on {chosen} ({reasons})")
    for name in (name for name in names if name != AUTO):
        if why := refusal(name, chosen):
            parser.error(f"--backend: {name} {why}; --device chooses the device")
    found = find_device(chosen)
    return Options(
        tier=tier,
        suites=tuple(dict.fromkeys(suites)),
        problems=tuple(args.problem or ()),
        transposed=args.transposed,
        passes=tuple(dict.fromkeys(args.passes or PASSES)),
        layouts=tuple(dict.fromkeys(args.layout or LAYOUTS)),
        dtypes=tuple(NAMED_DTYPES[name] for name in dict.fromkeys(args.dtype)) if args.dtype else (found.dtype,),
        device=chosen,
        backends=tuple(name for name in dict.fromkeys(names) if name != TORCH),
        rivals=(*usual_rivals(chosen), *([INDUCTOR] if args.inductor else ())),
        batch=args.batch,
        target_seconds=args.time or TARGET_SECONDS[size],
        cold=not args.warm,
        overhead=not (args.problem or args.model) and set(suites) <= load_models().keys(),
    )


def _record(parser: Parser, args: argparse.Namespace, options: Options) -> tuple[Options, Profile]:
    """The options with the layers of --model, and its profile."""
    from convbound.bench.models import recorded

    if not args.model:
        parser.error("--input: gives the shapes of --model's arguments, and --model is missing")
    if not args.input:
        parser.error("--model: needs --input, the shapes of its arguments, such as --input 8,3,224,224")
    if args.batch and not args.suite:
        parser.error(f"--batch: {args.batch} is for suites; the batch of --model is a size of its --input")
    with refusing(parser):
        suite, found = recorded(
            args.model,
            args.input,
            device=options.device,
            dtype=options.dtypes[0],
            gpu=args.gpu,
            measure=not (args.list or args.trace),
        )
    return dataclasses.replace(options, models=(suite,)), found


def _print_profile(found: Profile | None) -> None:
    if found is not None:
        print("\n".join(map(printable, str(found).split("\n"))))


def _trace(parser: Parser, args: argparse.Namespace, options: Options, folder: Path) -> int:
    from convbound.bench.traces import rewrite_table, trace_all

    console = terminal()
    try:
        find_gpu(args.gpu)  # rather now than with the first row
        rows = trace_all(options, args.gpu, args.kernel, folder, console)
        if args.document:
            rewrite_table(args.document, rows)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    console.print(f"written to {folder / 'traces.json'}", soft_wrap=True)
    return EXIT_OK if all(row.kernel for row in rows) else EXIT_FAILED_ROWS


def _show(
    parser: Parser, file: Path, picture: Path, readme: Path | None = None, *, table: Path | None, whole: bool
) -> list[Path]:
    """Print and draw a result file, and write its long table; `whole` prints that too.

    README is last, so that it never points to a picture that is missing. Returns the files that were written.
    """
    from convbound.bench.plot import draw_roofline
    from convbound.bench.report import print_screen, print_table, rewrite_readme, table_text
    from convbound.bench.rows import read_result

    written = []
    with refusing(parser):
        result = read_result(file)
        if whole:
            print_table(result, terminal())
        print_screen(result, terminal())
        if table is not None:
            replace_text(table, table_text(result))
            written.append(table)
        picture.parent.mkdir(parents=True, exist_ok=True)
        if any(row.gflops for row in result.rows):
            draw_roofline(result, picture)
            written.append(picture)
        if readme is not None:
            rewrite_readme(readme, result, picture)
            written.append(readme)
    return written
