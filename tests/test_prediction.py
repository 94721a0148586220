"""Executed instructions, found from the machine code and the emulator's counts, and the time predicted from them."""

from __future__ import annotations

import dataclasses
import math
import shutil

import pytest
import torch
from support import device
from support.traced import needs_code

import convbound
from convbound import __main__, executed, prediction, sass
from convbound.gpus import find_gpu
from convbound.problem import Layout, Pass
from convbound.trace_report import Site

emulated = pytest.mark.skipif(device.ABSENT is not None, reason=f"no emulated kernels: {device.ABSENT}")

# A kernel that loads once, goes round a loop, and leaves by an early exit or at the end.
TEXT = """
\t//## File "/x/kernel.cu", line 10
        /*0000*/                   S2R R0, SR_TID.X ;
        /*0010*/               @P0 EXIT ;
\t//## File "/x/helper.h", line 3 inlined at "/x/kernel.cu", line 11
\t//## File "/x/kernel.cu", line 11
        /*0020*/                   LDG.E.U16 R2, desc[UR4][R2.64] ;
.L_x_0:
\t//## File "/x/kernel.cu", line 20
        /*0030*/                   LDS.128 R4, [R0] ;
        /*0040*/                   FFMA R8, R4, R5, R8 ;
\t//## File "/x/kernel.cu", line 22
        /*0050*/              @!P1 LDS.U16 R9, [R0+0x10] ;
        /*0060*/               @P2 BRA `(.L_x_0) ;
\t//## File "/x/kernel.cu", line 30
        /*0070*/                   STG.E desc[UR4][R2.64], R8 ;
        /*0080*/                   EXIT ;
"""


def site(frames: str, space: str, kind: str, requests: int, width: int = 4) -> Site:
    return Site(frames.split()[0], space, kind, width, 32 * requests, requests, requests, requests, frames=frames)


SITES = [
    site("helper.h:3 kernel.cu:11", "global", "load", 90, 2),
    site("kernel.cu:20", "shared", "load", 700, 16),
    site("kernel.cu:22", "shared", "load", 300, 2),
    site("kernel.cu:30", "global", "store", 90),
]
CODE = sass.parse("kernel", "sm_90", 32, TEXT)


def test_the_graph_of_machine_code():
    assert [len(block) for block in CODE.blocks] == [2, 1, 4, 2]
    assert CODE.edges == ((0, 1), (1, 2), (2, 2), (2, 3))
    assert CODE.exits == (0, 3)
    load = CODE.blocks[1][0]
    assert (load.opcode, load.width, load.predicated) == ("LDG", 2, False)
    assert load.frames == {"helper.h:3", "kernel.cu:11"}
    assert sass._plain("void a::(anonymous namespace)::f<b<c, 3>, (d)1>(e<b>)") == "a::f<b<c,3>,(d)1>"


def test_executions_follow_from_requests_and_from_the_graph():
    found = executed.count(CODE, SITES, warps=100)
    assert found.counts == pytest.approx((100, 90, 700, 90))
    assert (found.matched, found.off) == (1, pytest.approx(0, abs=1e-9))
    assert found.instructions == pytest.approx(2 * 100 + 90 + 4 * 700 + 2 * 90)
    assert found.of("FFMA") == pytest.approx(700)


def test_a_line_beside_it_will_do_and_what_contradicts_is_said():
    moved = [dataclasses.replace(one, frames=one.frames.replace(":20", ":19")) for one in SITES]
    assert executed.count(CODE, moved, warps=100).counts == pytest.approx((100, 90, 700, 90))
    far = [dataclasses.replace(one, frames=one.frames.replace(":20", ":99")) for one in SITES]
    found = executed.count(CODE, far, warps=100)
    assert found.matched == pytest.approx(1 - 700 / 1180)
    assert found.counts[2] == pytest.approx(300)  # by the predicated access, at least
    wrong = [*SITES[:3], dataclasses.replace(SITES[3], requests=50)]
    found = executed.count(CODE, wrong, warps=100)
    assert found.off == pytest.approx(40 / 1140)  # 90 loaded, 50 stored: no flow has both


