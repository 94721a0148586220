"""What setup.py builds with: the compilers, torch's paths, CUDA's toolkit, and the GPU architectures.

Run as a program, it prints the requirement by which pip would install a missing nvcc, or nothing.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

MIN_TORCH = (2, 10)
DEFAULT_CUDA = "13.0"  # where torch is a CPU build and names none
DEFAULT_ARCHITECTURES = "8.0+PTX;9.0"
OLDEST = (7, 5)


def stop(message: str) -> NoReturn:
    """End the build with a message instead of a traceback."""
    raise SystemExit(f"convbound: {message}")


def output_of(*command: str) -> str | None:
    """What a command prints; None where it does not run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout + done.stderr if done.returncode == 0 else None


def switched_on(variable: str) -> bool:
    """Whether a variable of the environment is 1; it may be 0 or missing, too."""
    value = os.environ.get(variable) or "0"
    if value not in ("0", "1"):
        stop(f"{variable}={value!r} must be 0 or 1")
    return value == "1"


def check_environment(cxx: str) -> None:
    """Stop with a readable message where the C++ compiler or Python's headers are missing or too old."""
    version = output_of(cxx, "-dumpfullversion")
    if version is None:
        stop(f"the C++ compiler {cxx!r} does not run; install g++ 11 or newer, or set CONVBOUND_CXX")
    if "clang" not in cxx and int(version.split(".")[0]) < 11:
        stop(f"{cxx} {version.strip()} is too old; C++20 needs g++ 11 or newer (CONVBOUND_CXX names another)")
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        stop(f"Python.h of Python {platform.python_version()} is missing; install its headers (python3-dev)")


def import_torch() -> Any:
    """The torch that the ops are built against."""
    try:
        import torch
    except ImportError:
        stop(
            "building needs the torch that you will use, which an isolated build cannot see. "
            "Run: pip install torch setuptools ninja pybind11 && pip install --no-build-isolation ."
        )
    if tuple(int(v) for v in torch.__version__.split(".")[:2]) < MIN_TORCH:
        stop(f"torch {torch.__version__} is too old; convbound needs torch >= {MIN_TORCH[0]}.{MIN_TORCH[1]}")
    return torch


@dataclass(frozen=True)
class Cuda:
    """An nvcc, and for which architectures it compiles."""

    nvcc: str
    version: str
    include: str
    libraries: str
    architectures: tuple[str, ...]  # 8.0, 9.0+PTX, …

    @property
    def target_flags(self) -> tuple[str, ...]:
        """The -gencode flags."""
        flags = []
        for architecture in self.architectures:
            number = architecture.removesuffix("+PTX").replace(".", "")
            flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
            if architecture.endswith("+PTX"):
                flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
        return tuple(flags)


@lru_cache(maxsize=1)
def find_cuda() -> Cuda | str:
    """CUDA, as CONVBOUND_CUDA (auto, 1 or 0) wants it; else why there is none. With 1, stops where there is none."""
    wanted = os.environ.get("CONVBOUND_CUDA") or "auto"
    if wanted not in ("auto", "1", "0"):
        stop(f"CONVBOUND_CUDA={wanted!r} must be auto, 1 or 0")
    if wanted == "0":
        return "CONVBOUND_CUDA=0 turned it off"
    torch_cuda = import_torch().version.cuda
    if wanted == "auto" and torch_cuda is None:
        return "this torch is a CPU build (CONVBOUND_CUDA=1 builds it nevertheless)"
    found = _toolkit(torch_cuda)
    if isinstance(found, str) and wanted == "1":
        stop(found)
    return found


