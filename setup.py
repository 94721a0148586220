"""Build convbound's compiled parts with one generated ninja file.

Each part is a shared library of its own, see parts(): the CPU ops against torch's stable ABI, and the introspection
module without torch. Binaries of parts that are no longer built are deleted, and every binary carries the hash of the
sources that it was built from, which the loader compares with the package's.

    CONVBOUND_CXX    the C++ compiler (default: $CXX, else g++)
    MAX_JOBS         parallel compiler processes (default: the number of CPUs)
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
MIN_TORCH = (2, 10)
STABLE_ABI = "0x020a000000000000"  # the oldest torch that the ops run on: 2.10
PACKAGES = {
    "convbound": "pytorch_ext",
    "convbound.nn": "pytorch_ext/nn",
    "convbound.bench": "bench",
}


def stop(message: str) -> NoReturn:
    """End the build with a message instead of a traceback."""
    raise SystemExit(f"convbound: {message}")


@dataclass(frozen=True)
class Source:
    """One translation unit, with the compiler flags that only it gets."""

    path: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """One shared library of the package."""

    name: str
    sources: tuple[Source, ...]
    link: tuple[str, ...] = ()


@dataclass
class Toolchain:
    """Where the compiler and the headers are; asked for only when something is compiled."""

    cxx: str = field(default_factory=lambda: os.environ.get("CONVBOUND_CXX") or os.environ.get("CXX") or "g++")

    def check(self) -> None:
        try:
            version = subprocess.run([self.cxx, "-dumpfullversion"], capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            stop(f"the C++ compiler {self.cxx!r} does not run; install g++ 11 or newer, or set CONVBOUND_CXX")
        if "clang" not in self.cxx and int(version.split(".")[0]) < 11:
            stop(f"{self.cxx} {version.strip()} is too old; C++20 needs g++ 11 or newer (CONVBOUND_CXX names another)")
        if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
            stop(f"Python.h of Python {platform.python_version()} is missing; install its headers (python3-dev)")

    @property
    def description(self) -> str:
        return subprocess.run([self.cxx, "--version"], capture_output=True, text=True).stdout.partition("\n")[0]


def torch_paths() -> tuple[list[str], str, str]:
    """Include folders, library folder and version of the torch that the ops are built against."""
    try:
        import torch
        from torch.utils.cpp_extension import include_paths, library_paths
    except ImportError:
        stop(
            "building needs the torch that you will use, which an isolated build cannot see. "
            "Run: pip install torch setuptools ninja pybind11 && pip install --no-build-isolation ."
        )
    if tuple(int(v) for v in torch.__version__.split(".")[:2]) < MIN_TORCH:
        stop(f"torch {torch.__version__} is too old; convbound needs torch >= {MIN_TORCH[0]}.{MIN_TORCH[1]}")
    return include_paths(), library_paths()[0], torch.__version__


def source_hash() -> str:
    """One hash over everything that is compiled."""
    digest = hashlib.sha256()
    for path in sorted(path for path in (ROOT / "csrc").rglob("*") if path.is_file()):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def cpu_kernels() -> tuple[Source, ...]:
    """The CPU kernels and their dispatcher, without any torch header: for the ops and for the introspection module."""
    x86 = platform.machine() in ("x86_64", "AMD64")
    # No -march=native: the binary runs anywhere and picks an instruction set at run time.
    avx2 = ("-mavx2", "-mfma") if x86 else ()
    avx512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma") if x86 else ()
    return (
        Source("csrc/cpu/isa.cpp"),
        Source("csrc/cpu/naive_fprop.cpp"),
        Source("csrc/cpu/naive_dgrad.cpp"),
        Source("csrc/cpu/naive_wgrad.cpp"),
        Source("csrc/cpu/depthwise.cpp"),
        Source("csrc/cpu/depthwise_fprop.cpp"),
        Source("csrc/cpu/depthwise_fprop_avx2.cpp", avx2),
        Source("csrc/cpu/depthwise_fprop_avx512.cpp", avx512),
        Source("csrc/dispatch/cpu.cpp"),
    )


def parts() -> tuple[Part, ...]:
    """Every compiled part of the package."""
    import pybind11

    torch_includes, torch_library, _ = torch_paths()
    hashed = f'-DCONVBOUND_SOURCE_HASH=\\"{source_hash()}\\"'
    ops = (*(f"-isystem{path}" for path in torch_includes), f"-DTORCH_TARGET_VERSION={STABLE_ABI}")
    python = (f"-isystem{sysconfig.get_paths()['include']}", f"-isystem{pybind11.get_include()}")
    return (
        Part(
            "libconvbound_cpu",
            (
                *cpu_kernels(),
                Source("csrc/ops/problem.cpp", ops),
                Source("csrc/ops/cpu.cpp", ops),
                Source("csrc/ops/parallel.cpp", ops),
                Source("csrc/ops/build_hash.cpp", (hashed,)),
            ),
            link=(f"-L{torch_library}", "-ltorch", "-ltorch_cpu", "-lc10", "-Wl,-z,defs"),
        ),
        Part("_introspect", (*cpu_kernels(), Source("csrc/python/introspect.cpp", (*python, hashed)))),
    )


class NinjaBuild(build_ext):
    """Compile all parts with one ninja run, incrementally, and record what was built."""

    def get_ext_filename(self, fullname: str) -> str:
        """A library of ops has no Python ABI, so its file name has no Python version."""
        if fullname.rpartition(".")[2].startswith("lib"):
            return os.path.join(*fullname.split(".")) + ".so"
        return str(super().get_ext_filename(fullname))

    def build_extensions(self) -> None:
        toolchain = Toolchain()
        toolchain.check()
        build_dir = Path(self.build_temp).resolve()
        build_dir.mkdir(parents=True, exist_ok=True)
        targets = {part.name: Path(self.get_ext_fullpath(f"convbound.{part.name}")).resolve() for part in parts()}
        for target in targets.values():
            target.parent.mkdir(parents=True, exist_ok=True)
            for stale in [*target.parent.glob("libconvbound_*.so"), *target.parent.glob("_introspect*.so")]:
                if stale not in targets.values():
                    stale.unlink()
        self._write_ninja(build_dir / "build.ninja", toolchain, targets)
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        command = [sys.executable, "-m", "ninja", "-C", str(build_dir), "-j", jobs]
        if subprocess.run(command).returncode != 0:
            stop("the compiled parts did not build; the compiler's messages stand above")
        self._write_build_info(toolchain, targets)

    def copy_extensions_to_source(self) -> None:
        """For an editable install: the record goes where the binaries go."""
        super().copy_extensions_to_source()
        self.copy_file(str(Path(self.build_lib, "convbound", "build_info.json")), str(ROOT / PACKAGES["convbound"]))

    def _write_ninja(self, path: Path, toolchain: Toolchain, targets: dict[str, Path]) -> None:
        from ninja.ninja_syntax import Writer

        with path.open("w") as file:
            ninja = Writer(file, width=120)
            ninja.variable("cxx", toolchain.cxx)
            ninja.variable(
                "cxxflags", f"-std=c++20 -O3 -fPIC -fvisibility=hidden -Wall -Wextra -Werror=return-type -I{ROOT}"
            )
            ninja.rule(
                "compile",
                command="$cxx $cxxflags $flags -MMD -MF $out.d -c $in -o $out",
                depfile="$out.d",
                deps="gcc",
                description="$cxx $in",
            )
            ninja.rule("link", command="$cxx -shared $in $flags -o $out", description="link $out")
            objects: dict[str, str] = {}  # a source that serves two parts is compiled once
            for part in parts():
                for source in part.sources:
                    if source.path not in objects:
                        objects[source.path] = str(path.parent / (source.path + ".o"))
                        flags = {"flags": " ".join(source.flags)}
                        ninja.build(objects[source.path], "compile", str(ROOT / source.path), variables=flags)
                inputs = [objects[source.path] for source in part.sources]
                ninja.build(str(targets[part.name]), "link", inputs, variables={"flags": " ".join(part.link)})

    def _write_build_info(self, toolchain: Toolchain, targets: dict[str, Path]) -> None:
        info = {
            "source_hash": source_hash(),
            "compiler": toolchain.description,
            "torch": torch_paths()[2],
            "parts": {name: path.name for name, path in targets.items()},
        }
        (next(iter(targets.values())).parent / "build_info.json").write_text(json.dumps(info, indent=2) + "\n")


if __name__ == "__main__":
    if {"dist_info", "bdist_wheel", "editable_wheel"} & set(sys.argv):
        torch_paths()  # before pip resolves and downloads a torch of its own
    setup(
        packages=list(PACKAGES),
        package_dir=PACKAGES,
        package_data={
            "convbound": ["py.typed", "*.pyi", "*.so", "build_info.json"],
            "convbound.bench": ["layers/*", "results/*"],
        },
        ext_modules=[Extension(f"convbound.{name}", sources=[]) for name in ("libconvbound_cpu", "_introspect")],
        cmdclass={"build_ext": NinjaBuild},
        zip_safe=False,
    )
