"""``python -m gpu_check``: run all checks on this machine's GPUs and write one report file."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from gpu_check import report, sanitizers, supervisor

EXIT_OK, EXIT_FAILED, EXIT_NO_GPU = 0, 1, 2
STEPS = ("checks", "sanitizers", "bench")
BENCH_TIMEOUT_SECONDS = 1800


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m gpu_check", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/gpu-check.json"), metavar="FILE", help="the report")
    parser.add_argument("--only", default="", metavar="REGEX", help="only checks whose names match")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS, help="what to run (default: all)")
    # The emulator checks the checks where there is no GPU.
    parser.add_argument("--target", choices=("gpu", "emulator"), default="gpu", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.target == "gpu" and not torch.cuda.is_available():
        print(f"gpu-check needs a GPU that torch can use, and torch {torch.__version__} sees none here")
        return EXIT_NO_GPU
    args.out.parent.mkdir(parents=True, exist_ok=True)
    found = report.Findings(report.machine(args.target))
    if "checks" in args.steps:
        print("checking every kernel against fp64, streams, graphs, devices ...", flush=True)
        found.checks = supervisor.run_all(args.target, args.only)
        report.write(found, args.out)
    if "sanitizers" in args.steps:
        tool = sanitizers.find()
        found.sanitizer = tool or f"compute-sanitizer was not found; pip install '{sanitizers.requirement()}' brings it"
        for each in sanitizers.run_all(tool, args.target) if tool else ():
            print(f"compute-sanitizer {each.tool}: {each.status}", flush=True)
            found.sanitizers.append(each)
            report.write(found, args.out)
    if "bench" in args.steps:
        print("benchmark ...", flush=True)
        found.bench = run_bench(args.out.with_suffix(""), args.target)
    report.write(found, args.out)
    print("\n".join(report.summary(found)))
    print(f"written: {args.out} (this one file says it all)")
    return EXIT_OK if found.ok else EXIT_FAILED


def run_bench(folder: Path, target: str) -> report.Bench:
    """The quick benchmark in a process of its own; its rows are kept however it ends."""
    command = [sys.executable, "-m", "convbound.bench", "--quick", "--plain", "--out", str(folder)]
    command += ["--device", "cuda"] if target == "gpu" else ["--device", "cpu", "--problem", "mb1g8ic8ih8oc8kh3ph1"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BENCH_TIMEOUT_SECONDS)
        status, output = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        status, output = -1, f"did not end within {BENCH_TIMEOUT_SECONDS} s"
    return report.read_bench(folder, status, output)


if __name__ == "__main__":
    sys.exit(main())
