"""Finding nvcc and choosing architectures, without building anything."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from convbound import _library

CSRC = Path(__file__).resolve().parent.parent / "csrc"
VARIABLES = ("CONVBOUND_CUDA", "TORCH_CUDA_ARCH_LIST", "CUDACXX", "CUDA_HOME")


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


def fake_nvcc(folder: Path, version: str) -> str:
    """A program that answers like an nvcc whose toolkit is the folder."""
    for file in ("lib/libcudart_static.a", "include/cuda_runtime.h"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    nvcc = folder / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho 'release {version}, V{version}.1'\necho '#$ TOP={folder}/.'\n")
    nvcc.chmod(0o755)
    return str(nvcc)


def test_architectures(tools: ModuleType, monkeypatch: pytest.MonkeyPatch):
    gpus: dict[str, str | None] = {"nvidia-smi": None}
    monkeypatch.setattr(tools, "output_of", lambda *command: gpus[command[0]])
    assert tools.architectures() == ("8.0+PTX", "9.0")
    gpus["nvidia-smi"] = "9.0\n8.6\n9.0\n"
    assert tools.architectures() == ("8.6", "9.0")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0 8.6;9.0a+PTX")
    assert tools.architectures() == ("8.0", "8.6", "9.0a+PTX")
    for wrong in ("Hopper", "8.0,9.0", "7.0"):
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", wrong)
        with pytest.raises(SystemExit, match=wrong):
            tools.architectures()


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


def test_the_registry_is_known_wherever_its_kernels_are_built(tools: ModuleType, monkeypatch: pytest.MonkeyPatch):
    """`auto` asks it which kernels compete on a GPU, whether or not the emulator is built."""
    pytest.importorskip("pybind11")
    monkeypatch.syspath_prepend(CSRC)
    monkeypatch.delitem(sys.modules, "build_parts", raising=False)
    build_parts = importlib.import_module("build_parts")
    monkeypatch.delitem(sys.modules, "build_parts")
    cuda = tools.Cuda("nvcc", "13.0", "include", "lib", ("9.0",))
    for simt, found in ((True, cuda), (True, None), (False, cuda), (False, None)):
        part = build_parts.introspection_part(simt, found)
        paths = [source.path for source in part.sources]
        known = simt or found is not None
        assert ("csrc/python/registry.cpp" in paths, "csrc/dispatch/device.cpp" in paths) == (known, known)
        assert ("csrc/python/device.cpp" in paths) is simt
        assert {"nvcc", "kernel"}.intersection(s.rule for s in part.sources) == (
            {"kernel" if simt else "nvcc"} if known else set()
        )


def test_a_word_that_is_no_choice(tools: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONVBOUND_CUDA", "yes")
    with pytest.raises(SystemExit, match="CONVBOUND_CUDA='yes' must be auto, 1 or 0"):
        tools.find_cuda()


def test_kernels_of_another_cuda_are_not_loaded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_library, "build_info", lambda: {"cuda": {"nvcc": "13.0"}})
    for version, fits in {None: True, "13.2": True, "12.8": False}.items():
        monkeypatch.setattr(torch.version, "cuda", version)
        assert (_library._other_cuda() is None) == fits
    assert _library._other_cuda() == "the CUDA kernels were built by CUDA 13.0, but torch is of CUDA 12.8"