def test_loads_in_flight_until_one_is_used():
    load = sass.parse(
        "k",
        "sm_90",
        32,
        """
        /*0000*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0010*/                   LDG.E.64 R8, desc[UR4][R2.64+0x10] ;
        /*0020*/                   FFMA R12, R4, R5, R12 ;
        /*0030*/                   LDG.E R20, desc[UR4][R2.64+0x20] ;
        /*0040*/                   EXIT ;
""",
    )
    assert prediction._at_first_use(load.blocks[0]) == 24


@needs_code
@emulated
@pytest.mark.skipif(shutil.which("c++filt") is None, reason="no c++filt")
@pytest.mark.parametrize(
    ("text", "pass_", "layout", "kernel", "fma"),
    [
        ("mb2g8ic8ih28oc8kh3ph1", "fprop", "NCHW", None, (9, 10.2)),
        ("mb2g8ic8ih56oc8kh3ph1", "fprop", "NCHW", None, (9, 10.2)),
        ("mb1g32ic32ih28oc32kh3ph1", "fprop", "NHWC", "naive", (8.57, 8.59)),  # (3 * 28 - 2)^2 / 28^2
        ("mb1g16ic16ih33oc16kh3ph12dh11", "fprop", "NCHW", None, (5, 10)),
    ],
)
def test_multiply_adds_of_real_kernels_are_those_of_the_problem(
    text: str, pass_: Pass, layout: Layout, kernel: str | None, fma: tuple[float, float]
):
    # Nothing above knows how often an FFMA runs: it follows from the graph.
    traced = convbound.trace(text, pass_, dtype=torch.float16, layout=layout, gpu="H100", kernel=kernel)
    predicted = prediction.predict(traced)
    assert not isinstance(predicted, str), predicted
    (launch,) = predicted.launches
    outputs = math.prod(traced.problem.y_shape)
    assert launch.counted.matched > 0.99
    assert launch.counted.off < 0.02
    assert fma[0] <= 32 * launch.counted.of("FFMA") / outputs <= fma[1]
    assert predicted.slots_per_output > fma[0]
    assert launch.bounds["DRAM" if "DRAM" in launch.bounds else "bytes in flight"] > 0


@needs_code
@emulated
def test_waves_and_what_an_sm_holds():
    problem = "mb4g64ic64ih28oc64kh3ph1"
    few = convbound.trace(problem, dtype=torch.float16, gpu="H100")
    small = convbound.trace(problem, dtype=torch.float16, gpu="name=one,sms=1,gbps=25,profile=sm_90")
    on_many, on_one = prediction.predict(few), prediction.predict(small)
    assert not isinstance(on_many, str)
    assert not isinstance(on_one, str)
    (many,), (one,) = on_many.launches, on_one.launches
    blocks = few.launches[0].blocks
    assert one.waves == pytest.approx(blocks / one.resident)
    assert many.waves == pytest.approx(blocks / one.resident / find_gpu("H100").sms)
    assert 0 < one.last_wave <= 1
    assert on_one.seconds > on_many.seconds


@needs_code
@emulated
def test_the_command_line_shows_it(capsys: pytest.CaptureFixture[str]):
    assert __main__.main(["trace", "g4ic4ih8oc4kh3ph1", "--dtype", "fp16"]) == 0
    shown = capsys.readouterr().out
    assert "us on H100 SXM, not measured" in shown
    assert "instructions of a thread per output" in shown
    assert "waves, the last" in shown


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sass, "tool", lambda name: None)
    sass.find.cache_clear()
    found = sass.find(convbound._library.PACKAGE / "libconvbound_cuda.so", "f", "sm_90")
    assert isinstance(found, str)
    assert found.startswith("cuobjdump is not installed; ")
    sass.find.cache_clear()
