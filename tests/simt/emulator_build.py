"""Builds C++ test programs with the emulator: fast, checked, or under a real sanitizer.

By one ninja file for each kind of build, in a folder that later runs of the tests find again.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CSRC = ROOT / "csrc"
FOLDER = ROOT / "build" / "simt-tests"
COMMON = ["-std=c++20", "-fPIC", "-fvisibility=hidden", "-U_FORTIFY_SOURCE", "-Wall", "-Wextra", "-g"]
INCLUDES = [f"-I{ROOT}", f"-I{CSRC / 'simt' / 'include'}"]


@dataclass(frozen=True)
class Build:
    """Flags of one way to build: for the emulator, for the kernels, for the linker."""

    emulator: list[str]
    kernels: list[str]
    link: list[str] = field(default_factory=list)
    instrumented: bool = False


ASAN = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
BUILDS = {
    "fast": Build(["-O1"], ["-O1", "-fno-ipa-icf"]),
    "checked": Build(["-O1"], ["-O1", "-fno-tree-sra", "-fsanitize=thread"], instrumented=True),
    "asan": Build(ASAN, ASAN, ["-fsanitize=address,undefined"]),
    "tsan": Build(["-O1", "-DCONVBOUND_SIMT_TSAN"], ["-O1", "-fsanitize=thread"], ["-fsanitize=thread"]),
}

# The programs: the emulator's own tests, and the walk over the registry.
EMULATOR_KERNELS = ["depthwise3x3.cu", "features.cu", "launches.cu", "wrong_kernels.cu", "traces.cu"]
EMULATOR_TESTS = [HERE / name for name in [*EMULATOR_KERNELS, "main.cpp"]]
REGISTRY_WALK = [
    *sorted(path for path in CSRC.rglob("*.cu")),
    CSRC / "conv_problem.cpp",
    CSRC / "dispatch" / "device.cpp",
    CSRC / "dispatch" / "simt.cpp",
    HERE / "walk_registry.cpp",
]


def build_program(kind: str, name: str, sources: Sequence[Path]) -> Path:
    """Compile the emulator and `sources` and link them; return the program.

    Parameters
    ----------
    kind
        A key of `BUILDS`.
    name
        Of the program.
    sources
        Kernels (``.cu``) and host files (``.cpp``).
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:  # the workers of pytest-xdist build the same
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = FOLDER / f"{kind}-{name}.ninja"
        program = FOLDER / f"{kind}-{name}"
        file.write_text(_ninja(kind, program, sources))
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
        command = [sys.executable, "-m", "ninja", "-C", str(FOLDER), "-f", file.name, "-j", jobs]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return program


def _ninja(kind: str, program: Path, sources: Sequence[Path]) -> str:
    build = BUILDS[kind]
    cxx = os.environ.get("CONVBOUND_CXX") or os.environ.get("CXX") or "g++"
    flags = " ".join([*COMMON, *INCLUDES])
    emulator = [
        path for path in sorted((CSRC / "simt").glob("*.cpp")) if build.instrumented or path.stem != "tsan_callbacks"
    ]
    lines = [
        "rule kernel",
        f"  command = sh {CSRC}/simt/compile_kernel.sh $in $out {cxx} {flags} -Wno-deprecated-copy $flags",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule host",
        f"  command = {cxx} {flags} $flags -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {cxx} {' '.join(build.link)} $in -o $out -lpthread -ldl",
    ]
    objects = []
    # Kernels first, as in the package: of code that several files have, the linker takes the first file's.
    for source in [*sources, *emulator]:
        rule, own = ("kernel", build.kernels) if source.suffix == ".cu" else ("host", build.emulator)
        # Host objects of builds with the same flags are the same.
        folder = kind if rule == "kernel" else "host" + "".join(own).replace("=", "_").replace(",", "_")
        objects.append(f"{folder}/{source.relative_to(ROOT).as_posix()}.o")
        lines += [f"build {objects[-1]}: {rule} {source}", f"  flags = {' '.join(own)}"]
    lines.append(f"build {program}: link {' '.join(objects)}")
    return "\n".join(lines) + "\n"
