"""The layer tables say what the models are made of: checked against model definitions run on shapes alone."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from architectures import ARCHITECTURES

from convbound.bench.tables import Layer, load_models, load_suites, parse_table, usual_models
from convbound.problem import ConvProblem

MODELS = load_models()
LISTS = {name: suite for name, suite in load_suites().items() if not suite.is_model}


def test_every_table_has_a_definition_to_be_checked_against():
    assert set(ARCHITECTURES) == set(MODELS)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_layers_and_counts_are_those_of_the_model(name: str):
    wanted: Counter[tuple[ConvProblem, bool]] = Counter()
    for one in ARCHITECTURES[name].convolutions():
        wanted[one.problem, one.transposed] += one.count
    table = {(layer.problem, layer.transposed): layer.count for layer in MODELS[name].layers}
    if name == "efficientnet_b0":
        # That definition pads its strided layers on one side and in a layer of its own, as TensorFlow does; the table
        # pads both sides alike, as PyTorch's definitions do. Everything but the place of the zeros has to agree.
        def unpadded(problem: ConvProblem) -> tuple[Any, ...]:
            return (problem.c, problem.k, problem.groups, problem.filter, problem.stride, problem.output)

        found: Counter[tuple[Any, ...]] = Counter()
        for (problem, _), count in wanted.items():
            found[unpadded(problem)] += count
        assert found == {unpadded(p): count for (p, _), count in table.items()}
    elif name == "mamba_2_8b":
        # That definition pads both ends and drops what the end adds; the kernel of the original makes no such thing.
        ((problem, _), count) = wanted.popitem()
        assert not wanted
        assert table == {(dataclasses.replace(problem, padding=((3, 0),)), False): count}
    else:
        assert wanted == table


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_tables_name_their_source_and_their_layers(model: Any):
    assert "arXiv:" in model.paper or "doi:" in model.paper
    assert model.code.startswith("https://")
    assert len({layer.problem for layer in model.layers}) == len({layer.name for layer in model.layers})
    assert all(layer.problem.origin == f"{model.name}:{layer.name}" for layer in model.layers)
    assert all(layer.problem.n == 1 for layer in model.layers)


def test_tiers_include_each_other():
    for model in MODELS.values():
        quick, default, full = (set(model.select(tier)) for tier in ("quick", "default", "full"))
        assert quick <= default <= full == set(model.layers)
    assert sum(len(model.select("quick")) for model in MODELS.values()) >= 8


def test_the_default_run_stays_short():
    assert usual_models() == [
        "convnext_t",
        "dcgan",
        "deeplabv3_aspp",
        "efficientnet_b0",
        "mobilenet_v2",
        "resnext50",
    ]
    assert not any(model.select("default") for name, model in MODELS.items() if name not in usual_models())


@pytest.mark.parametrize("suite", LISTS.values(), ids=LISTS)
def test_lists_hold_different_problems_with_batches_of_their_own(suite: Any):
    problems = [layer.problem for layer in suite.layers]
    assert len(set(problems)) == len(problems) > 1
    assert all(layer.name == str(layer.problem) and layer.name.startswith("mb") for layer in suite.layers)
    assert suite.at_batch(3, "cpu") is suite.at_batch(None, "cuda") is suite
    assert suite.select("quick") == suite.layers


def test_suites_that_a_command_names_exist():
    makefile = (Path(__file__).resolve().parent.parent / "Makefile").read_text()
    named = re.findall(r"--suite ([a-z_0-9]+)\n", makefile)
    named += [name for names in re.findall(r"call PERF,\w+,([^)]*)\)", makefile) for name in names.split()]
    assert set(named) == set(LISTS)


def test_batch_is_chosen_at_run_time():
    layer: Layer = MODELS["convnext_t"].layers[0]
    assert layer.with_batch(4).problem == dataclasses.replace(layer.problem, n=4)
    assert layer.with_batch(4).name == layer.name


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,1,conv9d,quick,ic1ih3oc1kh3", "toy:a: .*op=conv9d"),
        ("a,1,conv1d,quick,ic1ih3oc1kh3", "op=conv1d"),
        ("a,1,conv2d,slow,ic1ih3oc1kh3", "tier=slow"),
    ],
)
def test_a_wrong_line_is_named(line: str, message: str):
    with pytest.raises(ValueError, match=message):
        parse_table("toy", f"# title: t\nlayer,count,op,tier,problem\n{line}\n")


def test_a_table_without_its_source_is_refused():
    with pytest.raises(ValueError, match=r"toy.csv lacks the line '# batch"):
        parse_table("toy", "# title: t\n# paper: p\nlayer,count,op,tier,problem\n")
