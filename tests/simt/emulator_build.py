"""Builds the emulator's test program with g++ alone: fast, checked, or under a real sanitizer."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
COMMON = ["-std=c++20", "-fPIC", "-fvisibility=hidden", "-U_FORTIFY_SOURCE", "-Wall", "-Wextra", "-g"]
INCLUDES = [f"-I{CSRC.parent}", f"-I{CSRC / 'simt' / 'include'}", f"-I{HERE}"]


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


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command; the error of a failed one contains what it printed."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done


def build_program(kind: str, folder: Path, sources: list[str], jobs: int = 2) -> Path:
    """Compile the emulator, `sources` (kernel files of this folder) and main.cpp; return the program.

    Parameters
    ----------
    kind
        A key of `BUILDS`.
    folder
        Where objects and program go. Emulator objects are shared by builds with equal flags.
    sources
        Names of `.cu` files.
    jobs
        Compilers that run at once.
    """
    build = BUILDS[kind]
    compiler = os.environ.get("CXX", "g++")
    emulator_folder = folder / ("emulator" + "".join(build.emulator).replace("/", "_").replace("=", "_"))
    kernel_folder = folder / kind
    emulator_folder.mkdir(parents=True, exist_ok=True)
    kernel_folder.mkdir(exist_ok=True)
    commands = []
    objects = []
    for source in [*sorted((CSRC / "simt").glob("*.cpp")), HERE / "main.cpp"]:
        if source.name == "tsan_callbacks.cpp" and not build.instrumented:
            continue
        target = emulator_folder / f"{source.stem}.o"
        objects.append(str(target))
        if not target.exists():
            commands.append([compiler, *COMMON, *INCLUDES, *build.emulator, "-c", str(source), "-o", str(target)])
    for name in sources:
        target = kernel_folder / f"{Path(name).stem}.o"
        objects.append(str(target))
        script = [str(CSRC / "simt" / "compile_kernel.sh"), str(HERE / name), str(target)]
        commands.append([*script, compiler, *COMMON, "-Wno-deprecated-copy", *INCLUDES, *build.kernels])
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, commands))
    program = kernel_folder / "program"
    run([compiler, *build.link, *objects, "-o", str(program), "-lpthread"])
    return program
