"""``python -m convbound``: versions, compiled parts and devices, to paste into a bug report.

``python -m convbound explain PROBLEM`` shows which kernel would serve a problem, here or on another GPU, ``python -m
convbound trace PROBLEM`` the memory traffic of a CUDA kernel, and ``python -m convbound tuning`` what ``auto`` has
measured on this machine.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys

import torch

import convbound
from convbound import _library, choice
from convbound.choice import backends, cache
from convbound.command_line import Parser
from convbound.explanation import explain
from convbound.gpus import DEFAULT_GPU, NAMED_GPUS, OWN_GPU
from convbound.machine import cpu_name
from convbound.prediction import predict
from convbound.problem import DTYPE_NAMES, LAYOUTS, NAMED_DTYPES, PASSES
from convbound.trace_picture import picture_path
from convbound.tracing import trace
from convbound.untrusted import printable


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _gpus() -> list[str]:
    if torch.cuda.is_available():
        return [
            f"cuda:{i}  {torch.cuda.get_device_name(i)}, compute capability "
            f"{'.'.join(map(str, torch.cuda.get_device_capability(i)))}"
            for i in range(torch.cuda.device_count())
        ]
    if shutil.which("nvidia-smi") and subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0:
        return [
            f"an NVIDIA GPU is present, but this torch ({torch.__version__}) cannot use it: "
            "install a CUDA build of torch that fits the driver"
        ]
    return ["no NVIDIA GPU"]


def report() -> str:
    """All of it as text."""
    info = _library.build_info()
    lines = [
        f"convbound   {convbound.__version__} in {_library.PACKAGE}",
        f"python      {platform.python_version()} on {platform.platform()}",
        f"torch       {torch.__version__} (CUDA {torch.version.cuda or 'none'}), "
        f"triton {_version('triton')}, pybind11 {_version('pybind11')}",
        f"built       {info.get('compiler', 'nothing')} against torch {info.get('torch', '-')}, "
        f"sources {info.get('source_hash', '-')}"
        + (f", nvcc {info['cuda']['nvcc']} for {' '.join(info['cuda']['architectures'])}" if "cuda" in info else ""),
        f"cpu         {cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {backends.CPU_ISA}",
        *(f"gpu         {gpu}" for gpu in _gpus()),
        f"default     backend={backends.default_backend()!r}"
        + (f" ({backends.ENVIRONMENT_VARIABLE} is set)" if os.environ.get(backends.ENVIRONMENT_VARIABLE) else ""),
        f"tuning      {choice.state()}",
    ]
    for backend in backends.backends():
        state = "available" if backend.available else f"absent: {backend.absent}"
        lines.append(f"  {backend.name:6}    {backend.kernels}, on {' and '.join(backend.devices)}: {state}")
    if _library.OUTDATED is not None:
        lines.append(f"  outdated  {_library.OUTDATED}")
    if isinstance(_library.introspect, str):
        lines.append(f"  explain   absent: {_library.introspect}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser(prog="python -m convbound", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    explained = commands.add_parser("explain", help="which kernel would serve a problem, and why")
    traced = commands.add_parser("trace", help="the memory traffic of a CUDA kernel, counted in the emulator")
    for command in (explained, traced):
        command.add_argument("problem", help="a problem string such as mb8g144ic144ih56oc144kh3sh2ph1")
        command.add_argument("--dtype", choices=DTYPE_NAMES.values(), default="fp32")
        command.add_argument("--layout", choices=LAYOUTS, default="NCHW")
    explained.add_argument("--device", metavar="cpu|cuda", help="default: cuda with --arch, or where there is a GPU")
    explained.add_argument(
        "--arch", metavar="GPU", help=f"a GPU that need not be there: {NAMED_GPUS}; or your own: {OWN_GPU}"
    )
    explained.add_argument(
        "--compile", action="store_true", help="compile Triton's kernels for their registers and shared memory"
    )
    explained.add_argument("--backend", choices=backends.NAMES, default=None)
    traced.add_argument("--pass", dest="pass_", choices=PASSES, default="fprop")
    traced.add_argument(
        "--gpu", default=DEFAULT_GPU, help=f"{NAMED_GPUS}; or your own: {OWN_GPU} (default: {DEFAULT_GPU})"
    )
    traced.add_argument("--kernel", help="such as naive, or triton (default: the one that would serve)")
    traced.add_argument("--all-sites", action="store_true", help="every access of an unrolled loop by itself")
    traced.add_argument(
        "--picture", metavar="FILE.svg", help="draw how often each sector of a tensor is fetched, and by which lines"
    )
    traced.add_argument("--tensor", metavar="NAME", help="that --picture draws, such as w (default: x, in dgrad dy)")
    tuned = commands.add_parser("tuning", help="what auto has measured, by device and build")
    tuned.add_argument("--clear", action="store_true", help="forget it")
    options = parser.parse_args(arguments)
    show = {"explain": _explained, "trace": _traced, "tuning": _tuned}.get(options.command, lambda _: report())
    try:
        # A problem's note may hold anything.
        print("\n".join(map(printable, show(options).split("\n"))))
    except (OSError, RuntimeError, ValueError) as error:
        parser.error(str(error))
    return 0


def _dtype(options: argparse.Namespace) -> torch.dtype:
    return NAMED_DTYPES[options.dtype]


def _explained(options: argparse.Namespace) -> str:
    on_gpu = options.arch is not None or torch.cuda.is_available()
    explained = explain(
        options.problem,
        dtype=_dtype(options),
        layout=options.layout,
        device=options.device or ("cuda" if on_gpu else "cpu"),
        backend=options.backend,
        arch=options.arch,
        compiled=options.compile,
    )
    return str(explained)


def _traced(options: argparse.Namespace) -> str:
    if options.tensor and not options.picture:
        raise ValueError("--tensor: says what --picture draws, which is missing")
    if options.picture is not None:
        picture_path(options.picture)  # rather now than after the trace
    traced = trace(
        options.problem,
        options.pass_,
        dtype=_dtype(options),
        layout=options.layout,
        gpu=options.gpu,
        kernel=options.kernel,
        sectors=options.picture is not None,
    )
    predicted = predict(traced) if options.kernel is None or not options.kernel.startswith("triton") else "Triton's"
    text = traced.report(options.all_sites)
    text += f"\n  predicted     not: {predicted}" if isinstance(predicted, str) else f"\n{predicted.report()}"
    if options.picture is None:
        return text
    traced.picture(options.picture, options.tensor)
    return f"{text}\ndrawn to {options.picture}"


def _tuned(options: argparse.Namespace) -> str:
    if options.clear:
        return f"forgot {cache.clear()} decisions of {cache.location_text()}"
    return f"tuning is {choice.state()}\n{cache.table() or 'nothing was measured so far'}"


if __name__ == "__main__":
    sys.exit(main())
