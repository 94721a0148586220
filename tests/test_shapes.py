"""Shapes that find bugs: taken from the kernels' tiles, and the extremes of every size.

Many tiny problems share one test; a failure names the problem. Data are integers, results have to be exact (see
test_exact.py).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable

import pytest
import torch
from support.check import expected, explain_inexact, run
from support.data import integers
from support.problems import available_isas, cases, instruction_set, serving_row

from convbound import ops
from convbound.layout import to_layout
from convbound.machine import last_level_cache_bytes
from convbound.problem import DTYPE_NAMES, LAYOUTS, PASSES, ConvProblem, Layout, Pass

parse = ConvProblem.parse


def around(*tiles: int) -> list[int]:
    """Sizes that fill a tile, miss it by one either way, or fill it several times and a rest."""
    return sorted({size for tile in tiles for size in (tile - 1, tile, tile + 1, 2 * tile, 2 * tile + 1) if size > 0})


# Tiles of the depthwise kernels: vectors of 8 (AVX2) or 16 (AVX-512) floats, up to 4 of them side by side; blocks of 7,
# 4, 2 and 1 rows or pixels; up to 7 taps at once, and 4 across; rows of a line image in pieces of 4096. In dgrad the
# classes of each stride are such blocks, in wgrad up to 16 planes share a pass.
ALONG_VECTORS = [1, 3, *around(8, 16), 63, 64, 65]
ALONG_BLOCKS = [*range(1, 10), 13, 14, 15, 21, 23]
TAPS = [*range(1, 10), 13, 14, 15]

DEPTHWISE = {
    "output width by rows": [
        f"g2ic2ih{h + 2}iw{w + 1}oc2kh3kw2" for h, w in itertools.product(ALONG_BLOCKS, ALONG_VECTORS)
    ],
    "channels": [f"mb2g{c}ic{c}ih3iw9oc{c}kh2kw3" for c in ALONG_VECTORS],
    "channels by multiplier": [
        f"g{c}ic{c}ih3iw5oc{c * multiplier}kh3kw2"
        for c, multiplier in itertools.product([1, 2, 3, 7, 8, 9, 17], [2, 3, 4, 5, 7, 8, 9, 16, 17])
    ],
    "filter sizes": [
        f"g3ic3ih16iw17oc3kh{r}kw{s}ph{r // 2}pw{s // 2}"
        for r, s in sorted({*itertools.product(TAPS, [1, 2, 3, 5, 8]), *itertools.product([2], TAPS)})
    ],
    "stride by dilation by taps": [
        f"g2ic2ih47iw49oc2kh{r}kw3sh{stride}dh{dilation}ph2pw1"
        for r, stride, dilation in itertools.product([1, 2, 3, 5, 8], [1, 2, 3, 4], [1, 2, 3, 4])
    ],
    "unequal stride and dilation": [
        f"g2ic2ih47iw49oc2kh{r}kw4{steps}ph3pw2"
        for r in (1, 2, 3, 5, 7)
        for steps in ("sw2dh3dw1", "sh2sw1dw3", "sh3sw2dh2dw3", "sh4sw6dh6dw4", "sw5", "sh5sw1")
    ],
    "padding of up to more than the input": [
        f"g2ic2{sizes}oc2kh3ph{top}pw{left}eh{bottom}ew{right}"
        for sizes in ("ih2iw3", "ih2iw3sh2", "ih5iw4dh2", "ih5iw4sh3dh2", "ih1", "ih1sh2")
        for top, bottom, left, right in [(7, 7, 9, 9), (3, 3, 2, 2), (0, 9, 11, 0), (9, 0, 0, 11), (4, 5, 6, 20)]
    ],
    "cropped by negative end padding": [
        f"g2ic2ih9iw11oc2kh{r}kw{s}sh{stride}dh{dilation}ph{begin}pw1eh-{crop}ew-{begin}"
        for r, s, stride, dilation, begin, crop in itertools.product((1, 2, 3), (1, 3), (1, 2), (1, 2), (0, 1), (1, 2))
    ],
    "rows of a line image": [
        f"g2ic2iw{w}oc2{window}"
        for w in (128, 129, 4095, 4096, 4097, 9000)
        for window in ("kw1", "kw4pw3ew0", "kw3sw2pw2ew0", "kw3sw4pw2ew0dw3")
    ],
    # Of a single row, vectors that lie inside with all their taps are loaded without masks.
    "interior of a line image": [
        f"g2ic2iw{w}oc2{window}"
        for w in (15, 16, 17, 46, 47, 63, 64, 65, 66, 79, 80, 94, 95, 143, 150)
        for window in ("kw2", "kw3pw1", "kw31pw15", "kw31pw30ew0", "kw5pw7ew9dw4", "kw3pw60ew0dw30")
    ],
    "strides beyond the filter": [
        f"g2ic2ih23iw37oc2kh{r}kw{s}sh{p}sw{q}ph1"
        for r, s in ((1, 1), (2, 1), (3, 4))
        for p, q in ((2, 3), (3, 2), (4, 4), (5, 9), (2, 40))
    ],
    "small planes of many images": [
        f"mb{n}g3ic3ih{size}oc3kh3ph1{steps}"
        for n in (7, 15, 16, 17, 33)
        for size in (4, 7, 8)
        for steps in ("", "sh2")
    ],
    "three dimensions": [
        f"mb2g{c}ic{c}id{d}ih9iw19oc{k}kd{t}kh3kw2{steps}"
        for c, k in ((3, 3), (2, 6), (17, 17))
        for d, t in ((1, 1), (4, 3), (7, 2))
        for steps in ("pd1ph1", "sd2sh1sw2pd1ph0", "sd1sh2sw1pd2ph1dd2dh1", "sd3pd1ph1dd2dh2dw1")
    ],
    "images wider than a tile": [
        f"ic1{sizes}oc1kh3ph1{steps}"
        for sizes in ("ih5iw2000", "ih40iw700", "ih100iw131")
        for steps in ("sw2", "sh2", "sh2sw3dh2", "")
    ],
}

# Tiles of the grouped kernels: vectors of 8 or 16 positions, 6 (AVX2: 3) of them and 4 target channels side by side, in
# wgrad 6 (2) taps and 4 channels; rows share the zeros between them; NHWC is transposed 4 channels at a time, 16
# channels or more together; rows longer than 2048 are several tiles.
GROUPED = {
    "output width by rows": [
        f"g2ic4ih{h}iw{w}oc4kh3ph1" for h, w in itertools.product([1, 2, 7, 14], [*ALONG_VECTORS, *around(48, 96)])
    ],
    "channels in by channels out": [
        f"g3ic{3 * c}ih5iw6oc{3 * k}kh2kw3ph1"
        for c, k in itertools.product([2, 3, 4, 5, 8, 13, 16, 17, 32], [1, 2, 3, 4, 5, 6, 8, 9, 16, 33])
    ],
    "groups": [f"mb2g{g}ic{4 * g}ih5iw9oc{4 * g}kh3ph1" for g in (2, 3, 4, 5, 7, 17, 33)],
    "filter sizes": [
        f"g2ic6ih9iw11oc4kh{r}kw{s}ph{r // 2}pw{s // 2}" for r, s in itertools.product([1, 2, 3, 4, 5, 7], repeat=2)
    ],
    "stride by dilation by taps": [
        f"g2ic4ih23iw25oc6kh{r}kw4sh{stride}sw{across}dh{dilation}dw{away}ph2pw1"
        for r, stride, across in itertools.product([1, 2, 3], [1, 2, 3, 5], [1, 2, 3, 4])
        for dilation, away in ((1, 1), (2, 3))
    ],
    "padding of up to more than the input": [
        f"g2ic6{sizes}oc6kh3ph{top}pw{left}eh{bottom}ew{right}"
        for sizes in ("ih2iw3", "ih2iw3sh2", "ih5iw4dh2", "ih5iw4sh3dh2", "ih1", "ih1sh2", "ih9iw17")
        for top, bottom, left, right in [(7, 7, 9, 9), (3, 3, 2, 2), (0, 9, 11, 0), (9, 0, 0, 11), (2, 0, 1, 2)]
    ],
    "cropped by negative end padding": [
        f"g2ic4ih9iw11oc4kh{r}kw{s}sh{stride}dh{dilation}ph{begin}pw1eh-{crop}ew-{begin}"
        for r, s, stride, dilation, begin, crop in itertools.product((1, 2, 3), (1, 3), (1, 2), (1, 2), (0, 1), (1, 2))
    ],
    "rows of a line image": [
        f"g2ic4iw{w}oc6{window}"
        for w in (95, 96, 97, 2047, 2048, 2049, 4500)
        for window in ("kw1", "kw4pw3ew0", "kw3sw2pw2ew0", "kw3sw4pw2ew0dw3", "kw41sw4pw20")
    ],
    "tiles of several rows and images": [
        f"mb{n}g2ic{2 * c}ih{size}oc{2 * c}kh3ph1{steps}"
        for n, c, size in ((3, 16, 30), (17, 4, 14), (2, 32, 57), (40, 8, 7))
        for steps in ("", "sh2")
    ],
    "three dimensions": [
        f"mb2g2ic{2 * c}id{d}ih7iw10oc{2 * k}kd{t}kh3kw2{steps}"
        for c, k in ((2, 3), (4, 2), (8, 8))
        for d, t in ((1, 1), (4, 3), (7, 2))
        for steps in ("pd1ph1", "sd2sh1sw2pd1ph0", "sd1sh2sw1pd2ph1dd2dh1", "sd3pd1ph1dd2dh2dw1")
    ],
}


def complaints(problems: Iterable[str], pass_: Pass, layout: Layout, dtype: torch.dtype) -> list[str]:
    """What is wrong with the native results, one line per problem."""
    found = []
    for problem in map(parse, problems):
        operands = integers(problem, pass_, dtype)
        results = run(pass_, operands, problem, "cpu", layout == "NHWC")
        if wrong := explain_inexact(results, expected(pass_, operands, problem), dtype):
            found.append(f"{problem} (served by {serving_row(problem, pass_, dtype, layout)}): {wrong}")
    return found


Group = tuple[str, Pass, Layout, str, str]
SIMD_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
BY_NAME = {DTYPE_NAMES[dtype]: dtype for dtype in SIMD_DTYPES}


def groups_of(table: dict[str, list[str]]) -> dict[Group, list[str]]:
    """The problems by name of their sizes, pass, layout, dtype and instruction set.

    Naive rows stand on the lowest instruction set only. The two 16-bit types differ in their conversion alone, and take
    turns.
    """
    groups: dict[Group, list[str]] = {}
    for i, (sizes, problems) in enumerate(table.items()):
        for case in cases(map(parse, problems), [torch.float32, (torch.bfloat16, torch.float16)[i % 2]]):
            if case.isa == "generic" and case.dtype != torch.float32:
                continue
            group = (sizes, case.pass_, case.layout, DTYPE_NAMES[case.dtype], case.isa)
            groups.setdefault(group, []).append(str(case.problem))
    return groups


TABLES = {"depthwise": DEPTHWISE, "grouped": GROUPED}
GROUPS = {(family, *group): found for family, table in TABLES.items() for group, found in groups_of(table).items()}


@pytest.mark.parametrize("group", GROUPS, ids="-".join)
def test_simd_families(group: tuple[str, str, Pass, Layout, str, str]):
    _, _, pass_, layout, dtype, isa = group
    with instruction_set(isa):
        assert not complaints(GROUPS[group], pass_, layout, BY_NAME[dtype])


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("isa", [isa for isa in available_isas() if isa != "generic"])
@pytest.mark.parametrize(("family", "sizes"), [(family, sizes) for family, table in TABLES.items() for sizes in table])
def test_simd_kernels_serve_them_all(family: str, sizes: str, isa: str, pass_: Pass):
    with instruction_set(isa):
        for problem, layout, dtype in itertools.product(TABLES[family][sizes], LAYOUTS, SIMD_DTYPES):
            assert serving_row(parse(problem), pass_, dtype, layout) == f"{family}_{pass_}", problem


ANY_FAMILY = {
    "one pixel": ["ic3ih1oc2kh1", "g3ic3ih1oc3kh3ph1", "ic2ih1oc3kh2ph2sh3", "ic2iw1oc3kw1", "ic2id1oc3kd3pd1"],
    "H and W, R and S, strides, padding and dilation all unequal": [
        "ic4ih9iw14oc6kh3kw2sh2sw3ph1pw4dh2dw1",
        "g2ic4ih14iw9oc6kh1kw4sh3sw1ph0pw2dh1dw2",
        "g4ic4ih14iw9oc8kh4kw1sh1sw2ph3pw0dh3dw1",
        "g2ic2id4ih7iw9oc4kd2kh3kw1sd1sh2sw3pd1ph2pw0dd2dh1dw3",
    ],
    "padding wider than the input": [
        "ic2ih2iw3oc3kh3ph7pw9",
        "g2ic4ih3oc4kh2ph5sh2dh2",
        "g3ic3iw2oc3kw3pw8",
        "ic2id2oc2kd2pd3",
    ],
    "asymmetric padding": [
        "ic2ih6oc3kh3ph2eh0pw0ew3",
        "g2ic4ih6oc4kh3sh2ph0eh3pw1ew2",
        "g3ic3iw9oc3kw4pw3ew0",
        "ic2id4oc2kd2pd0ed1ph1eh0pw0ew2",
    ],
    "negative end padding": [
        "ic2ih6oc3kh2eh-1ew-2",
        "g2ic4ih9oc4kh3sh2ph2eh-1pw0ew-3",
        "g3ic3iw9oc3kw4pw3ew-3",
        "ic2id6oc2kd2ed-1eh-2ew0",
    ],
    "filter larger than the input": ["ic2ih3oc3kh5ph1", "g2ic2ih3iw2oc2kh7kw4ph2pw1", "ic2iw3oc2kw8pw4sw2"],
    "stride larger than the filter": ["ic2ih13oc3kh2sh5", "g2ic2ih13iw11oc2kh1kw3sh4sw7ph1", "ic2iw20oc2kw1sw9"],
    "dilation larger than the input": ["ic2ih5oc3kh3ph9dh9", "g4ic4ih4oc4kh2ph7dh11", "ic2iw5oc2kw2pw6dw13"],
    "one channel, one image, one filter": ["ic1ih7oc1kh3", "ic1ih7oc5kh3", "ic5ih7oc1kh3", "mb1g5ic5ih7oc5kh3"],
    "odd channels": ["g7ic21ih5oc35kh3ph1", "ic33ih5oc31kh3ph1", "g3ic51ih4oc9kh1"],
    "no batch at all": ["mb0ic2ih5oc3kh3", "mb0g4ic4ih5oc4kh3sh2", "mb0g4ic4iw5oc4kw3", "mb0ic2id5oc3kd3"],
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("sizes", ANY_FAMILY)
def test_any_family(sizes: str, pass_: Pass, layout: Layout, dtype: torch.dtype):
    for isa in available_isas():
        with instruction_set(isa):
            assert not complaints(ANY_FAMILY[sizes], pass_, layout, dtype)


# Grids of a GPU end at 65535 in y and z; on a CPU the point is that no size is kept in 16 bits.
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize(
    "problem",
    [
        "mb65537g2ic2ih2oc2kh2",
        "mb65537ic2iw2oc1kw2",
        "g65537ic65537ih2iw3oc65537kh2",
        "g65537ic65537iw3oc65537kw2sw2",
        "ic65537iw2oc1kw2",
        "ic1iw2oc65537kw2",
        "ic1iw65537oc2kw3",
        "ic1ih65537iw1oc1kh3kw1sh2",
    ],
)
def test_sizes_beyond_16_bits(problem: str, pass_: Pass, layout: Layout):
    assert not complaints([problem], pass_, layout, torch.float32)


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("problem", ["ic1ih8001iw255oc1kh2kw1sh1sw2dh8000dw1", "ic1iw20001oc1kw3sw1pw10000dw10000"])
def test_reaches_far_beyond_any_tile(problem: str, pass_: Pass):
    for layout in LAYOUTS:
        assert not complaints([problem], pass_, layout, torch.float32)


@pytest.mark.parametrize("isa", [isa for isa in available_isas() if isa != "generic"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pass_", ["fprop", "dgrad"])
@pytest.mark.parametrize(
    "image",
    [
        "g3ic3ih401iw403oc3kh3ph1",
        "g3ic3ih401iw403oc3kh9kw2ph4",
        "g3ic3ih403iw401oc3kh3ph2dh2",
        "g2ic2ih403oc6kh3sh2",
        "g16ic16ih101iw103oc16kh3ph1",
        "g16ic16ih101iw103oc32kh1kw9ph0pw4sw2",
        "g24ic24ih51iw53oc24kh3ph1",
        "g32ic32id9ih33oc32kd3kh3pd1ph1dd1dh2",
    ],
)
def test_more_than_the_cache_holds(image: str, pass_: Pass, layout: Layout, isa: str):
    """There depthwise kernels write by streaming stores, whole vectors or not; the same image often has one result."""
    one = parse(image)
    per_image = 4 * (math.prod(one.x_shape) + math.prod(one.y_shape))
    many = dataclasses.replace(one, n=last_level_cache_bytes() // 3 // per_image + 1)
    small = integers(one, pass_, torch.float32)
    absent = torch.empty(0)
    large = dataclasses.replace(
        small,
        x=small.x.expand(many.x_shape) if pass_ == "fprop" else absent,
        y=small.y.expand(many.y_shape) if pass_ == "dgrad" else absent,
    )
    torch.set_num_threads(2)
    with instruction_set(isa):
        (result,) = run(pass_, large, many, "cpu", layout == "NHWC").values()
    (wanted,) = expected(pass_, small, one).values()
    assert torch.equal(result, wanted.float().expand(result.shape))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=["fp16", "fp32"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("view", ["sliced", "expanded", "permuted", "behind another row", "other layout"])
def test_operands_that_are_views(view: str, pass_: Pass, layout: Layout, dtype: torch.dtype):
    """The ops take tensors of any strides, and copy those that are not dense in the layout."""
    problem = parse("mb2g2ic4ih6iw7oc4kh3ph1")
    operands = integers(problem, pass_, dtype, narrow=True)

    def as_view(t: torch.Tensor) -> torch.Tensor:
        if view == "sliced":
            return torch.cat([t * 0 + torch.nan, t, t], -1)[..., t.shape[-1] : 2 * t.shape[-1]]
        if view == "expanded":
            return t[:1].expand(t.shape)
        if view == "permuted":
            return t.permute(*reversed(range(t.dim()))).contiguous().permute(*reversed(range(t.dim())))
        if view == "behind another row":
            return torch.cat([t.narrow(0, 0, 1), t])[1:]
        return to_layout(t, t.dim() > 1 and layout == "NCHW")

    views = operands.map(as_view)
    right = expected(pass_, views, problem)
    where = {"backend": "cpu", "channels_last": layout == "NHWC"}
    if pass_ == "fprop":
        results = {"y": ops.fprop(views.x, views.w, views.bias, problem, **where)}
    elif pass_ == "dgrad":
        results = {"dx": ops.dgrad(views.y, views.w, views.bias, problem, **where)}
    else:
        results = dict(zip(("dw", "dbias"), ops.wgrad(views.y, views.x, problem, bias_grad=True, **where), strict=True))
    assert not explain_inexact(results, right, dtype)
