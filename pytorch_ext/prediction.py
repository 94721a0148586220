"""The time that a traced kernel would take on a named GPU, predicted from counts; docs/prediction.md states the model.

A prediction is no measurement. It is there to say what binds a kernel beside its bytes: issue slots, latency, waves.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

from convbound import _library, executed, sass
from convbound.gpus import L2_PORT_BYTES, Gpu
from convbound.sass import Code, Instruction
from convbound.trace_report import Trace, TracedLaunch

SCHEDULERS = 4  # of an SM: each issues at most one warp instruction a clock
ISSUE = 0.8  # of the slots are used where issue binds
LATENCY = 700e-9  # seconds from a load to its data, on a busy GPU
CHAIN = 3.0  # clocks from one instruction of a warp to its next, where no other warp fills them
REGISTERS = 65536  # of an SM
_RESERVED_SHARED = 1024  # bytes of each block
# Of an SM, by architecture: threads, and bytes of shared memory.
_SM = {
    75: (1024, 64),
    80: (2048, 164),
    86: (1536, 100),
    89: (1536, 100),
    90: (2048, 228),
    100: (2048, 228),
    120: (1536, 100),
}
_FP32 = ("FFMA", "FMUL", "FADD", "HADD2", "HFMA2", "HMUL2")
_MULTIPLY_ADDS = {"16816": 2048, "1688": 1024}  # of a warp's HMMA, by its modifier


@dataclass(frozen=True)
class LaunchPrediction:
    """One launch: what was counted, and the seconds that follow.

    `waves` is blocks over what all SMs hold at once; `in_flight` the bytes that one SM's resident blocks have asked
    DRAM for before they wait; `bounds` the seconds of each resource. `seconds` is the longest of them, and the latency
    that no other block hides.
    """

    launch: TracedLaunch
    counted: executed.Executed
    resident: int
    waves: float
    in_flight: float
    bounds: dict[str, float]
    exposed: float

    @property
    def seconds(self) -> float:
        return max(self.bounds.values()) + self.exposed

    @property
    def binding(self) -> str:
        return max(self.bounds, key=lambda name: self.bounds[name])

    @property
    def last_wave(self) -> float:
        """How full the last wave is: 1 where all SMs have as many blocks as they hold."""
        return self.waves - math.ceil(self.waves) + 1


@dataclass(frozen=True)
class Prediction:
    """Launches come one after the other, so their times add up."""

    trace: Trace
    launches: tuple[LaunchPrediction, ...]

    @property
    def seconds(self) -> float:
        return sum(launch.seconds for launch in self.launches)

    @property
    def slots_per_output(self) -> float:
        """Executed instructions of a thread for each element of the output; in wgrad, of dy."""
        p = self.trace.problem
        outputs = p.n * (p.c * math.prod(p.input) if self.trace.pass_ == "dgrad" else p.k * math.prod(p.output))
        return 32 * sum(launch.counted.instructions for launch in self.launches) / outputs

    def report(self) -> str:
        """Lines below those of :meth:`Trace.report`."""
        lines = [
            f"  predicted     {self.seconds * 1e6:10.2f} us on {self.trace.gpu.name}, not measured; "
            f"{self.slots_per_output:.1f} instructions of a thread per output"
        ]
        for launch in self.launches:
            bounds = sorted(launch.bounds.items(), key=lambda bound: -bound[1])
            lines += [
                f"  {launch.launch.kernel}",
                f"    {launch.counted.code.registers} registers, {launch.resident} blocks fit in an SM, "
                f"{launch.waves:.2f} waves, the last {launch.last_wave:.0%} full, "
                f"{launch.in_flight / 1024:.1f} KiB in flight per SM",
                "    us: "
                + ", ".join(f"{name} {seconds * 1e6:.2f}" for name, seconds in bounds)
                + f"; exposed latency {launch.exposed * 1e6:.2f}",
                f"    {launch.counted.matched:.0%} of the emulator's requests found in the machine code, "
                f"{launch.counted.off:.0%} contradict it",
            ]
        return "\n".join(lines)


def predict(trace: Trace) -> Prediction | str:
    """What a trace's kernel would take on its GPU; or why that is not known, in words.

    The machine code is that of this build for the newest architecture that the GPU runs.
    """
    launches = []
    for launch in trace.launches:
        code = _code(launch.kernel, trace.gpu.arch)
        if isinstance(code, str):
            return code
        launches.append(_predict(launch, code, trace.gpu))
    return Prediction(trace, tuple(launches))


@lru_cache(maxsize=256)
def _code(kernel: str, arch: int) -> Code | str:
    library = _library.PACKAGE / "libconvbound_cuda.so"
    found: Code | str = ""
    for built in (90, 80, 75):
        if built <= arch:
            found = sass.find(library, kernel, f"sm_{built}")
            if not isinstance(found, str):
                return found
    return found


def _predict(launch: TracedLaunch, code: Code, gpu: Gpu) -> LaunchPrediction:
    threads = math.prod(launch.block)
    warps = launch.blocks * math.ceil(threads / 32)
    counted = executed.count(code, launch.sites, warps)
    resident = _resident(code, threads, launch.shared_bytes, gpu)
    waves = launch.blocks / (gpu.sms * resident)
    in_flight = min(resident, launch.blocks / gpu.sms) * _block_in_flight(counted, launch)
    # The SM with the most blocks ends last.
    busiest = math.ceil(launch.blocks / gpu.sms) / launch.blocks
    clocks = {
        "issue slots": counted.instructions / (SCHEDULERS * ISSUE),
        "fp32 lanes": counted.of(*_FP32) * 32 / gpu.fp32_lanes,
        "tensor cores": _products(counted) / gpu.tensor_lanes,
        "L1 and shared memory": sum(site.l1_cycles for site in launch.sites),
        "the ports between SMs and L2": (launch.load_bytes + launch.store_bytes) / L2_PORT_BYTES,
    }
    bandwidth = min(gpu.dram, gpu.sms * in_flight / LATENCY) if in_flight else gpu.dram
    chain = math.ceil(waves) * (LATENCY + counted.instructions / warps * CHAIN / gpu.clock)
    bounds = {name: count * busiest / gpu.clock for name, count in clocks.items()}
    bounds |= {"DRAM" if bandwidth == gpu.dram else "bytes in flight": launch.dram_bytes / bandwidth}
    bounds |= {"latency": chain}
    return LaunchPrediction(launch, counted, resident, waves, in_flight, bounds, LATENCY)


def _resident(code: Code, threads: int, shared_bytes: int, gpu: Gpu) -> int:
    """Blocks that an SM holds at once."""
    most_threads, shared = _SM[gpu.arch]
    registers = math.ceil(code.registers / 8) * 8
    warps = math.ceil(threads / 32)
    return max(
        1,
        min(
            most_threads // (32 * warps),
            REGISTERS // (registers * 32 * warps),
            shared * 1024 // (shared_bytes + _RESERVED_SHARED),
            32,
        ),
    )


def _products(counted: executed.Executed) -> float:
    """Multiply-adds on tensor cores."""
    return sum(
        count * sum(_MULTIPLY_ADDS.get(i.modifiers[0], 0) for i in block if i.opcode == "HMMA")
        for count, block in zip(counted.counts, counted.code.blocks, strict=True)
    )


def _block_in_flight(counted: executed.Executed, launch: TracedLaunch) -> float:
    """Bytes from global memory that a block asks for before it waits: by cp.async or by loads, the larger part."""
    blocks = list(zip(counted.counts, counted.code.blocks, strict=True))

    def moved(block: tuple[Instruction, ...], opcode: str) -> int:
        return sum(instruction.width for instruction in block if instruction.opcode == opcode)

    copied, loaded = (sum(count * moved(block, opcode) for count, block in blocks) for opcode in ("LDGSTS", "LDG"))
    if not copied and not loaded:
        return 0.0
    threads = math.prod(launch.block)
    if copied < loaded:
        asked = sum(count * _at_first_use(block) * moved(block, "LDG") for count, block in blocks)
        return threads * asked / loaded
    stages = max((_groups_left(i) for _, block in blocks for i in block if i.opcode == "DEPBAR"), default=0)
    waits_of_warp = counted.of("DEPBAR") / (launch.blocks * math.ceil(threads / 32))
    return sum(launch.loaded_bytes_by_width) / launch.blocks * min(1.0, (stages + 1) / max(1.0, waits_of_warp))


def _groups_left(wait: Instruction) -> int:
    """Of a wait for asynchronous copies: the groups that may still be in flight."""
    return int(wait.operands.rsplit(",", 1)[-1].strip(), 0) if "," in wait.operands else 0


def _at_first_use(block: tuple[Instruction, ...]) -> int:
    """The most bytes that a thread's loads in a basic block have asked for when the first of them is used."""
    waiting: list[tuple[str, int]] = []  # registers and bytes, in the order of the loads
    most = 0
    for instruction in block:
        to, *used = re.split(r"\W+", instruction.operands)
        if instruction.opcode == "LDG":
            waiting.append((to, instruction.width))
            most = max(most, sum(width for _, width in waiting))
        elif arrived := [i for i, (register, _) in enumerate(waiting) if register in used]:
            waiting = waiting[arrived[-1] + 1 :]
    return most
