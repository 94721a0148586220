"""Compile the Triton kernels for GPUs that are not there, and show what came out: ``python -m convbound.kernels.aot``.

Every row of the table is compiled with and without each of Triton's specialisations, for an integer argument of 1 is
a constant to it, and one divisible by 16 makes vector accesses possible: a launch may meet any combination.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import triton
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend

from convbound.kernels import machine_code
from convbound.kernels.launch import Launch
from convbound.kernels.machine_code import Counts, MachineCode
from convbound.kernels.table import KERNELS, Kernel, select
from convbound.problem import DTYPE_NAMES, ConvProblem

ARCHITECTURES = (80, 90, 100)
# Of the arguments that are divisible by 16, or 1, Triton knows: none, the former, the latter, both.
SPECIALISATIONS = ("none", "div16", "eq1", "div16+eq1")
# All sizes divisible by 16, and strides and dilations of 1, so that each specialisation has something to act on; then a
# strided filter with a multiplier, and a causal filter in one dimension. After the depthwise ones a dense, a strided
# and a grouped one.
PROBLEMS = (
    "mb16g32ic32ih64oc32kh3ph1",
    "mb16g32ic32ih64oc64kh7sh2ph3dh2",
    "mb16g64ic64iw256oc64kw4pw3ew0",
    "mb16ic256ih32oc256kh3ph1",
    "mb16ic256ih32oc256kh3sh2ph1",
    "mb16g32ic128ih32oc128kh3ph1",
)
SECONDS_BETWEEN_NOTES = 5


@dataclass(frozen=True)
class Job:
    """One kernel to compile: which, for what, with what Triton is told about its arguments."""

    row: str
    launch: Launch
    dtype: str
    problem: str
    arch: int
    specialised: str
    source: ASTSource

    def __str__(self) -> str:
        kernel = f"{self.launch.kernel.__name__} of {self.row}"
        return f"{kernel} for sm_{self.arch}, {self.dtype}, {self.problem}, specialised {self.specialised}"


@dataclass(frozen=True)
class Record:
    """One compiled kernel: which, for what, and what it is made of. `shared` is in bytes per program.

    `least_registers` is what its launch assumes.
    """

    row: str
    kernel: str
    arch: int
    dtype: str
    problem: str
    specialised: str
    warps: int
    least_registers: int
    shared: int
    code: MachineCode


def source(launch: Launch, specialised: str) -> ASTSource:
    """What Triton would compile at this launch, if it knew no more than the given specialisations."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for index, name in enumerate(launch.kernel.arg_names):
        divisible = True
        if name.removesuffix("_ptr") in launch.tensors:
            dtype = launch.tensors[name.removesuffix("_ptr")]
            value = None
            signature[name] = "constexpr" if dtype is None else f"*{DTYPE_NAMES[dtype]}"
        elif name in launch.sizes:
            value = launch.sizes[name]
            divisible = value % 16 == 0
            signature[name] = "constexpr" if value == 1 and "eq1" in specialised else "i32"
        else:
            value = launch.constants[name]
            signature[name] = "constexpr"
        if signature[name] == "constexpr":
            constants[(index,)] = value
        elif divisible and "div16" in specialised:
            attributes[(index,)] = [["tt.divisibility", 16]]
    return ASTSource(launch.kernel, signature, constants, attributes)


def jobs(options: argparse.Namespace) -> list[Job]:
    """What there is to compile, and nothing twice: a specialisation may have nothing to act on."""
    rows = [row for row in KERNELS if any(text in row.name for text in options.kernel)]
    dtypes = [dtype for dtype, name in DTYPE_NAMES.items() if name in options.dtype]
    found: dict[Any, Job] = {}
    for row, problem, dtype, arch in itertools.product(rows, options.problem, dtypes, options.arch):
        if not row.serves(problem, row.pass_, dtype, row.layout, arch):
            continue
        if options.selected and row is not select(problem, row.pass_, dtype, row.layout, arch):
            continue
        for launch in row.plan(problem, dtype, bias=not options.without_bias).launches:
            for specialised in options.specialised:
                if row.aligned and "div16" not in specialised:
                    continue  # Its channels are divisible by 16; in NHWC it does not matter whether other sizes are.
                wanted = source(launch, specialised)
                job = Job(row.name, launch, DTYPE_NAMES[dtype], str(problem), arch, specialised, wanted)
                found.setdefault((wanted.hash(), launch.warps, launch.stages, arch), job)
    return list(found.values())


def compiled(job: Job) -> Record:
    """Compile, and take the result apart.

    Raises
    ------
    RuntimeError
        Where Triton or ptxas fails, with the name of the job.
    """
    try:
        binary = triton.compile(job.source, target=GPUTarget("cuda", job.arch, 32), options=job.launch.options)
    except Exception as error:
        raise RuntimeError(f"{job} does not compile: {error}") from error
    code = machine_code.read(binary.asm["cubin"], binary.asm["ptx"])
    names = (job.row, job.launch.kernel.__name__, job.arch, job.dtype, job.problem, job.specialised)
    return Record(*names, job.launch.warps, job.launch.registers, binary.metadata.shared, code)


