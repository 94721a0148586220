"""What `auto` prefers untried is what the result files bear out, and never a naive kernel; refusals say why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import convbound
from convbound.choice import backends, cpu_table
from convbound.choice.cpu_table import Row, Rule
from convbound.problem import DTYPE_NAMES, DTYPES, LAYOUTS, NAMED_DTYPES, PASSES, ConvProblem
from convbound.serving import serving_kernel

ROOT = Path(__file__).resolve().parent.parent
RESULTS = [json.loads(file.read_text()) for file in sorted(ROOT.glob(cpu_table.EVIDENCE))]
MEASURED: list[dict[str, Any]] = [
    {**row, "isa": result["machine"]["isa"].lower()}
    for result in RESULTS
    for row in result["rows"]
    if row["backend"] == "cpu" and row["layer"] != "overhead" and row["status"] == "ok"
]
needs_simd = pytest.mark.skipif(
    backends.CPU_ISA not in cpu_table.MEASURED_ISAS, reason="no SIMD kernel on this instruction set"
)


def case(row: dict[str, Any]) -> tuple[Any, ...]:
    return ConvProblem.parse(row["problem"]), row["pass"], NAMED_DTYPES[row["dtype"]], row["layout"], row["isa"]


def preferred(row: dict[str, Any]) -> bool:
    return cpu_table.look_up(*case(row)).backend == "cpu"


def name(part: Row | Rule) -> str:
    if isinstance(part, Rule):
        return part.reason[:20].strip()
    return "-".join((part.family, part.pass_, DTYPE_NAMES[part.dtype], part.layout, *part.isas))


def test_no_preferred_kernel_was_measured_slower():
    slower = [
        (row["problem"], row["pass"], row["layout"])
        for row in MEASURED
        if preferred(row) and row["speedup_same_layout"] < 0.97
    ]
    assert not slower


@pytest.mark.parametrize("row", cpu_table.TABLE, ids=name)
def test_every_row_has_evidence(row: Row):
    assert sum(cpu_table.find_row(*case(measured)) is row and preferred(measured) for measured in MEASURED) >= 20


def test_a_problem_belongs_to_one_row_at_most():
    keys = [(row.family, row.pass_, row.dtype, row.layout, isa) for row in cpu_table.TABLE for isa in row.isas]
    assert len(set(keys)) == len(keys)
    for row in cpu_table.TABLE:
        assert row.pass_ in PASSES
        assert row.dtype in DTYPES
        assert row.layout in LAYOUTS


@needs_simd
def test_rows_name_the_kernels_that_serve():
    for row in filter(preferred, MEASURED):
        problem, pass_, dtype, layout, _ = case(row)
        served = serving_kernel(problem, pass_, dtype, layout, "cpu")
        assert served.name == f"{cpu_table.family(problem)}_{pass_}", row["problem"]


# Problems that torch serves, and words of the reason; each rule has one of its own at least.
REFUSED = {
    "stride 3 along W is gathered lane by lane; torch is faster": "g16ic16ih32oc16kh3sh3",
    "stride 3 along W is gathered lane by lane, for a filter only 3 wide": "g16ic16ih32oc16kh3sh3",
    "a filter 8 wide overlaps itself at stride 4": "g64ic64ih32oc64kh8sh4ph2",
    "layers of 1024 channels have small planes; torch skips": "g1024ic1024ih9oc1024kh9ph4",
    "layers of 512 channels have small planes; with a filter 27 wide": "g512ic512ih14oc512kh27ph13",
    "layers of 256 channels have small planes; to interleave": "g256ic256ih16oc256kh4sh2ph1",
    "layers of 240 channels have small planes, which the kernel reads": "g240ic240ih14oc240kh3ph1",
    "with a filter of depth, height or width 1": "g24ic24id16ih56oc24kd5kh1pd2ph0",
    "with a stride above 4 there is too little to do": "g64ic64ih40oc64kh8sh8",
    "54 channels leave the last vector": "g54ic54id8oc54kd3pd1",
    "few taps and 32 channels": "g32ic32ih112oc32kh3ph1",
    "torch has vector kernels for this in bf16 with AVX-512": "g144ic144ih14oc144kh3ph1",
    "grouped layers were measured with 4 channels per group or more": "g8ic16ih9oc16kh3ph1",
    "with 40 channels per group in 2-D torch is faster": "g4ic160ih9oc160kh3ph1",
    "with a stride, to transpose each tile of NHWC": "g8ic32ih9oc32kh3sh2ph1",
    "native kernels take 2 to 32 channels per group, not 40": "g2ic80ih9oc80kh3ph1",
}


@pytest.mark.parametrize(
    ("row", "rule"), [(row, rule) for row in cpu_table.TABLE for rule in row.rules], ids=lambda value: name(value)
)
def test_explain_says_why_torch_serves(row: Row, rule: Rule, monkeypatch: pytest.MonkeyPatch):
    words, text = next(
        (words, text) for words, text in REFUSED.items() if words in (rule.refusal(ConvProblem.parse(text)) or "")
    )
    monkeypatch.setattr(backends, "CPU_ISA", row.isas[0])
    explanation = convbound.explain(text, dtype=row.dtype, layout=row.layout)
    found = next(found for found in explanation.passes if found.pass_ == row.pass_)
    assert found.backend == "torch"
    assert words in found.reason
    assert found.reason in str(explanation)


@pytest.mark.parametrize(
    ("text", "case", "reason"),
    [
        ("ic8ih9oc8kh3", ("fprop", torch.float32, "NCHW"), "dense (groups=1): there are no native kernels for it"),
        (
            "g8ic8ih9oc8kh3",
            ("fprop", torch.bfloat16, "NHWC"),
            "depthwise fprop in bf16 NHWC: no native kernels were measured faster on avx512",
        ),
        (
            "g2ic8ih9oc8kh3",
            ("wgrad", torch.float64, "NCHW"),
            "grouped wgrad in fp64 NCHW: no native kernels were measured faster on avx512",
        ),
        ("g4ic40ih9oc60kh3", ("fprop", torch.float32, "NCHW"), ""),
        ("g4ic40ih9oc200kh3", ("fprop", torch.float32, "NCHW"), "grouped layers were measured with 4 channels"),
        ("g4ic40ih9oc40kh5", ("fprop", torch.float32, "NCHW"), "and filters up to 4, stride 2 and no dilation"),
        ("g4ic128ih9oc128kh3sh2", ("dgrad", torch.float32, "NCHW"), ""),
        ("g4ic128ih9oc128kh3", ("dgrad", torch.float32, "NCHW"), "with 32 channels per group in 2-D torch is faster"),
    ],
)
def test_what_no_row_names_has_a_reason_too(text: str, case: Any, reason: str):
    found = cpu_table.look_up(ConvProblem.parse(text), *case, "avx512")
    assert found.backend == ("torch" if reason else "cpu")
    assert reason in found.reason


@pytest.mark.parametrize(
    ("capabilities", "computes"), [({"avx512_fp16": False}, False), ({"avx512_fp16": True}, True), ({}, True)]
)
def test_fp16_is_torchs_where_it_may_have_instructions_for_it(
    capabilities: dict[str, bool], computes: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert cpu_table._torch_computes_fp16() == computes
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert cpu_table._torch_computes_fp16()


@needs_simd
def test_auto_takes_a_mixed_plan():
    explanation = convbound.explain("mb8g64ic64ih112oc64kh8sh4ph2", layout="NHWC")
    assert [row.backend for row in explanation.passes] == ["cpu", "torch", "cpu"]
    explanation = convbound.explain("mb8g32ic32ih112oc32kh3ph1", layout="NHWC")
    assert [row.backend for row in explanation.passes] == ["torch", "cpu", "cpu"]


@pytest.mark.parametrize("isa", ["generic", "none"])
def test_nothing_is_preferred_on_an_unmeasured_instruction_set(monkeypatch: pytest.MonkeyPatch, isa: str):
    monkeypatch.setattr(backends, "CPU_ISA", isa)
    explanation = convbound.explain("mb8g144ic144ih56oc144kh3ph1")
    assert [row.backend for row in explanation.passes] == ["torch"] * 3
    assert f"nothing was measured on the instruction set {isa}" in str(explanation)
