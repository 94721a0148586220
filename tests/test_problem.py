"""ConvProblem: its grammar both ways, what follows from its sizes, and what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import reference
from support.problems import PROBLEMS

from convbound import ConvProblem
from convbound.problem import LARGEST, output_size, transposed_size

parse = ConvProblem.parse


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "mb8g144ic144ih56oc144kh3sh2ph1",
            ConvProblem(8, 144, 144, (56, 56), (3, 3), (2, 2), ((1, 1), (1, 1)), groups=144),
        ),
        ("ic3ih5oc4kh1", ConvProblem(1, 3, 4, (5, 5), (1, 1))),
        ("ic3ih5iw6oc4kh1kw2", ConvProblem(1, 3, 4, (5, 6), (1, 2))),
        ("ic3ih9oc4kh3dh2", ConvProblem(1, 3, 4, (9, 9), (3, 3), dilation=(2, 2))),
        ("ic3ih9oc4kh3sh2sw1", ConvProblem(1, 3, 4, (9, 9), (3, 3), stride=(2, 1))),
        ("ic3ih9oc4kh3sw2", ConvProblem(1, 3, 4, (9, 9), (3, 3), stride=(1, 2))),
        ("ic3ih9oc4kh3pw2", ConvProblem(1, 3, 4, (9, 9), (3, 3), padding=((0, 0), (2, 2)))),
        ("ic3ih9oc4kh3ph1eh2", ConvProblem(1, 3, 4, (9, 9), (3, 3), padding=((1, 2), (1, 1)))),
        ("ic3ih9oc4kh3ph1eh-1ew0", ConvProblem(1, 3, 4, (9, 9), (3, 3), padding=((1, -1), (1, 0)))),
        ("mb2ic3iw9oc4kw3sw2pw1dw1", ConvProblem(2, 3, 4, (9,), (3,), (2,), ((1, 1),))),
        (
            "ic3id4ih5iw6oc4kd1kh2sd2pd1",
            ConvProblem(1, 3, 4, (4, 5, 6), (1, 2, 2), (2, 2, 2), ((1, 1), (1, 1), (1, 1))),
        ),
        ("mb0ic3ih5oc4kh1", ConvProblem(0, 3, 4, (5, 5), (1, 1))),
        ("oc4kh1ih5ic3", ConvProblem(1, 3, 4, (5, 5), (1, 1))),
    ],
)
def test_parse(text: str, problem: ConvProblem):
    assert parse(text) == problem


@pytest.mark.parametrize(
    ("text", "shortest"),
    [
        ("mb8g144ic144ih56iw56oc144kh3kw3sh2sw2ph1pw1dh1", "mb8g144ic144ih56oc144kh3sh2ph1"),
        ("ic3ih9iw8oc4kh3sh1sw2eh0", "mb1ic3ih9iw8oc4kh3sw2"),
        ("ic3ih9oc4kh3sh2sw1ph1pw0", "mb1ic3ih9oc4kh3sh2sw1ph1pw0"),
        ("ic3ih9oc4kh3ph1pw1eh1ew0", "mb1ic3ih9oc4kh3ph1ew0"),
        ("g3ic3id4ih5iw5oc6kd1kh2kw1dd1dh1dw3", "mb1g3ic3id4ih5oc6kd1kh2kw1dw3"),
    ],
)
def test_the_string_of_a_problem_says_nothing_twice(text: str, shortest: str):
    assert str(parse(text)) == shortest


@st.composite
def problems(draw: st.DrawFn) -> ConvProblem:
    ndim, groups = draw(st.integers(1, 3)), draw(st.integers(1, 4))

    def sizes(low: int, high: int) -> tuple[int, ...]:
        return draw(st.tuples(*[st.integers(low, high)] * ndim))

    filter, dilation = sizes(1, 5), sizes(1, 3)
    padding = tuple(zip(sizes(0, 4), sizes(-2, 4), strict=True))
    fits = [max(1, d * (r - 1) + 1 - sum(p)) for d, r, p in zip(dilation, filter, padding, strict=True)]
    return ConvProblem(
        n=draw(st.integers(0, 70_000)),
        c=groups * draw(st.integers(1, 3)),
        k=groups * draw(st.integers(1, 3)),
        input=tuple(least + extra for least, extra in zip(fits, sizes(0, 20), strict=True)),
        filter=filter,
        stride=sizes(1, 4),
        padding=padding,
        dilation=dilation,
        groups=groups,
    )


@given(problems())
def test_parse_is_the_inverse_of_str(problem: ConvProblem):
    assert parse(str(problem)) == problem
    assert " " not in str(problem)


@given(problems())
def test_output_size_counts_the_positions_where_the_filter_fits(problem: ConvProblem):
    for i, r, s, (begin, end), d, o in zip(
        problem.input, problem.filter, problem.stride, problem.padding, problem.dilation, problem.output, strict=True
    ):
        starts = range(-begin, i + end, s)
        assert o == sum(start + d * (r - 1) < i + end for start in starts) == output_size(i, r, s, (begin, end), d)


@pytest.mark.parametrize("size", [output_size, transposed_size])
def test_sizes_beyond_what_the_kernels_count_to_are_errors(size: Callable[..., int]):
    one = {"input": 5, "filter": 3, "stride": 1, "dilation": 1}
    one |= {"padding": (0, 0)} if size is output_size else {"padding": 0, "output_padding": 0}
    for name, value in (("stride", LARGEST), ("dilation", LARGEST // 2), ("padding", LARGEST)):
        padding = (value, value) if (name, size) == ("padding", output_size) else value
        size(**one | {name: padding})
        with pytest.raises(ValueError, match=f"{name}.* is more than {LARGEST}, the most that the kernels count to"):
            size(**one | {name: (0, value + 1) if isinstance(padding, tuple) else value + 1})
    with pytest.raises(ValueError, match=r"stride=.* is more than"):
        parse("ic1iw5oc1kw3dw4611686018427387904pw4611686018427387904sw4611686018427387904")


def test_a_note_on_the_origin_follows_a_space_and_is_not_compared():
    problem = parse("ic3ih5oc4kh1 mobilenet_v2:block3.dw")
    assert problem.origin == "mobilenet_v2:block3.dw"
    assert problem == parse("ic3ih5oc4kh1")
    assert hash(problem) == hash(parse("ic3ih5oc4kh1"))
    assert str(problem) == "mb1ic3ih5oc4kh1"


def test_a_problem_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse("ic3ih5oc4kh1").n = 2  # type: ignore[misc]


def test_ints_and_single_entries_stand_for_all_axes():
    written_out = ConvProblem(1, 3, 4, (9, 8), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1))
    assert ConvProblem(1, 3, 4, (9, 8), (3,), (2,), ((1, 1),), (1,)) == written_out
    assert ConvProblem(1, 3, 4, (9, 8), 3, 2, 1, 1) == written_out  # type: ignore[arg-type]
    assert ConvProblem(1, 3, 4, (9, 8), (3, 3), (2, 2), (1, 1)) == written_out  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("ic1ih56oc1kh3sh2ph1", (28, 28)),
        ("ic1ih7iw5oc1kh7kw5", (1, 1)),
        ("ic1ih13iw15oc1kh3ph2dh2", (13, 15)),
        ("ic1iw10oc1kw4pw3ew0", (10,)),
        ("ic1id4ih5iw6oc1kd2kh3kw4sd1sh2sw3", (3, 2, 1)),
        ("ic1ih10oc1kh2eh-2", (7, 9)),
    ],
)
def test_output(text: str, output: tuple[int, ...]):
    assert parse(text).output == output


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_shapes_are_those_that_a_convolution_takes_and_gives(problem: ConvProblem):
    y = reference.fprop(torch.zeros(problem.x_shape), torch.zeros(problem.w_shape), None, problem)
    assert y.shape == problem.y_shape
    assert problem.ndim == len(problem.input) == len(problem.output)


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("g4ic4ih9oc4kh3", "depthwise"),
        ("g4ic4ih9oc8kh3", "depthwise"),
        ("g4ic4ih9oc4kh3dh2", "depthwise"),
        ("ic1ih9oc8kh3", "depthwise"),
        ("g2ic4ih9oc4kh3", "grouped"),
        ("g2ic4ih9oc4kh3dh1dw2", "dilated"),
        ("ic4ih9oc4kh3dh2", "dilated"),
        ("ic4ih9oc4kh3sh2", "dense"),
    ],
)
def test_family(text: str, family: str):
    problem = parse(text)
    assert problem.family == family
    assert problem.depthwise == (family == "depthwise")


def test_flops_count_two_per_multiply_add_and_those_with_padding_too():
    assert parse("mb8g144ic144ih56oc144kh3sh2ph1").flops == 2 * 8 * 144 * 28 * 28 * 9
    assert parse("mb2g2ic6iw5oc4kw3").flops == 2 * (2 * 4 * 3) * (3 * 3)
    # A filter as large as the image: one dot product per output channel.
    assert parse("ic3ih4oc5kh4").flops == 2 * 5 * 3 * 16


def test_parameters_are_the_filter_elements():
    assert parse("g2ic6ih9oc4kh3kw2").parameters == 4 * 3 * 3 * 2


def test_compulsory_bytes_are_each_tensor_once():
    problem = parse("mb2g2ic6ih9oc4kh3kw2")
    elements = 2 * 6 * 81 + 4 * 3 * 6 + 2 * 4 * 7 * 8
    assert problem.compulsory_bytes() == problem.compulsory_bytes(torch.float32) == 4 * elements
    assert problem.compulsory_bytes(torch.bfloat16) == 2 * elements
    assert problem.compulsory_bytes(torch.float64) == 8 * elements


def test_arithmetic_intensity_is_flops_per_compulsory_byte():
    pointwise = parse("ic64ih56oc64kh1")
    bytes_moved = 4 * (2 * 64 * 56 * 56 + 64 * 64)
    assert pointwise.arithmetic_intensity() == pytest.approx(2 * 64 * 64 * 56 * 56 / bytes_moved)
    assert pointwise.arithmetic_intensity(torch.float16) == pytest.approx(2 * pointwise.arithmetic_intensity())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read '' in problem ''; a problem is written like mb8g144ic144ih56oc144kh3sh2ph1"),
        ("ic3ih5oc4kh1x", "cannot read 'x' in problem 'ic3ih5oc4kh1x'"),
        ("ic3ih5oc4kh1ph-1", "cannot read 'ph-1' in problem"),
        ("ic3ih5.5oc4kh1", r"cannot read '\.5oc4kh1' in problem"),
        ("ic3ih5oc4kh1ih6", "ih appears twice in problem 'ic3ih5oc4kh1ih6'"),
        ("ih5oc4kh1", "problem 'ih5oc4kh1' has no ic; a problem is written like"),
        ("ic3ih5kh1", "problem 'ic3ih5kh1' has no oc; a problem is written like"),
        ("ic3oc4kh1", "problem 'ic3oc4kh1' needs input and filter sizes, as in ih56kh3"),
        ("ic3ih5oc4kw1", "needs input and filter sizes, as in ih56kh3"),
        ("ic3iw5oc4kw1sh2", "sh names an axis that problem 'ic3iw5oc4kw1sh2' does not have: it has w"),
        ("ic3ih5oc4kh1pd1", "pd names an axis that problem 'ic3ih5oc4kh1pd1' does not have: it has hw"),
        ("g2ic3ih5oc4kh1", "groups=2 does not divide c=3"),
        ("g3ic3ih5oc4kh1", "groups=3 does not divide k=4"),
        ("ic3ih5oc4kh6", r"the output would be empty: \(0, 0\) for input=\(5, 5\), filter=\(6, 6\)"),
        ("ic3ih5oc4kh3eh-3", r"the output would be empty: \(0, 3\)"),
        ("ic0ih5oc4kh1", "c=0 must be at least 1"),
        ("ic3ih0oc4kh1ph1", r"input=\(0, 0\) must be at least 1 everywhere"),
        ("ic3ih5oc4kh0", r"filter=\(0, 0\) must be at least 1 everywhere"),
        ("ic3ih5oc4kh1sh0", r"stride=\(0, 0\) must be at least 1 everywhere"),
        ("ic3ih5oc4kh1dw0", r"dilation=\(1, 0\) must be at least 1 everywhere"),
        ("g0ic3ih5oc4kh1", "groups=0 must be at least 1"),
    ],
)
def test_strings_that_are_no_problem(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": -1}, "n=-1 must not be negative"),
        ({"k": 0}, "k=0 must be at least 1"),
        ({"input": ()}, r"input=\(\) has 0 spatial sizes; a convolution has 1, 2 or 3"),
        ({"input": (5, 5, 5, 5)}, "has 4 spatial sizes"),
        ({"filter": (3, 3, 3)}, r"filter=\(3, 3, 3\) has 3 entries, but input=\(5, 6\) has 2"),
        ({"stride": (1, 2, 3)}, "stride=.* has 3 entries"),
        ({"dilation": ()}, r"dilation=\(\) has 0 entries"),
        ({"padding": ((1, 1), (1, 1), (1, 1))}, "padding=.* has 3 entries"),
        ({"padding": ((-1, 0), (0, 0))}, r"padding=\(\(-1, 0\), \(0, 0\)\) must not begin with a negative number"),
    ],
)
def test_numbers_that_are_no_problem(change: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(ConvProblem(1, 3, 4, (5, 6), (3, 3)), **change)  # type: ignore[arg-type]


def test_a_missing_axis_inherits_the_one_before_it():
    assert parse("ic1id5oc1kd3").input == (5, 5, 5)
    assert parse("ic1id5iw7oc1kd3kh1").input == (5, 5, 7)
    assert parse("ic1id5iw7oc1kd3kh1").filter == (3, 1, 1)
    assert parse("ic1ih5oc1kh3ph2").padding == ((2, 2), (2, 2))
