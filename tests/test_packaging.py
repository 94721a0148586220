"""What is shipped: the sdist builds, the wheel is whole and holds nothing stale, a build without torch says why."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

packaging = pytest.mark.packaging


def run(*command: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    result = run("-m", "build", "--sdist", "--no-isolation", "--outdir", str(out), ".")
    assert result.returncode == 0, result.stderr
    return next(out.glob("convbound-*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the unpacked sdist, so that a file missing from it shows; with a stale binary lying about."""
    out = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(out, filter="data")
    tree = next(out.glob("convbound-*"))
    (tree / "pytorch_ext" / "libconvbound_gone.so").write_bytes(b"stale")
    stale = tree / "build" / f"lib.stale-{sys.implementation.cache_tag}" / "convbound"
    stale.mkdir(parents=True)
    # Without CUDA and the emulator, which make test builds: so a part that is turned off is seen to stay out.
    pip = ("-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(out), str(tree))
    result = run(*pip, CONVBOUND_CUDA="0", CONVBOUND_SIMT="")
    assert result.returncode == 0, result.stdout + result.stderr
    return next(out.glob("convbound-*.whl"))


@packaging
def test_wheel_contains_the_whole_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for package, folder in {
        "convbound": "pytorch_ext",
        "convbound/kernels": "kernels",
        "convbound/bench": "bench",
    }.items():
        modules = [path.relative_to(ROOT / folder).as_posix() for path in (ROOT / folder).rglob("*.py")]
        assert {f"{package}/{module}" for module in modules} <= set(names)
    for file in ("py.typed", "build_info.json", "_introspect.pyi", "libconvbound_cpu.so"):
        assert f"convbound/{file}" in names
    assert any(name.startswith("convbound/bench/layers/") for name in names)
    assert any(name.startswith("convbound/_introspect.cpython") for name in names)
    absent = ("gone", "libconvbound_cuda", "libconvbound_simt")
    assert not [name for name in names if any(part in name for part in absent)]
    assert not [name for name in names if not name.startswith("convbound")]


@packaging
def test_installed_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    result = run("-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    assert result.returncode == 0, result.stderr
    code = (
        "import torch, convbound; print(convbound.__file__);"
        "x = torch.ones(1, 4, 5, 5); w = torch.ones(4, 1, 3, 3);"
        "print(convbound.conv2d(x, w, groups=4, backend='cpu').sum().item())"
    )
    result = run("-c", code, cwd=tmp_path, PYTHONPATH=str(target))
    assert result.stdout.split() == [str(target / "convbound" / "__init__.py"), "324.0"], result.stderr
    problem = "mb1g2ic2ih9oc2kh3"
    emulator = "CONVBOUND_SIMT=1 asks for it; build it with: make simt, or CONVBOUND_SIMT=1 pip install"
    for command, expected in (
        (["convbound"], "backend='auto'"),
        (["convbound"], "absent: CONVBOUND_CUDA=0 turned it off"),
        (["convbound"], emulator),
        (["convbound", "explain", problem], "depthwise_fprop"),
        (["convbound", "explain", problem, "--backend", "simt"], emulator),
        (["convbound.bench", "--list"], "mobilenet_v2"),
        (["convbound.bench", "--problem", problem, "--time", "1", "--plain"], "fprop"),
    ):
        result = run("-m", *command, cwd=tmp_path, PYTHONPATH=str(target))
        assert result.returncode == 0, result.stderr
        assert expected in result.stdout
    result = run("-m", "convbound", "trace", problem, cwd=tmp_path, PYTHONPATH=str(target))
    assert "this build has no emulated CUDA kernels; build it with: make simt" in result.stderr


@packaging
def test_library_of_other_sources_is_refused(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    assert run("-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)).returncode == 0
    info = target / "convbound" / "build_info.json"
    info.write_text(info.read_text().replace('"source_hash": "', '"source_hash": "0'))
    result = run("-m", "convbound", cwd=tmp_path, PYTHONPATH=str(target))
    assert result.returncode == 0, result.stderr
    assert "was built from other sources" in result.stdout


def test_build_without_torch_says_what_to_run() -> None:
    code = (
        "import sys, runpy; sys.modules['torch'] = None; sys.argv = ['setup.py', 'dist_info'];"
        "runpy.run_path('setup.py', run_name='__main__')"
    )
    result = run("-c", code)
    assert result.returncode == 1
    assert result.stderr.strip().count("\n") == 0
    assert "pip install --no-build-isolation ." in result.stderr


def test_version_has_one_source() -> None:
    import convbound

    assert (ROOT / "pytorch_ext" / "_version.py").read_text().count(f'"{convbound.__version__}"') == 1
