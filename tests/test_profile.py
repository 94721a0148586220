"""``convbound.profile``: which convolutions it finds, that totals are the model's, that the model stays as it was."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from architectures import alexnet
from models import MODELS
from torch import Tensor, nn

import convbound
from convbound import choice
from convbound.explanation import Explanation
from convbound.gpus import GPUS, find_gpu
from convbound.problem import ConvProblem
from convbound.profile_report import THIS_MACHINE, Profile
from convbound.roofs import promised_roofs

IMAGE = (2, 4, 12, 12)


def profiled(model: nn.Module, *shape: int, **options: Any) -> Profile:
    options.setdefault("measure", False)
    return convbound.profile(model, torch.randn(shape or IMAGE), **options)


def numel(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def found(profile: Profile) -> list[tuple[str, int, str]]:
    return [(layer.problem.origin, layer.count, str(layer.problem)) for layer in profile.layers]


class Functional(nn.Module):
    """A weight of its own, given to functions; a Linear; a parameter that nothing convolves."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4, 3, 3))
        self.flat = nn.Parameter(torch.randn(6 * 9))
        self.scale = nn.Parameter(torch.ones(6, 1, 1))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.weight, padding=1) * self.scale
        x = F.conv2d(x, self.flat.view(6, 1, 3, 3), groups=6)
        return self.head(x.mean((2, 3)))


class Shared(nn.Module):
    """One module that runs three times, and two modules that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.other = nn.Conv2d(4, 4, 3, padding=1)
        self.other.weight = self.conv.weight

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.conv(x)
        return self.other(x)


class Normalized(nn.Module):
    """weight_norm, whose parameters are not the weight that is convolved, and a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 8, 3))
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


@pytest.mark.parametrize("model", [Functional, Shared, Normalized], ids=lambda model: model.__name__)
def test_parameters_add_up_to_the_models(model: type[nn.Module]):
    built = model()
    assert profiled(built).parameters == numel(built)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_parameters_of_whole_models_add_up(model: Any):
    built = model.build()
    profile = profiled(built, *model.input_shape)
    assert profile.layers
    assert profile.parameters == numel(built)


def test_a_functions_weight_belongs_to_its_layer():
    profile = profiled(Functional())
    assert [(layer.problem.origin, layer.parameters) for layer in profile.layers] == [("", 6 * 4 * 9), ("", 6 * 9)]
    assert {(other.kind, other.modules, other.parameters) for other in profile.others} == {
        ("Functional", 1, 6),
        ("Linear", 1, 35),
    }


def test_a_shared_parameter_counts_once_and_calls_are_counted():
    profile = profiled(Shared())
    assert [(layer.problem.origin, layer.count, layer.parameters) for layer in profile.layers] == [
        ("conv", 3, 4 * 4 * 9 + 4),
        ("other", 1, 4),  # its bias
    ]
    one = ConvProblem.parse("mb2ic4ih12oc4kh3ph1")
    assert profile.multiply_adds == 4 * one.multiply_adds
    assert profile.flops == 8 * one.multiply_adds
    assert profile.memory_access_cost == 4 * one.memory_access_cost
    assert profile.compulsory_bytes == 16 * one.memory_access_cost


def test_a_layer_that_meets_two_sizes_has_two_rows():
    conv = nn.Conv2d(4, 4, 3)

    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).mean() + self.conv(x[..., ::2, ::2]).mean()

    profile = profiled(Pyramid())
    assert [(layer.problem.input, layer.parameters) for layer in profile.layers] == [((12, 12), 148), ((6, 6), 0)]


def test_all_kinds_of_layers():
    assert found(profiled(nn.ConvTranspose2d(4, 6, 4, 2, 1, output_padding=1, groups=2))) == [
        ("", 1, "mb2g2ic6ih25oc4kh4sh2ph1")
    ]
    assert found(profiled(nn.Conv1d(4, 4, 3, padding=2, dilation=2, groups=4), 2, 4, 9)) == [
        ("", 1, "mb2g4ic4iw9oc4kw3pw2dw2")
    ]
    assert found(profiled(nn.Conv3d(4, 8, (3, 1, 1)), 1, 4, 5, 6, 7)) == [("", 1, "mb1ic4id5ih6iw7oc8kd3kh1")]
    unbatched = profiled(nn.Conv2d(4, 4, 3, padding="same"), 4, 12, 12)
    assert found(unbatched) == [("", 1, "mb1ic4ih12oc4kh3ph1")]
    record = profiled(nn.ConvTranspose1d(4, 4, 2, 2, groups=4), 2, 4, 9).records()[0]
    assert (record["op"], record["family"]) == ("conv_transpose1d", "transposed")


