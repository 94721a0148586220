"""Build convbound's compiled parts with one generated ninja file.

csrc/build_parts.py says what is built, csrc/build_tools.py with what. Binaries of parts that are no longer built are
deleted, and every binary carries the hash of the sources that it was built from, which the loader compares with the
package's.

    CONVBOUND_CXX          the C++ compiler (default: $CXX, else g++)
    CONVBOUND_CUDA         auto (the default: where torch is a CUDA build and nvcc is there), 1 (or stop), 0
    CONVBOUND_SIMT         1 builds the emulated CUDA kernels too (default: 0)
    CONVBOUND_WERROR       1 makes every warning an error (default: 0)
    TORCH_CUDA_ARCH_LIST   such as "8.0+PTX;9.0" (default: the GPUs present, else these two)
    CUDACXX, CUDA_HOME     where nvcc is (default: on the path, else the pip package cuda-toolkit)
    MAX_JOBS               parallel compiler processes (default: the number of CPUs)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cached_property
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "csrc"))
import build_parts  # noqa: E402
import build_tools  # noqa: E402
from source_hash import source_hash  # noqa: E402

PACKAGES = {
    "convbound": "pytorch_ext",
    "convbound.choice": "pytorch_ext/choice",
    "convbound.nn": "pytorch_ext/nn",
    "convbound.kernels": "kernels",
    "convbound.bench": "bench",
    "convbound.bench.experiments": "bench/experiments",
}
CXX_FLAGS = f"-std=c++20 -O3 -fPIC -fvisibility=hidden -Wall -Wextra -Werror=return-type -I{ROOT}"
# Line numbers change no instruction; convbound.executed finds the accesses of the source in the machine code by them.
NVCC_FLAGS = f"-std=c++20 -O3 --expt-relaxed-constexpr -lineinfo -Xcompiler=-fPIC,-fvisibility=hidden,-Wall -I{ROOT}"


class NinjaBuild(build_ext):
    """Compile all parts with one ninja run, incrementally, and record what was built."""

    def get_ext_filename(self, fullname: str) -> str:
        """A library of ops has no Python ABI, so its file name has no Python version."""
        if fullname.rpartition(".")[2].startswith("lib"):
            return os.path.join(*fullname.split(".")) + ".so"
        return str(super().get_ext_filename(fullname))

    @cached_property
    def cxx(self) -> str:
        """The C++ compiler."""
        return os.environ.get("CONVBOUND_CXX") or os.environ.get("CXX") or "g++"

    def build_extensions(self) -> None:
        build_tools.check_environment(self.cxx)
        # pip builds an editable install in a temporary folder, where every build would be a whole one.
        build_dir = Path(ROOT / "build" / "editable" if self.editable_mode else self.build_temp).resolve()
        build_dir.mkdir(parents=True, exist_ok=True)
        parts, absent = build_parts.parts()
        targets = {part.name: Path(self.get_ext_fullpath(f"convbound.{part.name}")).resolve() for part in parts}
        for target in targets.values():
            target.parent.mkdir(parents=True, exist_ok=True)
            for stale in [*target.parent.glob("libconvbound_*.so"), *target.parent.glob("_introspect*.so")]:
                if stale not in targets.values():
                    stale.unlink()
        self._write_ninja(build_dir / "build.ninja", parts, targets)
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        command = [sys.executable, "-m", "ninja", "-C", str(build_dir), "-j", jobs]
        if subprocess.run(command).returncode != 0:
            build_tools.stop("the compiled parts did not build; the compiler's messages stand above")
        self._write_build_info(build_dir, parts, targets, absent)

    def copy_extensions_to_source(self) -> None:
        """For an editable install: the record goes where the binaries go, and stale binaries go from there."""
        package = ROOT / PACKAGES["convbound"]
        built = {Path(self.get_ext_filename(extension.name)).name for extension in self.extensions}
        for stale in [*package.glob("libconvbound_*.so"), *package.glob("_introspect*.so")]:
            if stale.name not in built:
                stale.unlink()
        super().copy_extensions_to_source()
        self.copy_file(str(Path(self.build_lib, "convbound", "build_info.json")), str(package))

    def _write_ninja(self, path: Path, parts: tuple[build_parts.Part, ...], targets: dict[str, Path]) -> None:
        from ninja.ninja_syntax import Writer

        cuda = build_tools.find_cuda()
        strict = build_tools.switched_on("CONVBOUND_WERROR")
        with path.open("w") as file:
            ninja = Writer(file, width=120)
            ninja.variable("cxx", self.cxx)
            ninja.variable("cxxflags", CXX_FLAGS + " -Werror -Wno-error=maybe-uninitialized" * strict)
            compilers = {
                "cxx": "$cxx $cxxflags $flags -MMD -MF $out.d -c $in -o $out",
                "kernel": f"sh {ROOT}/csrc/simt/compile_kernel.sh $in $out $cxx $cxxflags $flags",
            }
            if not isinstance(cuda, str):
                ninja.variable(
                    "nvccflags", " ".join([NVCC_FLAGS, *["-Werror=all-warnings"] * strict, *cuda.target_flags])
                )
                compilers["nvcc"] = (
                    f"{sys.executable} {ROOT}/csrc/cpu_seconds.py $out.seconds "
                    f"{cuda.nvcc} -ccbin $cxx $nvccflags $flags -MMD -MF $out.d -c $in -o $out"
                )
            for rule, command in compilers.items():
                ninja.rule(rule, command, depfile="$out.d", deps="gcc", description=f"{rule} $out")
            ninja.rule("link", command="$cxx -shared $in $flags -o $out", description="link $out")
            for source in build_parts.all_sources(parts):
                flags = {"flags": " ".join(source.flags)}
                # A change of the script recompiles what it compiled.
                script = [str(ROOT / "csrc/simt/compile_kernel.sh")] if source.rule == "kernel" else None
                ninja.build(
                    str(path.parent / source.object), source.rule, str(ROOT / source.path), script, variables=flags
                )
            for part in parts:
                inputs = list(dict.fromkeys(str(path.parent / source.object) for source in part.sources))
                ninja.build(str(targets[part.name]), "link", inputs, variables={"flags": " ".join(part.link)})

    def _write_build_info(
        self,
        build_dir: Path,
        parts: tuple[build_parts.Part, ...],
        targets: dict[str, Path],
        absent: dict[str, str],
    ) -> None:
        cuda = build_tools.find_cuda()
        info = {
            "source_hash": source_hash(),
            "compiler": (build_tools.output_of(self.cxx, "--version") or "").partition("\n")[0],
            "torch": build_tools.import_torch().__version__,
            "parts": {name: path.name for name, path in targets.items()},
            "absent": absent,
        }
        if not isinstance(cuda, str):
            objects = [build_dir / source.object for source in build_parts.all_sources(parts) if source.rule == "nvcc"]
            seconds = sum(float(Path(f"{path}.seconds").read_text()) for path in objects)
            info["cuda"] = {
                "nvcc": cuda.version,
                "architectures": list(cuda.architectures),
                "nvcc_cpu_minutes": round(seconds / 60, 2),
            }
        (next(iter(targets.values())).parent / "build_info.json").write_text(json.dumps(info, indent=2) + "\n")


def extensions() -> list[Extension]:
    """What setuptools copies and packs: one for each part. Without a build, nothing has to be there to make a list."""
    if not {"build_ext", "bdist_wheel", "editable_wheel", "build", "install", "develop"} & set(sys.argv):
        return []
    return [Extension(f"convbound.{part.name}", sources=[]) for part in build_parts.parts()[0]]


if __name__ == "__main__":
    if {"dist_info", "bdist_wheel", "editable_wheel"} & set(sys.argv):
        build_tools.import_torch()  # before pip resolves and downloads a torch of its own
    setup(
        packages=list(PACKAGES),
        package_dir=PACKAGES,
        package_data={
            "convbound": ["py.typed", "*.pyi", "*.so", "build_info.json"],
            "convbound.bench": ["layers/*", "results/*"],
        },
        ext_modules=extensions(),
        cmdclass={"build_ext": NinjaBuild},
        zip_safe=False,
    )