def parse(job: Job) -> None:
    """Turn a kernel's text into Triton's own representation and no further: a tenth of the time of compiling it.

    Raises
    ------
    RuntimeError
        Where Triton does not take the text, with the name of the job.
    """
    target = GPUTarget("cuda", job.arch, 32)
    backend = make_backend(target)
    options = backend.parse_options(dict(job.launch.options))
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    functions, modules = backend.get_codegen_implementation(options), backend.get_module_map()
    try:
        job.source.make_ir(target, options, functions, modules, context)
    except Exception as error:
        # Of functions that call one another, the innermost knows what is wrong.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise RuntimeError(f"{job} does not compile: {cause}") from error


def noted(wanted: Sequence[Job]) -> Iterator[Job]:
    """The same jobs, with a note on stderr of how far it is every few seconds."""
    last = time.monotonic()
    for done, job in enumerate(wanted):
        if time.monotonic() - last > SECONDS_BETWEEN_NOTES:
            print(f"{done} of {len(wanted)} kernels compiled", file=sys.stderr, flush=True)
            last = time.monotonic()
        yield job


HEADING = (
    f"{'row':28} {'kernel':20} {'arch':>4} {'dtype':5} {'problem':32} {'specialised':10}{'regs':>4} {'spills':>6} "
    f"{'local':>6} {'shared':>7}{'SASS':>6}  {'loads by bytes':20} {'stores':12} tensor core"
)


def line(record: Record) -> str:
    """One line of the table."""
    code = record.code
    spills, local = code.spill_loads + code.spill_stores, code.local + code.stack
    return (
        f"{record.row:28} {record.kernel:20} {record.arch:4} {record.dtype:5} {record.problem:32} "
        f"{record.specialised:10}{code.registers:5} {spills:6} {local:6} {record.shared:7}"
        f"{code.instructions:6}  {_write(code.loads):20} {_write(code.stores):12} {_write(code.tensor_core)}"
    )


def _write(counts: Counts) -> str:
    return " ".join(f"{kind}:{count}" for kind, count in counts.items()) or "-"


def report(*arguments: str) -> list[dict[str, Any]]:
    """The records as dictionaries, compiled by a process of its own, which does not interpret."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "convbound.kernels.aot", "--json", *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr}")
    return list(json.loads(result.stdout))


def resources(row: Kernel, problem: ConvProblem, dtype: torch.dtype, arch: int) -> list[tuple[int, int]]:
    """Shared memory of a block in bytes and registers of a thread, of each launch of a row, compiled for a GPU.

    As for tensors whose addresses are divisible by 16, without a bias.
    """
    where = ["--arch", str(arch), "--dtype", DTYPE_NAMES[dtype], "--problem", str(problem)]
    records = report("--kernel", row.name, *where, "--specialised", "div16+eq1", "--without-bias")
    return [(record["shared"], record["code"]["registers"]) for record in records if record["row"] == row.name]


def parser() -> argparse.ArgumentParser:
    """The command line."""

    def architecture(text: str) -> int:
        number = text.removeprefix("sm_")
        if not number.isdigit():
            raise argparse.ArgumentTypeError(f"{text!r} is no architecture; write 90 or sm_90")
        return int(number)

    def problem(text: str) -> ConvProblem:
        try:
            return ConvProblem.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    parser = argparse.ArgumentParser(
        prog="python -m convbound.kernels.aot",
        description="Compile the Triton kernels for GPUs that need not be there, and show registers, spills, shared "
        "memory, instructions, access widths and tensor-core instructions of each. A kernel takes about a second.",
    )
    dtypes = list(DTYPE_NAMES.values())
    parser.add_argument(
        "--kernel", nargs="+", default=[""], metavar="TEXT", help="only rows whose name contains one of these"
    )
    parser.add_argument(
        "--arch",
        type=architecture,
        nargs="+",
        default=ARCHITECTURES,
        metavar="SM",
        help=f"such as 90 or sm_90; {' '.join(map(str, ARCHITECTURES))} by default",
    )
    parser.add_argument("--dtype", nargs="+", default=["fp16"], choices=dtypes, help="fp16 by default")
    parser.add_argument(
        "--problem",
        type=problem,
        nargs="+",
        default=[ConvProblem.parse(text) for text in PROBLEMS],
        metavar="PROBLEM",
        help=f"whose sizes the kernels are compiled for; by default {' '.join(PROBLEMS)}",
    )
    parser.add_argument(
        "--specialised",
        nargs="+",
        default=SPECIALISATIONS,
        choices=SPECIALISATIONS,
        help="what Triton knows about integer arguments: which are divisible by 16, which are 1; all by default",
    )
    parser.add_argument("--selected", action="store_true", help="only rows that the table would select for a problem")
    parser.add_argument("--without-bias", action="store_true", help="without a bias, and in wgrad without its gradient")
    parser.add_argument(
        "--parse",
        action="store_true",
        help="only see whether Triton takes the kernels' text, in a tenth of the time, and print their number",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, PTX access forms included, not a table")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    command = parser()
    options = command.parse_args(arguments)
    if triton.knobs.runtime.interpret:
        command.error("unset TRITON_INTERPRET: a kernel that was decorated to be interpreted cannot be compiled")
    wanted = jobs(options)
    if not wanted:
        command.error(f"no row serves that; the rows are {', '.join(row.name for row in KERNELS)}")
    if options.parse:
        for job in noted(wanted):
            parse(job)
        print(f"{len(wanted)} kernels parsed")
        return 0
    if options.json:
        print(json.dumps([asdict(compiled(job)) for job in noted(wanted)], indent=1))
        return 0
    print(f"{len(wanted)} kernels to compile", file=sys.stderr, flush=True)
    print(HEADING)
    for job in wanted:
        print(line(compiled(job)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
