"""The benchmark's command line: what it selects, and one clear line for what it refuses."""

from __future__ import annotations

import re

import pytest
import torch

from convbound.bench import arguments, cli
from convbound.bench.plan import cases, layers
from convbound.bench.tables import load_models, load_suites, usual_models
from convbound.choice import backends
from convbound.command_line import EXIT_USAGE

LAYERS = sum(len(load_models()[name].layers) for name in usual_models())


def options(*arguments: str):
    parser = cli.run_parser()
    return cli._options(parser, parser.parse_args(arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "mobilnet_v2"], "--suite: unknown suite 'mobilnet_v2'; did you mean mobilenet_v2?"),
        (["--layout", "NWHC"], "--layout: unknown layout 'NWHC'; did you mean NHWC? it is one of NCHW, NHWC"),
        (["--pass", "forward"], "--pass: unknown pass 'forward'; it is one of fprop, dgrad, wgrad"),
        (["--dtype", "fp8"], "--dtype: unknown dtype 'fp8'"),
        (["--backend", "cudnn"], "--backend: unknown backend 'cudnn'"),
        (["--backend", "autoo"], "--backend: unknown backend 'autoo'; did you mean auto? it is one of auto, cpu,"),
        (["--problem", "mb8ic3x"], "--problem: cannot read 'x' in problem 'mb8ic3x'"),
        (["--problem", "mb0ic1iw9oc1kw2"], "--problem: mb0 in 'mb0ic1iw9oc1kw2' leaves nothing to time"),
        (["--transposed"], "--transposed: says how to read --problem, which is missing"),
        (["--transposed", "--problem", "ic1iw9oc1kw2pw1ew0"], "--transposed: torch pads both ends alike"),
        (["--input", "1,2"], "--input: gives the shapes of --model's arguments, and --model is missing"),
        (["--model", "a.py:b"], "--model: needs --input, the shapes of its arguments"),
        (["--model", "a.py:b", "--input", "8,0"], "--input: '8,0' must be sizes above 0, such as 8,3,224,224"),
        (["--model", "a.py:b", "--input", "8,3", "--batch", "2"], "--batch: 2 is for suites; the batch of --model is"),
        (["--model", "a.py:b", "--input", "8x3"], "--input: '8x3' must be sizes above 0"),
        (["--batch", "0"], "--batch: '0' must be a whole number above 0"),
        (["--batch", "9" * 30], "must be a whole number above 0 and at most 2147483647"),
        (["--threads", "3000000000"], "--threads: '3000000000' must be a whole number above 0 and at most 1024"),
        (["--out", ""], "--out: it is empty, and has to name a file or folder"),
        (["report", ""], "RESULT: it is empty, and has to name a file or folder"),
        (["report", "\x1b[2J.json"], "cannot read or write \\x1b[2J.json: No such file or directory"),
        (["--threads", "two"], "--threads: 'two' must be a whole number above 0"),
        (["--time", "-1"], "--time"),
        (["--quick", "--full"], "--full: not allowed with argument --quick"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate; --help lists the options"),
        (["tune"], "the following arguments are required: --problem"),
        (["report"], "the following arguments are required: RESULT"),
        (["means", "cpu.md"], "the following arguments are required: RESULT"),
        (["train", "--model", "resnet50"], "--model: unknown model 'resnet50'; did you mean resnet_50?"),
        (["report", "nowhere.json"], "cannot read or write nowhere.json: No such file or directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_bad_value_is_refused_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as leaving:
        cli.main(arguments)
    error = capsys.readouterr().err
    assert leaving.value.code == EXIT_USAGE
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["report", "--help"]], ids=" ".join)
def test_help_has_examples(arguments, capsys):
    with pytest.raises(SystemExit) as leaving:
        cli.main(arguments)
    assert leaving.value.code == cli.EXIT_OK
    assert "examples:\n  python -m convbound.bench" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="about a machine without a GPU")
def test_tuning_says_that_it_needs_a_gpu(capsys):
    with pytest.raises(SystemExit) as leaving:
        cli.main(["tune", "--problem", "g2ic2ih8oc2kh3"])
    assert leaving.value.code == EXIT_USAGE
    assert re.search("times Triton kernels on a GPU, and torch .* sees none|no Triton kernels", capsys.readouterr().err)