def _toolkit(torch_cuda: str | None) -> Cuda | str:
    nvcc = find_nvcc()
    if nvcc is None:
        return f"nvcc was not found: pip install '{nvcc_requirement(torch_cuda)}', or set CUDACXX or CUDA_HOME"
    version = re.search(r"release (\d+\.\d+)", output_of(nvcc, "--version") or "")
    if version is None:
        return f"{nvcc} --version does not run"
    if torch_cuda is not None and version[1].split(".")[0] != torch_cuda.split(".")[0]:
        return (
            f"{nvcc} is of CUDA {version[1]}, but torch is of CUDA {torch_cuda}: the first numbers must agree; "
            f"pip install '{nvcc_requirement(torch_cuda)}', or set CUDACXX"
        )
    # nvcc may be a script or a link: it says itself where its toolkit is.
    plan = output_of(nvcc, "--dryrun", "-x", "cu", os.devnull, "-c", "-o", os.devnull) or ""
    top = re.search(r"^#\$ TOP=(.*)$", plan, re.MULTILINE)
    if top is None:
        return f"{nvcc} --dryrun does not say where its toolkit is"
    root = Path(top[1].strip()).resolve()
    libraries = next((root / name for name in ("lib64", "lib") if (root / name / "libcudart_static.a").exists()), None)
    if libraries is None or not (root / "include" / "cuda_runtime.h").exists():
        return f"the CUDA toolkit in {root} lacks libcudart_static.a or cuda_runtime.h"
    return Cuda(nvcc, version[1], str(root / "include"), str(libraries), architectures(nvcc))


def find_nvcc() -> str | None:
    """nvcc from $CUDACXX, $CUDA_HOME, the path, or the folder of the pip package cuda-toolkit."""
    if named := os.environ.get("CUDACXX"):
        return named
    if home := os.environ.get("CUDA_HOME"):
        return str(Path(home) / "bin" / "nvcc")
    packaged = Path(sysconfig.get_paths()["purelib"]).glob("nvidia/cu*/bin/nvcc")
    return shutil.which("nvcc") or next((str(path) for path in packaged), None)


def nvcc_requirement(torch_cuda: str | None) -> str:
    """What pip has to install for an nvcc that fits torch."""
    return f"cuda-toolkit[nvcc,cccl,cudart]=={torch_cuda or DEFAULT_CUDA}.*"


def architectures(nvcc: str) -> tuple[str, ...]:
    """The architectures to compile for: TORCH_CUDA_ARCH_LIST, else those of the GPUs present, else the default two."""
    named = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if not named:
        present = output_of("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
        return _for_gpus(present.split(), nvcc) if present else tuple(DEFAULT_ARCHITECTURES.split(";"))
    found = tuple(named.replace(";", " ").split())
    for architecture in found:
        if not re.fullmatch(r"\d+\.\d+[af]?(\+PTX)?", architecture):
            stop(f"TORCH_CUDA_ARCH_LIST: {architecture!r} is no architecture such as 8.0 or 9.0+PTX")
        if _number(architecture) < OLDEST:
            stop(f"TORCH_CUDA_ARCH_LIST: {architecture} is too old; the kernels need 7.5 or newer")
    return found


def _for_gpus(present: list[str], nvcc: str) -> tuple[str, ...]:
    """The architectures of these GPUs, the newest with PTX, which newer GPUs and drivers can use.

    A GPU that nvcc does not know runs PTX of the newest architecture before it.
    """
    listed = (output_of(nvcc, "--list-gpu-arch") or "").split()
    known = [(int(number[:-1]), int(number[-1])) for number in re.findall(r"\bcompute_(\d+)\b", " ".join(listed))]
    found = set()
    for gpu in sorted({_number(text) for text in present}):
        if gpu < OLDEST:
            stop(f"a GPU of compute capability {_text(gpu)} is too old; the kernels need {_text(OLDEST)} or newer")
        fits = max((number for number in known if number <= gpu), default=gpu)
        if fits != gpu:
            sys.stderr.write(
                f"convbound: {nvcc} does not know the compute capability {_text(gpu)} of the GPU here: "
                f"it gets PTX of {_text(fits)}, which the driver compiles at first use\n"
            )
        found.add(fits)
    return tuple(_text(number) + "+PTX" * (number == max(found)) for number in sorted(found))


def _number(architecture: str) -> tuple[int, int]:
    """9.0a+PTX as (9, 0)."""
    major, minor = re.findall(r"\d+", architecture)
    return int(major), int(minor)


def _text(number: tuple[int, int]) -> str:
    return f"{number[0]}.{number[1]}"


if __name__ == "__main__":
    wanted = os.environ.get("CONVBOUND_CUDA") or "auto"
    cuda = import_torch().version.cuda
    if find_nvcc() is None and (wanted == "1" or (wanted == "auto" and cuda is not None)):
        sys.stdout.write(nvcc_requirement(cuda) + "\n")