@pytest.mark.parametrize(
    ("layout", "memory_format"), [("NCHW", torch.contiguous_format), ("NHWC", torch.channels_last)]
)
def test_the_layout_is_that_of_the_call(layout: str, memory_format: torch.memory_format):
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8))
    profile = convbound.profile(model, torch.randn(IMAGE).to(memory_format=memory_format), measure=False)
    assert [layer.layout for layer in profile.layers] == [layout] * 2


def test_half_precision_and_autocast():
    x = torch.randn(IMAGE)
    half = convbound.profile(nn.Conv2d(4, 8, 3).bfloat16(), x.bfloat16(), measure=False)
    with torch.autocast("cpu", torch.bfloat16):
        cast = convbound.profile(nn.Conv2d(4, 8, 3), x, measure=False)
    for profile in (half, cast):
        assert profile.layers[0].dtype == torch.bfloat16
        assert profile.parameters == 4 * 8 * 9 + 8
        assert profile.compulsory_bytes == 2 * profile.memory_access_cost


class Branching(nn.Module):
    """Which layer runs depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.positive, self.negative = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.positive(x) if x.sum() > 0 else self.negative(x)


def test_control_flow_runs_as_the_input_says():
    for x, name in ((torch.ones(IMAGE), "positive"), (-torch.ones(IMAGE), "negative")):
        profile = convbound.profile(Branching(), x, measure=False)
        assert [layer.problem.origin for layer in profile.layers] == [name]
        assert profile.parameters == numel(Branching())


class Stateful(nn.Module):
    """Random numbers, a counter among its buffers, a buffer that is replaced, and a part in another mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
        self.frozen = nn.BatchNorm2d(4)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", None)
        self.fails = False

    def forward(self, x: Tensor) -> Tensor:
        assert not self.body.training
        self.calls += 1
        self.last = torch.rand(3)
        if self.fails:
            raise RuntimeError("it fails")
        return self.frozen(self.body(x))


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_stays_as_it_was(fails: bool):
    model = Stateful().train()
    model.frozen.eval()
    model.fails = fails
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    x = torch.randn(IMAGE)
    torch.set_rng_state(random)
    if fails:
        with pytest.raises(RuntimeError, match="it fails"):
            convbound.profile(model, x, measure=False)
    else:
        convbound.profile(model, x, measure=False)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert model.last is None
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not torch.nn.modules.module._global_forward_hooks
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_our_own_layers_are_found_like_torchs():
    def model(package: Any, **backend: str) -> nn.Module:
        return nn.Sequential(
            package.Conv2d(4, 8, 3, padding=1, groups=4, **backend),
            package.ConvTranspose2d(8, 8, 4, 2, 1, groups=8, **backend),
        )

    theirs, ours = profiled(model(nn)), profiled(model(convbound.nn, backend="cpu"))
    assert found(ours) == found(theirs)
    assert [layer.transposed for layer in ours.layers] == [False, True]
    assert {layer.ran for layer in theirs.layers} == {"torch"}
    assert {layer.ran for layer in ours.layers} == {"cpu"}
    assert ours.parameters == theirs.parameters == numel(model(nn))


def test_a_function_of_ours_with_uneven_padding():
    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return convbound.conv2d(x, torch.ones(4, 1, 4, 4), padding="same", groups=4, backend="cpu")

    assert found(profiled(Same())) == [("", 1, "mb2g4ic4ih12oc4kh4ph1eh2ew2")]


def test_inference_mode_inside_the_model():
    class Inferring(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3)

        @torch.inference_mode()
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    assert found(profiled(Inferring())) == [("conv", 1, "mb2ic4ih12oc4kh3")]


def test_compiled_and_scripted_models_are_profiled_all_the_same():
    def layers() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=4))

    inside = layers()
    inside[1] = torch.compile(inside[1], backend="aot_eager")
    whole = torch.compile(layers(), backend="aot_eager")
    for model in (inside, whole, torch.jit.script(layers())):
        model(torch.randn(IMAGE))
        profile = convbound.profile(model, torch.randn(IMAGE), measure=False)
        assert [str(layer.problem) for layer in profile.layers] == ["mb2ic4ih12oc4kh3", "mb2g4ic4ih10oc4kh3"]
        assert profile.parameters == numel(model)


