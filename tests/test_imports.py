"""Modules import those below them: there are no circles, not even inside functions, and nothing needs the benchmark."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"convbound": "pytorch_ext", "convbound.kernels": "kernels", "convbound.bench": "bench"}


def modules() -> dict[str, Path]:
    """The source file of each module, by its name; compiled ones stand for themselves by their stubs."""
    found = {}
    for package, folder in FOLDERS.items():
        for suffix in ("*.py", "*.pyi"):
            for file in (ROOT / folder).rglob(suffix):
                parts = file.relative_to(ROOT / folder).with_suffix("").parts
                found[".".join((package, *parts)).removesuffix(".__init__")] = file
    return found


def imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """All import statements, those in functions too, but for what only type checkers see."""
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        children: list[ast.AST] = list(node.orelse)
    else:
        children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    for child in children:
        yield from imports(child)


def dependencies(source: str, known: set[str]) -> set[str]:
    """The modules of `known` that a source names; their packages, which Python imports first, are not counted."""
    found = set()
    for statement in imports(ast.parse(source)):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
            continue
        assert not statement.level, "a relative import"
        for alias in statement.names:
            module = f"{statement.module}.{alias.name}"
            found.add(module if module in known else str(statement.module))
    return found & known


FILES = modules()
GRAPH = {name: dependencies(file.read_text(encoding="utf-8"), FILES.keys() - {name}) for name, file in FILES.items()}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one circle, or none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_there_are_no_circles():
    assert {"convbound", "convbound.choice", "convbound.kernels.ops", "convbound.bench.cli"} < GRAPH.keys()
    assert not circle(GRAPH)


def test_nothing_but_the_benchmark_imports_the_benchmark():
    users = {
        name
        for name, found in GRAPH.items()
        if not name.startswith("convbound.bench") and any(module.startswith("convbound.bench") for module in found)
    }
    assert not users


@pytest.mark.parametrize(
    "source",
    ["import a.b", "from a import b", "from a.b import c", "def f():\n    from a import b", "if x:\n    import a.b"],
)
def test_every_kind_of_import_counts(source: str):
    assert dependencies(source, {"a", "a.b"}) == {"a.b"}
    assert circle({"a.b": {"d"}, "d": dependencies(source, {"a.b"})})


def test_what_only_type_checkers_see_does_not_count():
    source = "if TYPE_CHECKING:\n    import a.b\nelse:\n    import a"
    assert dependencies(source, {"a", "a.b"}) == {"a"}
