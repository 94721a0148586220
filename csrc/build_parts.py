"""What convbound is compiled from: every shared library of the package, its sources and their flags."""

from __future__ import annotations

import platform
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import build_tools
from source_hash import source_hash

ROOT = Path(__file__).resolve().parent.parent
STABLE_ABI = "0x020a000000000000"  # the oldest torch that the ops run on: 2.10


@dataclass(frozen=True)
class Source:
    """One translation unit. `rule` is the compiler: cxx, kernel (CUDA C++ by g++, for the emulator) or nvcc."""

    path: str
    flags: tuple[str, ...] = ()
    variant: str = ""  # tells apart the objects of a source that is compiled more than once
    rule: str = "cxx"

    @property
    def object(self) -> str:
        """The object file, in the build folder."""
        return f"{self.path}{self.variant and '.' + self.variant}.o"


@dataclass(frozen=True)
class Part:
    """One shared library of the package."""

    name: str
    sources: tuple[Source, ...]
    link: tuple[str, ...] = ()


def sources_in(folder: str, suffix: str) -> list[str]:
    """The sources directly in a folder of csrc, relative to the root."""
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc" / folder).glob(f"*{suffix}"))


def cpu_kernels() -> tuple[Source, ...]:
    """The CPU kernels and their dispatcher, without any torch header: for the ops and for the introspection module."""
    x86 = platform.machine() in ("x86_64", "AMD64")
    # No -march=native: the binary runs anywhere and picks an instruction set at run time.
    avx2 = ("-mavx2", "-mfma", "-mf16c") if x86 else ()
    avx512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma") if x86 else ()
    return (
        Source("csrc/cpu/isa.cpp"),
        Source("csrc/cpu/naive_fprop.cpp"),
        Source("csrc/cpu/naive_dgrad.cpp"),
        Source("csrc/cpu/naive_wgrad.cpp"),
        Source("csrc/cpu/depthwise_window.cpp"),
        Source("csrc/cpu/depthwise_gather.cpp"),
        Source("csrc/cpu/depthwise_gather_avx2.cpp", avx2),
        Source("csrc/cpu/depthwise_gather_avx512.cpp", avx512),
        Source("csrc/cpu/convert_avx2.cpp", avx2),
        Source("csrc/cpu/convert_avx512.cpp", avx512),
        Source("csrc/cpu/depthwise_wgrad.cpp"),
        Source("csrc/cpu/depthwise_wgrad_tiles.cpp"),
        Source("csrc/cpu/depthwise_wgrad_avx2.cpp", avx2),
        Source("csrc/cpu/depthwise_wgrad_avx512.cpp", avx512),
        Source("csrc/cpu/grouped_tiles.cpp"),
        Source("csrc/cpu/grouped_gather.cpp"),
        Source("csrc/cpu/grouped_wgrad.cpp"),
        Source("csrc/cpu/grouped_avx2.cpp", avx2),
        Source("csrc/cpu/grouped_avx512.cpp", avx512),
        Source("csrc/dispatch/cpu.cpp"),
    )


def cuda_kernels() -> list[str]:
    """Every CUDA C++ source: what nvcc compiles for a GPU and g++ for the emulator."""
    return [path for folder in sorted(f.name for f in (ROOT / "csrc").iterdir()) for path in sources_in(folder, ".cu")]


# docs/emulator.md says what these flags are for. -g1 keeps the line numbers that the emulator's errors name.
_EMULATED = ("-U_FORTIFY_SOURCE", f"-I{ROOT}/csrc/simt/include", "-g1")
# -O1 compiles a third sooner than -O2 and runs the tests as fast: switching between fibers takes most of the time.
_FAST = ("-O1", "-fno-ipa-icf", "-Wno-deprecated-copy")
_CHECKED = ("-O1", "-fno-tree-sra", "-fsanitize=thread", "-Wno-deprecated-copy")


def emulated_kernels(checked: bool) -> tuple[Source, ...]:
    """The CUDA kernels and their dispatcher compiled for the emulator, and the emulator itself."""
    variant, flags = ("checked", _CHECKED) if checked else ("simt", _FAST)
    host = [*sources_in("simt", ".cpp"), "csrc/dispatch/device.cpp", "csrc/dispatch/simt.cpp"]
    return (
        *(Source(path, (*_EMULATED, *flags), variant, "kernel") for path in cuda_kernels()),
        *(Source(path, (*_EMULATED, "-O2"), "simt") for path in host if checked or "tsan_callbacks" not in path),
        Source("csrc/conv_problem.cpp"),
    )


def ops(backend: str, key: str) -> tuple[Source, ...]:
    """The ops of a backend, against torch's stable ABI."""
    build_tools.import_torch()
    from torch.utils.cpp_extension import include_paths

    flags = (*(f"-isystem{path}" for path in include_paths()), f"-DTORCH_TARGET_VERSION={STABLE_ABI}")
    named = (*flags, f"-DCONVBOUND_BACKEND={backend}", f"-DCONVBOUND_KEY={key}")
    return (
        Source("csrc/ops/passes.cpp", named, backend),
        Source("csrc/ops/problem.cpp", flags),
        _build_hash(),
    )


def row_op(own: tuple[Source, ...], backend: str, cuda: tuple[str, ...]) -> Source:
    """The op that runs one given row of the registry; `cuda` are the flags by which its headers are found."""
    return Source("csrc/ops/row.cpp", (*own[0].flags, *cuda), backend)