def test_inputs_by_position_and_by_name():
    class Two(nn.Module):
        def forward(self, image: Tensor, filter: Tensor) -> Tensor:
            return F.conv2d(image, filter)

    image, filter = torch.randn(IMAGE), torch.randn(2, 4, 3, 3)
    for x in ((image, filter), {"image": image, "filter": filter}):
        assert found(convbound.profile(Two(), x, measure=False)) == [("", 1, "mb2ic4ih12oc2kh3")]


def test_a_model_without_convolutions():
    model = nn.Linear(12, 3)
    profile = convbound.profile(model, torch.randn(IMAGE))
    assert profile.layers == ()
    assert profile.parameters == numel(model)
    assert "no convolutions; 39 parameters" in str(profile)
    assert profile.convolution_ms is None
    assert "no convolutions; 0 parameters" in str(convbound.profile(nn.ReLU(), torch.randn(3)))
    assert convbound.profile(nn.ReLU(), torch.randn(3)).to_csv() == "kind\n"


def reaches(model: nn.Module, *shape: int) -> list[tuple[Any, Any]]:
    with torch.device("meta"):
        profile = convbound.profile(model.to("meta"), torch.empty(shape), measure=False)
    return [(layer.reach.field, layer.reach.jump) for layer in profile.layers if layer.reach is not None]


def test_receptive_fields_of_alexnet():
    """Araujo et al. give 195 behind the last pooling, which adds 2 * 16 to what the last convolution sees."""
    last = reaches(alexnet(), 1, 3, 227, 227)[-1]
    assert last == ((163, 163), (16, 16))


@pytest.mark.parametrize(
    ("layers", "field", "jump"),
    [
        ([nn.Conv2d(4, 4, 3)] * 3, 7, 1),
        ([nn.Conv2d(4, 4, 3, dilation=3)], 7, 1),
        ([nn.Conv2d(4, 4, 3, 2), nn.Conv2d(4, 4, 3)], 7, 2),
        ([nn.MaxPool2d(3, 2, dilation=2), nn.Conv2d(4, 4, 3)], 9, 2),
        ([nn.AvgPool2d(2), nn.Conv2d(4, 4, 3)], 6, 2),
        ([nn.Conv2d(4, 4, 2, 2), nn.ConvTranspose2d(4, 4, 2, 2)], 2, 1),
        ([nn.Conv2d(4, 4, 2, 2), nn.ConvTranspose2d(4, 4, 4, 2, 1)], 4, 1),
        ([nn.ConvTranspose2d(4, 4, 4, 2), nn.Conv2d(4, 4, 3)], 3, Fraction(1, 2)),
        ([nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 3)], 2, Fraction(1, 2)),
        ([nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(4, 4, 3)], 3, Fraction(1, 2)),
        ([nn.PixelShuffle(2), nn.Conv2d(1, 4, 3)], 2, Fraction(1, 2)),
        ([nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1)], 3, 1),
    ],
)
def test_receptive_fields_by_hand(layers: list[nn.Module], field: Any, jump: Any):
    assert reaches(nn.Sequential(*layers).eval(), 1, 4, 16, 16)[-1] == ((field, field), (jump, jump))


def test_one_dimension_has_one_axis():
    layers = nn.Sequential(nn.MaxPool1d(3, 2), nn.AvgPool1d(2), nn.Conv1d(4, 4, 3))
    assert reaches(layers, 1, 4, 64) == [((3 + 2 + 2 * 4,), (4,))]


def test_a_video_taken_apart_into_images_begins_anew():
    class Frames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.video, self.image, self.pool = nn.Conv3d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.MaxPool2d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.image(self.pool(self.video(x).transpose(1, 2).flatten(0, 1)))

    assert reaches(Frames(), 1, 4, 5, 12, 12) == [((3, 3, 3), (1, 1, 1)), ((3, 3), (1, 1))]


def test_axes_have_fields_of_their_own():
    assert reaches(nn.Conv2d(4, 4, (1, 7), (2, 1)), 1, 4, 9, 9) == [((1, 7), (2, 1))]