def test_a_missing_library_is_named(monkeypatch, capsys):
    monkeypatch.setattr(arguments, "EXTRAS", ("a_library_that_is_not_there",))
    with pytest.raises(SystemExit):
        cli.main(["--quick"])
    assert "needs a_library_that_is_not_there: pip install 'convbound[bench]'" in capsys.readouterr().err


def test_sizes_of_run():
    assert len(layers(options("--full"))) == LAYERS
    assert len(layers(options("--quick"))) < len(layers(options())) <= LAYERS
    assert len(cases(options("--full"))) == 3 * LAYERS


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ((), ("cpu",)),
        (("--problem", "ic1ih9oc1kh3"), ("auto", "cpu")),
        (("--problem", "ic1ih9oc1kh3", "--backend", "cpu"), ("cpu",)),
        (("--backend", "auto"), ("auto",)),
        (("--backend", "TORCH"), ()),
        (("--backend", "torch", "auto", "cpu", "auto"), ("auto", "cpu")),
    ],
    ids=" ".join,
)
def test_backends_of_a_run(arguments, wanted, monkeypatch, capsys):
    monkeypatch.setattr(cli, "our_backends", lambda device: ["cpu"])
    chosen = options("--device", "cpu", *arguments)
    assert (chosen.backends, chosen.rivals) == (wanted, ("torch",))
    cli.print_layers(chosen)
    assert f"comparisons of {', '.join(wanted) or 'nothing of ours'} with torch" in capsys.readouterr().out


def test_a_named_model_is_measured_whole():
    chosen = options("--suite", "deeplabv3_aspp")
    assert [layer.name for layer in layers(chosen)] == ["aspp.rate6", "aspp.rate12", "aspp.rate18"]


def test_choices_take_several_values_in_any_case():
    chosen = options(
        "--suite", "dcgan", "ConvNeXt_T", "--pass", "wgrad", "FPROP", "--layout", "nhwc", "--dtype", "BF16"
    )
    assert (chosen.suites, chosen.passes, chosen.layouts) == (("dcgan", "convnext_t"), ("wgrad", "fprop"), ("NHWC",))
    assert {case.layer.model for case in cases(chosen)} == {"dcgan", "convnext_t"}


def test_a_list_is_measured_as_it_stands():
    chosen = options("--suite", "decoders", "--suite", "halves", "--quick", "--batch", "2")
    assert chosen.suites == ("decoders", "halves")
    assert not chosen.overhead
    found = layers(chosen)
    assert {str(layer.problem)[:3] for layer in found} == {"mb1", "mb8"}
    assert {(layer.model, layer.transposed) for layer in found} == {("decoders", True), ("halves", False)}
    assert not {layer.model for layer in layers(options())} & {"decoders", "halves"}


def test_the_suites_are_listed(capsys):
    assert cli.main(["--list-suites"]) == cli.EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(load_suites())
    assert any(re.match(r"decoders +list +11 layers  Depthwise decoders of GANs", line) for line in lines)
    assert cli.main(["--list", "--suite", "decoders"]) == cli.EXIT_OK
    assert "mb8g512ic512ih8oc512kh4sh2ph1  transposed" in capsys.readouterr().out


def test_batch_applies_to_models_and_not_to_given_problems():
    chosen = options("--suite", "dcgan", "--problem", "mb3ic4iw9oc4kw3", "--batch", "2")
    assert {layer.problem.n for layer in layers(chosen) if layer.model == "dcgan"} == {2}
    assert [layer.problem.n for layer in layers(chosen) if layer.model != "dcgan"] == [3]
    assert {layer.problem.n for layer in layers(options("--suite", "deeplabv3_aspp"))} == {1}


def test_list_prints_layers_and_sources(capsys):
    assert cli.main(["--list", "--suite", "dcgan"]) == cli.EXIT_OK
    printed = capsys.readouterr().out
    assert "mb8ic3ih64oc64kh4sh2ph1  transposed" in printed
    assert "arXiv:1511.06434" in printed
    assert "5 layers x 3 passes x 2 layouts x 1 dtypes: 30 comparisons" in printed


def test_emulated_backends_are_measured_only_when_named(monkeypatch: pytest.MonkeyPatch):
    rows = [backends.Backend(name, "", ("cpu",), None, emulated) for name, emulated in (("cpu", False), ("simt", True))]
    monkeypatch.setattr(backends, "_BACKENDS", rows)
    assert backends.our_backends("cpu") == ["cpu"]
    assert arguments.backend("simt") == "simt"
