"""What `auto` prefers is what the committed result files bear out, and never a naive kernel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import convbound
from convbound import preferences, selection
from convbound.explanation import serving_kernel
from convbound.problem import DTYPE_NAMES, ConvProblem

ROOT = Path(__file__).resolve().parent.parent
DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
RESULTS = [json.loads(file.read_text()) for file in sorted(ROOT.glob(preferences.EVIDENCE))]
ROWS: list[dict[str, Any]] = [
    {**row, "isa": result["machine"]["isa"].lower()}
    for result in RESULTS
    for row in result["rows"]
    if row["backend"] == "cpu" and row["layer"] != "overhead" and row["status"] == "ok"
]


def preferred(row: dict[str, Any]) -> preferences.Preference | None:
    problem = ConvProblem.parse(row["problem"])
    return preferences.preferred(problem, row["pass"], DTYPES[row["dtype"]], row["layout"], row["isa"])


def test_no_preferred_kernel_was_measured_slower():
    slower = [
        (row["problem"], row["pass"], row["layout"])
        for row in ROWS
        if preferred(row) and row["speedup_same_layout"] < 0.97
    ]
    assert not slower


@pytest.mark.parametrize(
    "preference", preferences.CPU_PREFERENCES, ids=lambda row: f"{row.kernel}-{DTYPE_NAMES[row.dtype]}-{row.layout}"
)
def test_every_preference_has_evidence(preference: preferences.Preference):
    assert sum(preferred(row) is preference for row in ROWS) >= 20


@pytest.mark.skipif(selection.CPU_ISA not in preferences.MEASURED_ISAS, reason="no SIMD kernel on this instruction set")
def test_preferences_name_the_kernel_that_serves():
    problems = [(row, preference) for row in ROWS if (preference := preferred(row))]
    for row, preference in problems:
        problem = ConvProblem.parse(row["problem"])
        served, _ = serving_kernel(problem, row["pass"], DTYPES[row["dtype"]], row["layout"], "cpu")
        assert served == preference.kernel, row["problem"]


@pytest.mark.parametrize(
    ("capabilities", "computes"), [({"avx512_fp16": False}, False), ({"avx512_fp16": True}, True), ({}, True)]
)
def test_fp16_is_torchs_where_it_may_have_instructions_for_it(
    capabilities: dict[str, bool], computes: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert preferences._torch_computes_fp16() == computes
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert preferences._torch_computes_fp16()


@pytest.mark.skipif(selection.CPU_ISA not in preferences.MEASURED_ISAS, reason="no SIMD kernel on this instruction set")
def test_auto_takes_a_mixed_plan():
    explanation = convbound.explain("mb8g64ic64ih112oc64kh8sh4ph2", layout="NHWC")
    assert [row.backend for row in explanation.passes] == ["cpu", "torch", "cpu"]
    explanation = convbound.explain("mb8g32ic32ih112oc32kh3ph1", layout="NHWC")
    assert [row.backend for row in explanation.passes] == ["torch", "cpu", "cpu"]


@pytest.mark.parametrize("isa", ["generic", "none"])
def test_nothing_is_preferred_on_an_unmeasured_instruction_set(monkeypatch: pytest.MonkeyPatch, isa: str):
    monkeypatch.setattr(selection, "CPU_ISA", isa)
    explanation = convbound.explain("mb8g144ic144ih56oc144kh3ph1")
    assert [row.backend for row in explanation.passes] == ["torch"] * 3
