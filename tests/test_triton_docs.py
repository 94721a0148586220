"""Excerpts of kernels in the documents are in the tree, word for word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = {"docs/depthwise.md": "## The same steps in Triton", "docs/implicit_gemm.md": "## One step"}


def excerpts(document: str) -> list[tuple[str, str]]:
    """The file that was named last, and the text, of each block of code."""
    text = (ROOT / document).read_text().partition(DOCUMENTS[document])[2]
    found, file = [], ""
    for named, code in re.findall(r"`((?:csrc|kernels)/[\w/.]+)`|```(?:cpp|python)\n(.*?)```", text, flags=re.DOTALL):
        file = named or file
        if code:
            found.append((file, code))
    return found


def unindented(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_excerpts_are_in_the_tree(document: str):
    found = excerpts(document)
    assert len(found) >= 6
    for file, code in found:
        assert unindented(code) in unindented((ROOT / file).read_text()), f"{file} has no\n{code}"
