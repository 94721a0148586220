"""compute-sanitizer over ``driver``: bounds, races in shared memory, barriers, and reads of what nobody has written.

Run as a program, it prints the requirement by which pip would install a missing compute-sanitizer, or nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
TIMEOUT_SECONDS = 1200
_EXIT_FOUND = 86
_TAIL = 6000


@dataclass(frozen=True)
class Report:
    """What one tool said: ``clean``, ``errors``, or why it did not get that far."""

    tool: str
    status: str
    output: str

    @property
    def ok(self) -> bool:
        """Whether the tool ran and found nothing."""
        return self.status == "clean"


def find() -> str | None:
    """compute-sanitizer on the path, of $CUDA_HOME, of a usual installation, or of the pip package."""
    homes = [Path(home) for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home]
    packaged = Path(sysconfig.get_paths()["purelib"]).glob("nvidia/cu*/bin")
    for folder in (*(home / "bin" for home in homes), *packaged):
        if (folder / "compute-sanitizer").exists():
            return shutil.which("compute-sanitizer") or str(folder / "compute-sanitizer")
    return shutil.which("compute-sanitizer")


def requirement() -> str:
    """What pip has to install for a compute-sanitizer that fits torch."""
    return f"cuda-toolkit[sanitizer]=={torch.version.cuda or '13.0'}.*"


def command(sanitizer: str, tool: str, target: str) -> list[str]:
    """The command line of a tool; only kernels of this project are watched, torch's are not ours to judge."""
    options = ["--tool", tool, "--kernel-name", "kernel_substring=convbound", "--error-exitcode", str(_EXIT_FOUND)]
    # Python and torch take longer to reach their first CUDA call than the tool waits by default.
    options += ["--print-limit", "20", "--launch-timeout", "300"]
    # torch itself probes for what a device cannot do; such calls fail and are no error of a kernel.
    options += ["--report-api-errors", "no"] if tool == "memcheck" else []
    return [sanitizer, *options, sys.executable, "-m", "gpu_check.driver", "--target", target]


def run_all(sanitizer: str, target: str) -> Iterator[Report]:
    """Run every tool; what one finds does not keep the next from running."""
    # Each tensor gets an allocation of its own, so that the first byte beside it is seen.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    for tool in TOOLS:
        line = command(sanitizer, tool, target)
        try:
            done = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, env=environment)
        except subprocess.TimeoutExpired:
            yield Report(tool, f"did not end within {TIMEOUT_SECONDS} s", "")
            continue
        status = {0: "clean", _EXIT_FOUND: "errors"}.get(done.returncode, f"ended with status {done.returncode}")
        yield Report(tool, status, (done.stdout + done.stderr)[-_TAIL:])


if __name__ == "__main__":
    sys.stdout.write("" if find() else f"{requirement()}\n")
