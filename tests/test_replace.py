"""replace_convs and restore_convs: what they touch, what they leave, and that nothing else about a module changes."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import convbound.nn
from convbound.replace import Report, replace_convs, restore_convs


class Inheriting(nn.Conv2d):
    """A subclass with a constructor of its own, and torch's forward."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels)


class Overriding(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(2 * input)


class OverridingHook(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, 2 * weight, bias)


class OfTheUser(convbound.nn.Conv2d):
    """A subclass of convbound's module."""


class HasBackend(nn.Conv2d):
    backend = "of the user"


class TensorOfTheUser(Tensor):
    pass


def depthwise(kind: type[nn.Conv2d] = nn.Conv2d) -> nn.Conv2d:
    return kind(4, 4, 3, padding=1, groups=4)


def small_model() -> nn.Sequential:
    """One convolution of each family."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        depthwise(),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.ConvTranspose2d(4, 4, 2, stride=2),
    )


def patched() -> nn.Conv2d:
    conv = depthwise()
    conv.forward = lambda x: x
    return conv


def with_tensor_subclass() -> nn.Conv2d:
    conv = depthwise()
    conv.weight = nn.Parameter(conv.weight.detach().as_subclass(TensorOfTheUser))
    return conv


def scripted() -> nn.Module:
    return torch.jit.script(depthwise())


def quantized() -> nn.Module:
    from torch.ao.nn import quantized

    return quantized.Conv2d(4, 4, 3)


def types(model: nn.Module) -> list[type]:
    return [type(module) for module in model.modules()]


def image(*shape: int) -> Tensor:
    return torch.randn(shape or (2, 4, 6, 5), generator=torch.Generator().manual_seed(0))


class TestFamilies:
    FOUR = ("depthwise", "grouped", "dilated", "transposed")

    def test_four_by_default_and_no_dense_one(self) -> None:
        model = small_model()
        report = replace_convs(model)
        assert [(r.family, r.action) for r in report] == [("dense", "left"), *((f, "replaced") for f in self.FOUR)]
        assert types(model)[1:] == [nn.Conv2d, *[convbound.nn.Conv2d] * 3, convbound.nn.ConvTranspose2d]

    def test_all(self) -> None:
        assert len(replace_convs(small_model(), families="all").replaced) == 5

    @pytest.mark.parametrize("families", ["dilated", ["dilated"], {"dilated"}], ids=["name", "list", "set"])
    def test_some(self, families: Any) -> None:
        assert [r.path for r in replace_convs(small_model(), families=families).replaced] == ["3"]

    @pytest.mark.parametrize(
        ("conv", "family"),
        [
            (nn.Conv1d(4, 8, 3, groups=4, dilation=2), "depthwise"),
            (nn.Conv1d(1, 8, 3), "depthwise"),
            (nn.Conv3d(4, 4, 3, groups=2, dilation=(1, 1, 2)), "dilated"),
            (nn.Conv3d(4, 4, 3, stride=2), "dense"),
            (nn.ConvTranspose3d(4, 4, 3, groups=4), "transposed"),
        ],
        ids=["depthwise_and_dilated", "one_channel", "dilated_on_one_axis", "strided", "transposed_depthwise"],
    )
    def test_of_a_module(self, conv: nn.Module, family: str) -> None:
        assert [r.family for r in replace_convs(conv)] == [family]

    def test_unknown(self) -> None:
        with pytest.raises(ValueError, match=r"families='dense2d': choose from depthwise, grouped, .*, or 'all'"):
            replace_convs(small_model(), families="dense2d")


class TestLeft:
    @pytest.mark.parametrize(
        ("build", "reason"),
        [
            (lambda: depthwise(Overriding), "Overriding has a forward of its own"),
            (lambda: depthwise(OverridingHook), "OverridingHook has a _conv_forward of its own"),
            (patched, "its forward was replaced on the instance"),
            (lambda: depthwise(HasBackend), "has an attribute named backend already"),
            (lambda: nn.LazyConv2d(4, 3, groups=4), "lazy: becomes a convolution with its first call"),
            (with_tensor_subclass, "its weight is a TensorOfTheUser"),
            (scripted, "torch.jit._script.RecursiveScriptModule is no torch.nn.Conv or ConvTranspose"),
            (quantized, "torch.ao.nn.quantized.modules.conv.Conv2d is no torch.nn.Conv or ConvTranspose"),
            (lambda: nn.Conv2d(0, 4, 3), "has no channels: in_channels=0, out_channels=4"),
        ],
        ids=[
            "own_forward",
            "own_conv_forward",
            "patched_instance",
            "own_backend",
            "lazy",
            "tensor_subclass",
            "scripted",
            "quantized",
            "no_channels",
        ],
    )
    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
    def test_what_cannot_be_replaced_faithfully(self, build: Callable[[], nn.Module], reason: str) -> None:
        model = nn.Sequential(build())
        before = types(model)
        (record,) = replace_convs(model, families="all")
        assert (record.path, record.action, record.reason) == ("0", "left", reason)
        assert types(model) == before

    def test_lazy_module_is_replaced_once_it_is_initialised(self) -> None:
        model = nn.Sequential(nn.LazyConv2d(4, 3, groups=4))
        model(image())
        assert len(replace_convs(model).replaced) == 1

    def test_what_the_predicate_refuses(self) -> None:
        asked = []

        def predicate(path: str, module: nn.Module) -> bool:
            asked.append((path, module))
            return path != "2"

        model = small_model()
        report = replace_convs(model, predicate=predicate)
        assert asked == [(str(i), model[i]) for i in range(1, 5)]
        assert [(r.path, r.reason) for r in report.left] == [
            ("0", "dense is not in families"),
            ("2", "the predicate said no"),
        ]

    def test_all_if_the_predicate_raises(self) -> None:
        model = small_model()
        with pytest.raises(ZeroDivisionError):
            replace_convs(model, predicate=lambda path, _: bool(1 / (3 - int(path))))
        assert types(model) == types(small_model())

    def test_all_of_a_model_without_convolutions(self) -> None:
        report = replace_convs(nn.Linear(2, 2))
        assert (len(report), str(report)) == (0, "no convolutions")


class TestIdentity:
    """A module that is replaced stays the same object, and keeps all that was ever attached to it."""

    def test_modules_parameters_and_names(self) -> None:
        model = small_model()
        before = (list(model.named_modules()), list(model.named_parameters()), list(model.state_dict()))
        replace_convs(model, families="all")
        after = (list(model.named_modules()), list(model.named_parameters()), list(model.state_dict()))
        assert all(
            a is b
            for old, new in zip(before[:2], after[:2], strict=True)
            for (_, a), (_, b) in zip(old, new, strict=True)
        )
        assert before[2] == after[2]

    def test_the_model_itself_may_be_a_convolution(self) -> None:
        conv = depthwise()
        (record,) = replace_convs(conv)
        assert (record.path, record.action) == ("", "replaced")
        assert type(conv) is convbound.nn.Conv2d

    def test_a_module_at_two_paths_stays_one(self) -> None:
        shared = depthwise()
        model = nn.Sequential(shared, nn.Sequential(shared))
        assert [r.path for r in replace_convs(model)] == ["0"]
        assert model[0] is model[1][0] is shared

    def test_weights_shared_between_modules_stay_shared(self) -> None:
        model = nn.Sequential(depthwise(), depthwise())
        model[1].weight = model[0].weight
        replace_convs(model, backend="cpu")
        model(image()).sum().backward()
        assert model[1].weight is model[0].weight
        assert len(list(model.parameters())) == 3

    def test_hooks(self) -> None:
        conv, calls = depthwise(), []
        conv.register_forward_pre_hook(lambda *_: calls.append("forward_pre"))
        conv.register_forward_hook(lambda *_: calls.append("forward"))
        conv.register_full_backward_hook(lambda *_: calls.append("backward"))
        conv.weight.register_hook(lambda _: calls.append("weight"))
        replace_convs(conv, backend="cpu")
        conv(image().requires_grad_()).sum().backward()
        assert sorted(calls) == ["backward", "forward", "forward_pre", "weight"]

    def test_mode_requires_grad_dtype_and_attributes(self) -> None:
        model = small_model().eval().double()
        model[1].weight.requires_grad_(False)
        model[1].note = "of the user"
        replace_convs(model)
        assert not any(module.training for module in model.modules())
        assert not model[1].weight.requires_grad
        assert {p.dtype for p in model.parameters()} == {torch.float64}
        assert model[1].note == "of the user"

    def test_an_optimizer_made_before_still_trains_it(self) -> None:
        conv = depthwise()
        optimizer = torch.optim.SGD(conv.parameters(), lr=0.1)
        replace_convs(conv, backend="cpu")
        before = conv.weight.clone()
        conv(image()).sum().backward()
        optimizer.step()
        assert not torch.equal(conv.weight, before)

    def test_state_dict_of_the_original_loads(self) -> None:
        model, original = small_model(), small_model()
        replace_convs(model, families="all")
        model.load_state_dict(original.state_dict())
        original.load_state_dict(model.state_dict())


class TestParametrized:
    @pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
    def test_results(self, norm: Callable[[nn.Module], nn.Module]) -> None:
        conv = norm(nn.ConvTranspose2d(4, 4, 2, stride=2, dtype=torch.float64)).eval()
        expected = conv(image().double())
        replace_convs(conv, backend="cpu")
        assert isinstance(conv, convbound.nn.ConvTranspose2d)
        torch.testing.assert_close(conv(image().double()), expected)
        restore_convs(conv)
        assert torch.equal(conv(image().double()), expected)

    def test_parametrization_can_be_removed_afterwards(self) -> None:
        conv = parametrizations.weight_norm(depthwise())
        replace_convs(conv)
        parametrize.remove_parametrizations(conv, "weight")
        assert type(conv) is convbound.nn.Conv2d
        parametrizations.weight_norm(conv)
        restore_convs(conv)
        parametrize.remove_parametrizations(conv, "weight")
        assert type(conv) is nn.Conv2d

    def test_a_deep_copy_made_before_is_not_touched(self) -> None:
        conv = parametrizations.weight_norm(depthwise())
        twin = copy.deepcopy(conv)
        replace_convs(conv)
        assert not isinstance(twin, convbound.nn.Conv2d)
        assert len(replace_convs(copy.deepcopy(twin)).replaced) == 1

    def test_hook_based_weight_norm(self) -> None:
        with pytest.warns(FutureWarning, match="weight_norm"):
            conv = nn.utils.weight_norm(depthwise().double())
        expected = conv(image().double())
        replace_convs(conv, backend="cpu")
        torch.testing.assert_close(conv(image().double()), expected)


class TestSubclassThatInheritsForward:
    def test_keeps_its_class_among_its_bases_and_its_name(self) -> None:
        conv = Inheriting(4)
        (record,) = replace_convs(conv, backend="cpu")
        assert (record.kind, record.action) == ("Inheriting", "replaced")
        assert isinstance(conv, Inheriting)
        assert isinstance(conv, convbound.nn.Conv2d)
        assert type(conv).__name__ == "Inheriting"

    @pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
    def test_copies(self, how: str) -> None:
        conv = Inheriting(4)
        replace_convs(conv, backend="cpu")
        if how == "deepcopy":
            twin = copy.deepcopy(conv)
        elif how == "pickle":
            twin = pickle.loads(pickle.dumps(conv))
        else:
            file = io.BytesIO()
            torch.save(conv, file)
            twin = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
        assert type(twin) is type(conv)
        assert twin.backend == "cpu"
        assert torch.equal(twin(image()), conv(image()))

    def test_is_restored(self) -> None:
        conv = Inheriting(4)
        replace_convs(conv)
        restore_convs(conv)
        assert type(conv) is Inheriting


class TestAgain:
    def test_changes_nothing(self) -> None:
        model = small_model()
        replace_convs(model, backend="cpu")
        report = replace_convs(model)
        assert len(report.left) == len(report) == 5
        assert report[1].reason == "runs on convbound already, with backend='cpu'"

    def test_with_another_backend_sets_it(self) -> None:
        model = small_model()
        replace_convs(model)
        report = replace_convs(model, backend="torch", families=["grouped"])
        assert [r.path for r in report.replaced] == ["2"]
        assert report[2].reason == "runs on convbound already; backend=None before, 'torch' now"
        assert [module.backend for module in model[1:]] == [None, "torch", None, None]


class TestRestore:
    def test_is_the_reverse(self) -> None:
        model, original = small_model(), small_model()
        attributes = [sorted(vars(module)) for module in model.modules()]
        replace_convs(model, backend="cpu", families="all")
        report = restore_convs(model)
        assert [r.action for r in report] == ["restored"] * 5
        assert types(model) == types(original)
        assert [sorted(vars(module)) for module in model.modules()] == attributes
        assert repr(model) == repr(original)

    def test_takes_modules_built_as_convbounds(self) -> None:
        model = nn.Sequential(convbound.nn.Conv2d(3, 4, 3, backend="cpu"), nn.Conv2d(4, 4, 3))
        assert [r.path for r in restore_convs(model)] == ["0"]
        assert repr(model) == repr(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)))

    def test_leaves_a_users_subclass_of_convbounds(self) -> None:
        conv = depthwise(OfTheUser)
        (record,) = restore_convs(conv)
        assert (record.action, record.reason) == ("left", "OfTheUser is a subclass of one of convbound.nn's")

    def test_of_torchs_does_nothing(self) -> None:
        assert len(restore_convs(small_model())) == 0


class TestReport:
    def test_table(self) -> None:
        model = nn.Sequential()
        model.stem = nn.Conv2d(3, 4, 3)
        model.blocks = nn.Sequential(Inheriting(4), nn.LazyConv2d(4, 3))
        assert str(replace_convs(model, backend="cpu")).splitlines() == [
            "module    kind        family     action    why",
            "--------  ----------  ---------  --------  -----------------------------------------------",
            "stem      Conv2d      dense      left      dense is not in families",
            "blocks.0  Inheriting  depthwise  replaced  runs on convbound.nn.Conv2d, backend='cpu'",
            "blocks.1  LazyConv2d             left      lazy: becomes a convolution with its first call",
            "",
            "3 convolutions: 1 replaced (1 depthwise), 2 left (1 dense, 1 other)",
        ]

    def test_is_a_sequence_of_records(self) -> None:
        report = replace_convs(small_model())
        assert isinstance(report, Report)
        assert len(report) == len(list(report)) == 5
        assert report[0] in report.left
        assert report[1:] == report.replaced

    def test_the_model_itself_has_a_name_in_the_table(self) -> None:
        assert "(the model)  Conv2d  depthwise  replaced" in str(replace_convs(depthwise()))


class TestErrors:
    @pytest.mark.parametrize("function", [replace_convs, restore_convs])
    def test_no_module(self, function: Callable[[Any], Report]) -> None:
        with pytest.raises(TypeError, match=rf"{function.__name__}: model=\[\] must be a torch.nn.Module"):
            function([])

    def test_unknown_backend(self) -> None:
        model = small_model()
        with pytest.raises(ValueError, match="replace_convs: backend='cudnn' is unknown; choose one of auto, "):
            replace_convs(model, backend="cudnn")
        assert types(model) == types(small_model())


def test_compiles_without_a_break() -> None:
    model = small_model().append(Inheriting(4)).append(parametrizations.weight_norm(depthwise()))
    expected = model(image(2, 3, 6, 5))
    replace_convs(model, backend="cpu", families="all")
    torch._dynamo.reset()
    y = torch.compile(model, fullgraph=True, backend="aot_eager")(image(2, 3, 6, 5))
    torch.testing.assert_close(y, expected)
