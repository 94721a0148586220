"""Rules for CUDA C++ sources that neither compiler checks; docs/architecture.md has the list with the reasons."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parent.parent / "csrc"
HOST_ONLY = ("cpu", "dispatch", "ops", "python", "simt")
FILES = sorted(
    path
    for path in CSRC.rglob("*")
    if path.suffix in (".cu", ".cuh", ".h", ".inc") and path.relative_to(CSRC).parts[0] not in HOST_ONLY
)
TWO_BUILDS = ("common/ptx.h",)  # where device and host definitions stand side by side


def without_comments(text: str) -> str:
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)


def conditions(text: str) -> list[str]:
    """The conditions of all for and while loops."""
    found = []
    for loop in re.finditer(r"\b(for|while) \(", text):
        depth, end = 1, loop.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        inside = text[loop.end() : end - 1]
        if loop[1] == "while":
            found.append(inside)
        elif ";" in inside:
            found.append(inside.split(";")[1].strip())
    return found


def complaints(name: str, text: str) -> list[str]:
    """What breaks the rules in a file."""
    text = without_comments(text)
    found = []
    if "<<<" in text:
        found.append("<<<>>>: launch through common/launch.h")
    found += [f"includes {path}" for path in re.findall(r'#include [<"]((?:torch|ATen|c10)/[^>"]*)', text)]
    if name not in TWO_BUILDS:
        found += [f"#{word}: kernels are the same text in both builds" for word in re.findall(r"# *(if\w*)\b", text)]
    for kernel in re.findall(r"__global__[^;{]*", text):
        if "__launch_bounds__" not in kernel:
            found.append(f"no __launch_bounds__: {' '.join(kernel.split())}")
        if "const __grid_constant__" not in kernel:
            found.append(f"parameters that are not const __grid_constant__: {' '.join(kernel.split())}")
    # nvcc 13.0 loses the remainder of an unrolled loop with an inclusive or clipped condition.
    found += [
        f"loop condition {condition!r}: count to a plain bound, with a predicate inside"
        for condition in conditions(text)
        if not re.fullmatch(r"\w+ (< [\w.:]+|> 0)", condition)
    ]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CSRC).as_posix())
def test_source(path: Path):
    assert complaints(path.relative_to(CSRC).as_posix(), path.read_text()) == []


WRONG = {
    "kernel<<<grid, block>>>(p);": "<<<>>>",
    "#include <torch/types.h>": "includes torch/types.h",
    "#ifdef __CUDACC__": "#ifdef",
    "__global__ void k(const __grid_constant__ P p) {}": "no __launch_bounds__",
    "__global__ void __launch_bounds__(32) k(P p) {}": "__grid_constant__",
    "for (int h = 0; h <= last; h++) {}": "h <= last",
    "for (int h = first; h < min(height, last); h++) {}": "min(height, last)",
    "while (h <= last) h++;": "h <= last",
}


@pytest.mark.parametrize("text", WRONG)
def test_the_rules_are_checked(text: str):
    assert [WRONG[text] in complaint for complaint in complaints("some.cu", text)] == [True]


def test_what_keeps_to_the_rules():
    assert FILES
    assert complaints("some.cu", "for (int i = 0; i < p.h.filter; i++) for (int m = 16; m > 0; m /= 2) {}") == []