def test_the_largest_branch_counts_and_a_sequence_begins_anew():
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.large, self.small = nn.Conv2d(4, 4, 7, padding=3), nn.Conv2d(4, 4, 3, padding=1)
            self.next, self.sequence = nn.Conv2d(8, 4, 3), nn.Conv1d(4, 4, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.next(torch.cat([self.small(x), self.large(x)], 1))
            return self.sequence(x.flatten(2))

    assert reaches(Branches(), 1, 4, 12, 12) == [((3, 3), (1, 1)), ((7, 7), (1, 1)), ((9, 9), (1, 1)), ((5,), (1,))]


@pytest.mark.parametrize(
    ("text", "multiply_adds", "elements"),
    [
        ("ic256ih64oc256kh3ph1", 2_415_919_104, 2_686_976),
        ("g256ic256ih64oc256kh3ph1", 9_437_184, 2_099_456),
        ("ic16ih64oc16kh3ph1", 9_437_184, 133_376),
        ("ic24ih56oc96kh1", 56 * 56 * 24 * 96, 56 * 56 * (24 + 96) + 24 * 96),
        ("g3ic60ih28oc240kh1", 28 * 28 * 60 * 240 // 3, 28 * 28 * (60 + 240) + 60 * 240 // 3),
        ("mb8g2ic4iw10oc4kw3", 8 * 8 * 4 * 2 * 3, 8 * 40 + 24 + 8 * 32),
    ],
)
def test_memory_access_cost_by_hand(text: str, multiply_adds: int, elements: int):
    problem = ConvProblem.parse(text)
    assert problem.multiply_adds == multiply_adds
    assert problem.flops == 2 * multiply_adds
    assert problem.memory_access_cost == elements
    assert problem.compulsory_bytes(torch.float16) == 2 * elements
    assert problem.arithmetic_intensity(torch.float64) == 2 * multiply_adds / (8 * elements)


@pytest.fixture(scope="module")
def measured() -> tuple[nn.Module, Profile]:
    torch.set_num_threads(1)
    model = nn.Sequential(
        nn.Conv2d(4, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, groups=16), nn.ConvTranspose2d(16, 4, 2, 2)
    )
    return model, convbound.profile(model, torch.randn(2, 4, 32, 32), gpu="H100 SXM", seconds=0.01)


def test_times_and_shares(measured: tuple[nn.Module, Profile]):
    _, profile = measured
    for layer in profile.layers:
        for row in layer.passes:
            assert {row.backend, "torch"} <= row.milliseconds.keys()
            assert all(time > 0 for time in row.milliseconds.values())
        assert layer.ran in layer.forward.milliseconds
    assert profile.layers[1].forward.pass_ == "fprop"
    assert profile.layers[2].forward.pass_ == "dgrad"
    shares = [profile.shares(layer) for layer in profile.layers]
    assert math.isclose(sum(share[0] for share in shares if share), 1.0)
    assert profile.forward_ms is not None
    assert profile.forward_ms > 0


def test_bounds_of_this_machine_and_of_a_named_gpu(measured: tuple[nn.Module, Profile]):
    _, profile = measured
    for layer in profile.layers:
        here, there = layer.bounds
        assert (here.machine, there.machine) == (THIS_MACHINE, "H100 SXM")
        for bound in layer.bounds:
            intensity = layer.problem.arithmetic_intensity(layer.dtype)
            assert bound.resource == ("memory" if intensity < bound.ridge else "compute")
    depthwise = profile.layers[1]
    assert depthwise.bounds[1].floor_ms == pytest.approx(depthwise.problem.compulsory_bytes() / 3350e9 * 1e3)


def test_a_row_is_what_explain_gives(measured: tuple[nn.Module, Profile]):
    _, profile = measured
    for layer in profile.layers:
        told = convbound.explain(layer.problem, dtype=layer.dtype, layout=layer.layout)
        assert type(layer) is type(told) is Explanation
        assert [(row.backend, row.kernel, row.reason) for row in layer.passes] == [
            (row.backend, row.kernel, row.reason) for row in told.passes
        ]
    alone = convbound.explain("g8ic8ih9oc8kh5sh2dh2", device="cuda", arch="A100")
    assert alone.parameters == 8 * 25
    assert alone.reach is not None
    assert (alone.reach.field, alone.reach.jump) == ((9, 9), (2, 2))
    assert "bound by memory on A100" in str(alone)


def test_where_auto_measures_a_profile_counts_as_a_first_call(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(choice.VARIABLE, "1")
    conv = nn.Conv2d(8, 8, 3, groups=8)
    profile = convbound.profile(conv, torch.randn(1, 8, 13, 11), seconds=0.01)
    assert all(row.reason.startswith("measured") for row in profile.layers[0].passes)


def test_csv_parses_back(measured: tuple[nn.Module, Profile], tmp_path: Any):
    model, profile = measured
    file = tmp_path / "profile.csv"
    text = profile.to_csv(file)
    assert file.read_text(encoding="utf-8") == text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert sum(int(row["parameters"]) for row in rows) == numel(model)
    layers = [row for row in rows if row["kind"] == "convolution"]
    assert [ConvProblem.parse(row["problem"]) for row in layers] == [layer.problem for layer in profile.layers]
    assert sum(int(row["count"]) * int(row["flops"]) for row in layers) == profile.flops
    assert all(float(row["wgrad_torch_ms"]) > 0 and float(row["dgrad_auto_ms"]) > 0 for row in layers)
    assert {row["gpu"] for row in layers} == {"H100 SXM"}
    assert [row["receptive_field"] for row in layers] == ["3", "7", "7"]
    assert Counter(row["kind"] for row in rows) == {"convolution": 3, "other": 1}


def test_markdown_and_text_have_the_same_cells(measured: tuple[nn.Module, Profile]):
    _, profile = measured
    lines = [line for line in profile.to_markdown().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in cells}) == 1
    head, _, *rows = cells
    assert len(rows) == len(profile.layers) + len(profile.others)
    assert rows[1][head.index("problem")] == "mb2g16ic16ih16oc16kh3"
    text = str(profile)
    assert all(cell in text for row in (head, *rows) for cell in row)
    assert "of them in convolutions" in text


def test_without_measuring_there_are_no_times():
    profile = profiled(nn.Conv2d(4, 4, 3), gpu="A100")
    assert profile.forward_ms is profile.convolution_ms is profile.shares(profile.layers[0]) is None
    assert [bound.machine for bound in profile.layers[0].bounds] == ["A100"]
    assert " ms" not in str(profile)
    assert profile.records()[0]["fprop_torch_ms"] is None


def test_promised_roofs_are_those_of_the_data_sheets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("convbound.roofs.allows_tf32", lambda: True)
    a100, t4 = promised_roofs(find_gpu("A100")), promised_roofs(find_gpu("T4"))
    assert a100.peak("fp16") == pytest.approx(312e3, rel=0.01)
    assert a100.peak("fp32") == pytest.approx(156e3, rel=0.01)
    assert a100.peak("fp32", depthwise=True) == pytest.approx(19.5e3, rel=0.01)
    assert a100.peak("fp64") == pytest.approx(9.7e3, rel=0.01)
    assert t4.peak("fp16") == pytest.approx(65e3, rel=0.01)
    assert t4.peak("fp32") == t4.peak("bf16") == pytest.approx(8.1e3, rel=0.01)
    assert promised_roofs(find_gpu("RTX 4090")).peak("bf16") == pytest.approx(165e3, rel=0.01)
    monkeypatch.setattr("convbound.roofs.allows_tf32", lambda: False)
    assert promised_roofs(find_gpu("A100")).peak("fp32") == pytest.approx(19.5e3, rel=0.01)
    assert all(promised_roofs(gpu).copy_gbps * 1e9 == gpu.dram for gpu in GPUS)


class Whole(nn.Module):
    """Convolves whole numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x.long(), x.new_ones(4, 4, 3, 3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: convbound.profile(F.relu, torch.ones(3)), TypeError, "must be a torch.nn.Module"),  # type: ignore[arg-type]
        (lambda: profiled(nn.ReLU(), gpu="A1000"), ValueError, "gpu='A1000' is unknown"),
        (lambda: profiled(nn.ReLU(), seconds=0), ValueError, "seconds=0 must be positive"),
        (lambda: profiled(nn.LazyConv2d(4, 3)), ValueError, "parameter weight has no shape yet; call the model once"),
        (lambda: profiled(nn.Conv2d(4, 4, 3), 2, 5, 9, 9), RuntimeError, "expected input"),
        (lambda: convbound.profile(Whole(), torch.ones(IMAGE, device="meta")), ValueError, "convolves torch.int64"),
        (
            lambda: convbound.profile(nn.Conv2d(4, 4, 3).to("meta"), torch.empty(IMAGE, device="meta")),
            ValueError,
            "convolutions on meta cannot be timed; measure=False",
        ),
    ],
)
def test_what_cannot_be_profiled_says_why(call: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        call()