def torch_link() -> tuple[str, ...]:
    """Linker flags of a library of ops: everything it needs is in a CPU torch."""
    build_tools.import_torch()
    from torch.utils.cpp_extension import library_paths

    return (f"-L{library_paths()[0]}", "-ltorch", "-ltorch_cpu", "-lc10", "-Wl,-z,defs")


def _build_hash() -> Source:
    return Source("csrc/ops/build_hash.cpp", (f'-DCONVBOUND_SOURCE_HASH=\\"{source_hash()}\\"',))


def cpu_part() -> Part:
    """The native CPU kernels and their ops."""
    own = ops("cpu", "CPU")
    flags = own[1].flags  # those of every file that includes torch
    sources = (*cpu_kernels(), *own, Source("csrc/ops/cpu.cpp"), Source("csrc/ops/parallel.cpp", flags))
    return Part("libconvbound_cpu", sources, torch_link())


def simt_parts() -> tuple[Part, ...]:
    """The emulated kernels: one library with ops and fast kernels, one with checked kernels, without torch."""
    own = ops("simt", "CPU")
    backend = (*own, row_op(own, "simt", _EMULATED), Source("csrc/ops/simt.cpp", _EMULATED))
    fast = (*emulated_kernels(checked=False), *backend)
    checked = (*emulated_kernels(checked=True), Source("csrc/dispatch/simt_checked.cpp", _EMULATED), _build_hash())
    return (
        Part("libconvbound_simt", fast, (*torch_link(), "-lpthread", "-ldl")),
        Part("libconvbound_simt_checked", checked, ("-Wl,-z,defs", "-lpthread", "-ldl")),
    )


def cuda_part(cuda: build_tools.Cuda) -> Part:
    """The CUDA kernels and their ops; CUDA's runtime is linked statically, so that the library loads without a GPU."""
    include = (f"-isystem{cuda.include}",)
    own = ops("cuda", "CUDA")
    sources = (
        *compiled_kernels(cuda),
        *own,
        row_op(own, "cuda", include),
        Source("csrc/ops/cuda.cpp", (*include, *own[1].flags)),
    )
    return Part("libconvbound_cuda", sources, (*torch_link(), *cuda_link(cuda)))


def compiled_kernels(cuda: build_tools.Cuda) -> tuple[Source, ...]:
    """The CUDA kernels and their dispatcher for a GPU."""
    return (
        *(Source(path, (), "cuda", "nvcc") for path in cuda_kernels()),
        Source("csrc/dispatch/device.cpp", (f"-isystem{cuda.include}",), "cuda"),
        Source("csrc/conv_problem.cpp"),
    )


def cuda_link(cuda: build_tools.Cuda) -> tuple[str, ...]:
    """Linker flags of a library of CUDA kernels."""
    return (f"-L{cuda.libraries}", "-lcudart_static", "-lrt", "-lpthread", "-ldl")


def introspection_part(simt: bool, cuda: build_tools.Cuda | None) -> Part:
    """The Python module that answers which kernel serves a problem; without torch.

    It knows the registry of CUDA kernels where they are built in any way: emulated, or by nvcc alone.
    """
    import pybind11

    python = (f"-isystem{sysconfig.get_paths()['include']}", f"-isystem{pybind11.get_include()}")
    sources = [*cpu_kernels(), Source("csrc/conv_problem.cpp"), _build_hash()]
    include: tuple[str, ...] = ()
    link: tuple[str, ...] = ("-lpthread", "-ldl")
    if simt:
        include = _EMULATED
        sources += [*emulated_kernels(checked=True), Source("csrc/python/device.cpp", (*python, *include))]
    elif cuda is not None:
        include, link = (f"-isystem{cuda.include}",), cuda_link(cuda)
        sources += compiled_kernels(cuda)
    if include:
        sources.append(Source("csrc/python/registry.cpp", (*python, *include)))
    known = (f"-DCONVBOUND_SIMT={int(simt)}", f"-DCONVBOUND_REGISTRY={int(bool(include))}")
    sources.append(Source("csrc/python/introspect.cpp", (*python, *known)))
    return Part("_introspect", tuple(dict.fromkeys(sources)), link)


def parts() -> tuple[tuple[Part, ...], dict[str, str]]:
    """Every part that is built, and why the others are not, by backend."""
    absent = {}
    found: list[Part] = [cpu_part()]
    simt = build_tools.switched_on("CONVBOUND_SIMT")
    if simt:
        found += simt_parts()
    else:
        absent["simt"] = "the emulator is built only where CONVBOUND_SIMT=1 asks for it"
    cuda = build_tools.find_cuda()
    if isinstance(cuda, str):
        absent["cuda"] = cuda
    else:
        found.append(cuda_part(cuda))
    found.append(introspection_part(simt, None if isinstance(cuda, str) else cuda))
    return tuple(found), absent


def all_sources(built: Iterable[Part]) -> list[Source]:
    """The sources of all parts, each once: one that serves two parts is compiled once."""
    sources: dict[str, Source] = {}
    for part in built:
        for source in part.sources:
            if sources.setdefault(source.object, source) != source:
                raise ValueError(f"{source.object} has two sets of flags: {source} and {sources[source.object]}")
    return list(sources.values())
