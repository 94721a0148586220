"""The documents are true to the tree: files that they name, pictures and tables that scripts make, links."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support import device
from support.device import native

from convbound import _library
from convbound.gpus import GPUS
from convbound.problem import ConvProblem

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")])
# Ends of file names; a name without a folder may stand in any one.
SUFFIXES = ("py", "pyi", "cu", "h", "cpp", "inc", "md", "csv", "json", "svg", "png", "sh", "toml")
# Files that a run writes.
WRITTEN = {
    "rows.csv",
    "rows.jsonl",
    "steps.jsonl",
    "result.json",
    "table.txt",
    "roofline.png",
    "tuning.json",
    "results/gpu-check.json",
}
WRITTEN |= {"results/fuzz.json", "traces.json", "model.py", "profile.csv"}


def named(page: Path) -> list[str]:
    """The files and folders that a page names in backticks, outside of blocks of code."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    quoted = re.findall(r"`([\w./*-]+)`", text)
    split = [(name, *name.rpartition(".")) for name in quoted]
    return [name for name, stem, _, suffix in split if name.endswith("/") or (stem and suffix in SUFFIXES)]


def exists(name: str, page: Path) -> bool:
    if name in WRITTEN:
        return True
    if "/" in name.rstrip("/"):
        return any(any(folder.glob(name)) for folder in (ROOT, ROOT / "csrc", ROOT / "pytorch_ext", page.parent))
    tops = [ROOT / top for top in ("csrc", "kernels", "pytorch_ext", "bench", "tests", "docs", ".ci")]
    return any(ROOT.glob(name)) or any(any(top.rglob(name.rstrip("/"))) for top in tops)


def script(name: str) -> ModuleType:
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path):
    assert [name for name in named(page) if not exists(name, page)] == []


def test_files_are_found_in_backticks_only_where_they_are(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "`csrc/registry.h`, `gone.cu`, `csrc/gone/`, `conv2d`, `0.97`, `torch.func`\n```\n`other.cu`\n```\n"
    )
    assert named(page) == ["csrc/registry.h", "gone.cu", "csrc/gone/"]
    assert [exists(name, page) for name in named(page)] == [True, False, False]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_headings_lead_to_one(page: Path):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*\.md|)#([^)]+)\)", page.read_text(encoding="utf-8")):
        other = page.parent / target if target else page
        headings = re.findall(r"^#+ (.*)$", other.read_text(encoding="utf-8"), flags=re.MULTILINE)
        slugs = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
        assert anchor in slugs, f"{target}#{anchor}"


def test_the_example_of_profile_prints_what_its_page_shows(capsys: pytest.CaptureFixture[str]):
    page = (DOCS / "profile.md").read_text(encoding="utf-8")
    code, shown = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL)[0] for kind in ("python", "text"))
    exec(code, {})
    # The columns behind these depend on the machine.
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in shown.splitlines() if not any(row.startswith(line) for row in printed)] == []


def test_the_index_has_every_page():
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    missing = [page.name for page in DOCS.glob("*.md") if page.name != "README.md" and f"({page.name})" not in index]
    assert missing == []


def test_pictures_are_what_the_script_draws():
    figures = script("figures").FIGURES
    assert len(figures) == 4
    for name, draw in figures.items():
        assert (DOCS / name).read_text(encoding="utf-8") == str(draw()), f"{name}: run python docs/figures.py"


def test_xrays_show_what_the_emulator_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    xrays = script("xrays")
    texts = {name: re.findall(r"<text[^>]*>([^<]*)</text>", (DOCS / name).read_text()) for name in xrays.XRAYS}
    for name, (problem, layout, _, kernels) in xrays.XRAYS.items():
        shown = texts[name]
        assert [text for text in shown if text in kernels] == list(kernels)
        assert shown.count(f"fprop of depthwise {problem}") == len(kernels)
        assert sum(text.startswith(f"fp16 {layout}, batch ") for text in shown) == len(kernels)
        assert (DOCS / name).stat().st_size < 300_000
    if device.ABSENT is not None:
        pytest.skip(f"no emulated kernels: {device.ABSENT}")
    monkeypatch.setattr(xrays, "__file__", str(tmp_path / "xrays.py"))
    assert xrays.main(["xray_halo.svg"]) == 0
    drawn = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "xray_halo.svg").read_text())
    # The ticks of a scale and the lines of a source may move; the counts may not.
    counts = [
        [t for t in found if t.startswith("mean ") or " requests, " in t] for found in (drawn, texts["xray_halo.svg"])
    ]
    assert counts[0] == counts[1], "run make docs"


def test_xrays_say_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(_library, "introspect", "this package was built without it")
    assert script("xrays").main(["xray.svg"]) == 1
    assert capsys.readouterr().err == "docs/xrays.py: trace: this package was built without it\n"


def test_the_table_of_gpus_is_that_of_the_package():
    text = (DOCS / "traffic.md").read_text(encoding="utf-8")
    for gpu in GPUS:
        numbers = (gpu.sms, gpu.clock / 1e9, gpu.dram / 1e9, gpu.fp32_lanes, gpu.fp64_lanes)
        assert f"| {gpu.name} | {gpu.profile} | {' | '.join(f'{number:g}' for number in numbers)} |\n" in text


def test_the_table_of_kernels_is_what_the_script_makes():
    pytest.importorskip("triton")
    if not hasattr(_library.introspect, "device_select"):
        pytest.skip("built without the registry of CUDA kernels")
    writer = script("kernel_table")
    _, _, text = writer.DOCUMENT.read_text(encoding="utf-8").partition(writer.START)
    committed, _, _ = text.partition(writer.END)
    assert committed.strip() == writer.markdown(), "run python docs/kernel_table.py"


@pytest.mark.parametrize(
    ("problem", "pass_", "layout"),
    [
        ("mb8g96ic96ih56oc96kh3sh2ph2dh2", "fprop", "NCHW"),
        ("mb8g96ic96ih56oc192kh3ph1", "dgrad", "NCHW"),
        ("mb8g96ic96ih560oc96kh3ph20dh20", "wgrad", "NHWC"),
    ],
)
def test_depthwise_problems_that_kernels_for_groups_serve(problem: str, pass_: str, layout: str):
    if not hasattr(_library.introspect, "device_select"):
        pytest.skip("built without the registry of CUDA kernels")
    introspect: Any = _library.introspect
    row = introspect.device_select(
        introspect.Pass[pass_],
        native(ConvProblem.parse(problem)),
        introspect.DType.fp16,
        introspect.Layout[layout],
        *introspect.simt_profile("sm_90"),
    )
    assert row["name"].startswith("grouped_"), "docs/depthwise.md and CHANGELOG.md name them"


def test_rows_that_a_lesson_shows_stand_in_the_whole_table():
    for page in ("depthwise.md", "cpu.md"):
        text, table = ((folder / page).read_text(encoding="utf-8") for folder in (DOCS, DOCS / "tables"))
        _, _, lesson = text.partition(f"(tables/{page})")
        shown = re.match(r"[^|]*((?:\|.*\n)+)", lesson)
        assert shown is not None
        assert len(shown[1].splitlines()) >= 5
        assert [line for line in shown[1].splitlines() if line not in table] == []
