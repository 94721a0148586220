"""Finding nvcc and choosing architectures, without building anything."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from convbound import _library

CSRC = Path(__file__).resolve().parent.parent / "csrc"
VARIABLES = ("CONVBOUND_CUDA", "CONVBOUND_SIMT", "CONVBOUND_WERROR", "TORCH_CUDA_ARCH_LIST", "CUDACXX", "CUDA_HOME")


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """csrc/build_tools.py, fresh, in an environment that asks for nothing, beside a torch of CUDA 13.0."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    spec = importlib.util.spec_from_file_location("build_tools", CSRC / "build_tools.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "build_tools", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "import_torch", lambda: SimpleNamespace(version=SimpleNamespace(cuda="13.0")))
    return module


@pytest.fixture
def parts(tools: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """csrc/build_parts.py, beside these tools."""
    pytest.importorskip("pybind11")
    monkeypatch.syspath_prepend(CSRC)
    for name in ("build_parts", "source_hash"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("build_parts")
    for name in ("build_parts", "source_hash"):
        monkeypatch.delitem(sys.modules, name)
    return module


def fake_nvcc(folder: Path, version: str) -> str:
    """A program that answers like an nvcc whose toolkit is the folder, and which knows 7.5, 8.0 and 9.0."""
    for file in ("lib/libcudart_static.a", "include/cuda_runtime.h"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    nvcc = folder / "nvcc"
    nvcc.write_text(
        f"#!/bin/sh\necho 'release {version}, V{version}.1'\necho '#$ TOP={folder}/.'\n"
        "printf 'compute_%s\\n' 75 90 80 90a\n"
    )
    nvcc.chmod(0o755)
    return str(nvcc)


def with_gpus(tools: ModuleType, monkeypatch: pytest.MonkeyPatch, *found: str) -> None:
    """GPUs of these compute capabilities, or none."""
    ask = tools.output_of
    smi = "\n".join(found) if found else None
    monkeypatch.setattr(tools, "output_of", lambda *command: smi if command[0] == "nvidia-smi" else ask(*command))


def test_architectures_that_are_asked_for(tools: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    nvcc = fake_nvcc(tmp_path, "13.0")
    with_gpus(tools, monkeypatch, "9.0")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0 8.6;9.0a+PTX")
    assert tools.architectures(nvcc) == ("8.0", "8.6", "9.0a+PTX")
    for wrong in ("Hopper", "8.0,9.0", "7.0"):
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", wrong)
        with pytest.raises(SystemExit, match=wrong):
            tools.architectures(nvcc)


@pytest.mark.parametrize(
    ("gpus", "wanted"),
    [
        ((), ("8.0+PTX", "9.0")),
        (("8.0",), ("8.0+PTX",)),
        (("9.0", "8.0", "9.0"), ("8.0", "9.0+PTX")),
    ],
)
def test_the_newest_gpu_present_gets_ptx_too(
    tools: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    gpus: tuple[str, ...],
    wanted: tuple[str, ...],
):
    with_gpus(tools, monkeypatch, *gpus)
    assert tools.architectures(fake_nvcc(tmp_path, "13.0")) == wanted
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("gpus", "wanted", "told"),
    [
        (("12.0",), ("9.0+PTX",), "the compute capability 12.0 of the GPU here: it gets PTX of 9.0"),
        (("8.6", "7.5"), ("7.5", "8.0+PTX"), "the compute capability 8.6 of the GPU here: it gets PTX of 8.0"),
    ],
)
def test_a_gpu_newer_than_nvcc_gets_ptx(
    tools: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    gpus: tuple[str, ...],
    wanted: tuple[str, ...],
    told: str,
):
    with_gpus(tools, monkeypatch, *gpus)
    assert tools.architectures(fake_nvcc(tmp_path, "12.4")) == wanted
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_a_gpu_that_is_too_old(tools: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with_gpus(tools, monkeypatch, "7.0")
    with pytest.raises(SystemExit, match=r"a GPU of compute capability 7\.0 is too old; the kernels need 7\.5"):
        tools.architectures(fake_nvcc(tmp_path, "13.0"))


def test_flags_of_the_architectures(tools: ModuleType):
    cuda = tools.Cuda("nvcc", "13.0", "include", "lib", ("8.0+PTX", "9.0"))
    assert cuda.target_flags == (
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_80,code=compute_80",
        "-gencode=arch=compute_90,code=sm_90",
    )


def test_cuda_is_found(tools: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("CUDACXX", fake_nvcc(tmp_path, "13.1"))
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    found = tools.find_cuda()
    assert (found.version, found.include) == ("13.1", str(tmp_path / "include"))
    assert (found.libraries, found.architectures) == (str(tmp_path / "lib"), ("9.0",))


@pytest.mark.parametrize(
    ("wanted", "torch_cuda", "nvcc", "message"),
    [
        ("0", "13.0", "13.0", "CONVBOUND_CUDA=0 turned it off"),
        ("auto", None, "13.0", r"this torch is a CPU build \(CONVBOUND_CUDA=1 builds it nevertheless\)"),
        ("auto", "12.8", "13.0", r"is of CUDA 13.0, but torch is of CUDA 12.8.*cuda-toolkit\[.*==12.8"),
        ("auto", "13.0", None, r"nvcc was not found: pip install 'cuda-toolkit\[nvcc,cccl,cudart\]==13.0"),
    ],
)
def test_why_there_is_no_cuda(
    tools: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    wanted: str,
    torch_cuda: str | None,
    nvcc: str | None,
    message: str,
):
    monkeypatch.setenv("CONVBOUND_CUDA", wanted)
    monkeypatch.setattr(tools, "import_torch", lambda: SimpleNamespace(version=SimpleNamespace(cuda=torch_cuda)))
    monkeypatch.setattr(tools, "find_nvcc", lambda: nvcc and fake_nvcc(tmp_path, nvcc))
    why = tools.find_cuda()
    assert isinstance(why, str)
    assert re.search(message, why)
    if wanted != "0" and torch_cuda is not None:
        tools.find_cuda.cache_clear()
        monkeypatch.setenv("CONVBOUND_CUDA", "1")
        with pytest.raises(SystemExit, match=message):
            tools.find_cuda()


def test_the_registry_is_known_wherever_its_kernels_are_built(tools: ModuleType, parts: ModuleType):
    """`auto` asks it which kernels compete on a GPU, whether or not the emulator is built."""
    cuda = tools.Cuda("nvcc", "13.0", "include", "lib", ("9.0",))
    for simt, found in ((True, cuda), (True, None), (False, cuda), (False, None)):
        part = parts.introspection_part(simt, found)
        paths = [source.path for source in part.sources]
        known = simt or found is not None
        assert ("csrc/python/registry.cpp" in paths, "csrc/dispatch/device.cpp" in paths) == (known, known)
        assert ("csrc/python/device.cpp" in paths) is simt
        assert {"nvcc", "kernel"}.intersection(s.rule for s in part.sources) == (
            {"kernel" if simt else "nvcc"} if known else set()
        )


def test_the_emulator_is_built_where_it_is_asked_for(
    tools: ModuleType, parts: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tools, "import_torch", lambda: torch)
    monkeypatch.setenv("CONVBOUND_CUDA", "0")
    for value, built in {"": False, "0": False, "1": True}.items():
        monkeypatch.setenv("CONVBOUND_SIMT", value)
        found, absent = parts.parts()
        emulated = [part.name for part in found if "simt" in part.name]
        assert emulated == (["libconvbound_simt", "libconvbound_simt_checked"] if built else [])
        assert ("CONVBOUND_SIMT=1" in absent.get("simt", "")) is not built
        tools.find_cuda.cache_clear()


def test_a_word_that_is_no_choice(tools: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONVBOUND_CUDA", "yes")
    with pytest.raises(SystemExit, match="CONVBOUND_CUDA='yes' must be auto, 1 or 0"):
        tools.find_cuda()
    monkeypatch.setenv("CONVBOUND_WERROR", "yes")
    with pytest.raises(SystemExit, match="CONVBOUND_WERROR='yes' must be 0 or 1"):
        tools.switched_on("CONVBOUND_WERROR")


def test_cpu_seconds_of_a_command(tmp_path: Path):
    def run(code: str) -> subprocess.CompletedProcess[str]:
        command = (CSRC / "cpu_seconds.py", tmp_path / "seconds", sys.executable, "-c", code)
        return subprocess.run([sys.executable, *command], capture_output=True, text=True)

    done = run("import time\nwhile time.process_time() < 0.3: pass\nprint('x')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "x\n", "")
    assert 0.2 <= float((tmp_path / "seconds").read_text()) < 30
    assert run("raise SystemExit(3)").returncode == 3


def test_kernels_of_another_cuda_are_not_loaded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_library, "build_info", lambda: {"cuda": {"nvcc": "13.0"}})
    for version, fits in {None: True, "13.2": True, "12.8": False}.items():
        monkeypatch.setattr(torch.version, "cuda", version)
        assert (_library._other_cuda() is None) == fits
    assert _library._other_cuda() == "the CUDA kernels were built by CUDA 13.0, but torch is of CUDA 12.8"
