"""How often each basic block of a kernel's machine code runs: the machine code's graph, weighted by the emulator.

The emulator counts the requests of every load and store in the source. The machine code has the same accesses, with
their source lines. So for each source line the executions of its accesses are known, and along the graph's edges as
many warps leave a block as enter it. These are linear equations for the executions of all blocks; where a compiler
moved or merged an access they contradict each other a little. Linear programming finds the executions with the least
sum of absolute contradictions: a few accesses that do not fit then do not bend the others.

A predicated access may be skipped by whole warps, so it counts as a lower bound. What the compiler leaves open (a loop
and the remainder of its unrolling) is taken with as few executions as possible.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from convbound.sass import Code, Instruction
from convbound.trace_report import Site

_ACCESSES = {
    "LDG": ("global", "load"),
    "LDGSTS": ("global", "cp.async"),
    "STG": ("global", "store"),
    "LDS": ("shared", "load"),
    "LDSM": ("shared", "load"),
    "STS": ("shared", "store"),
}
_Class = tuple[str, str]  # space and kind; not the width, for a compiler loads only the half of a word that is used
# What an execution too many costs in the linear program, beside a request of the emulator that is missing.
_BLOCK, _PREDICATED = 1e-4, 1e-2


@dataclass(frozen=True)
class Executed:
    """Executions of each basic block by warps.

    `matched` is the share of the emulator's requests whose source line was found in the machine code, `off` by how much
    the executions contradict them, as a share of them.
    """

    code: Code
    counts: tuple[float, ...]
    matched: float
    off: float

    @property
    def instructions(self) -> float:
        """By all warps."""
        return sum(count * len(block) for count, block in zip(self.counts, self.code.blocks, strict=True))

    def of(self, *opcodes: str) -> float:
        """Executions of these opcodes."""
        return sum(
            count * sum(instruction.opcode in opcodes for instruction in block)
            for count, block in zip(self.counts, self.code.blocks, strict=True)
        )


def count(code: Code, sites: Sequence[Site], warps: int) -> Executed:
    """The executions in a launch of so many warps, of which the emulator counted these accesses.

    Raises
    ------
    RuntimeError
        When scipy, which solves the linear program, is not installed.
    """
    groups, matched = _groups(code, sites)
    solution = _solve(code, groups, warps)
    wanted = sum(requests for _, requests, _ in groups)
    counts = tuple(solution[: len(code.blocks)])
    off = sum(
        max(requests - done, 0) + (0 if predicated else max(done - requests, 0))
        for members, requests, predicated in groups
        for done in [sum(counts[block] * times for block, times in members.items())]
    )
    return Executed(code, counts, matched, off / wanted if wanted else 0.0)


_Group = tuple[dict[int, int], int, bool]  # accesses by block, requests, whether one is predicated


def _groups(code: Code, sites: Sequence[Site]) -> tuple[list[_Group], float]:
    """Sites and machine code accesses that belong together, and the share of requests that found their access."""
    accesses: dict[_Class, list[tuple[int, Instruction]]] = defaultdict(list)
    for number, block in enumerate(code.blocks):
        for instruction in block:
            if instruction.opcode in _ACCESSES:
                accesses[_ACCESSES[instruction.opcode]].append((number, instruction))
    requests: dict[tuple[_Class, str], int] = defaultdict(int)
    for site in sites:
        kind = "cp.async" if site.kind.startswith("cp.async") else site.kind
        if (site.space, kind) != ("shared", "cp.async"):  # the other half of one in global memory
            requests[(site.space, kind), site.frames] += site.requests
    found: list[tuple[set[tuple[_Class, int]], int]] = []
    for (class_, frames), count in requests.items():
        lines = set(frames.split())
        members = _alike(class_, lines, accesses[class_]) or _alike(class_, _about(lines), accesses[class_])
        if members:
            found.append((members, count))
    groups = []
    for members, count in _joined(found):
        instructions = [accesses[class_][i] for class_, i in members]
        blocks: dict[int, int] = defaultdict(int)
        for number, _ in instructions:
            blocks[number] += 1
        groups.append((dict(blocks), count, any(instruction.predicated for _, instruction in instructions)))
    total = sum(requests.values())
    return groups, sum(count for _, count in found) / total if total else 1.0


def _about(lines: set[str]) -> set[str]:
    """With the lines before and after: compilers differ in which line of a statement is the access's."""
    return {
        f"{file}:{int(line) + step}" for file, _, line in (at.partition(":") for at in lines) for step in (-1, 0, 1)
    }


def _alike(class_: _Class, lines: set[str], accesses: list[tuple[int, Instruction]]) -> set[tuple[_Class, int]]:
    """The accesses that share the most lines with a site, and those of whose lines the compiler only lost some."""
    shared = [len(lines & instruction.frames) for _, instruction in accesses]
    most = max(shared, default=0)
    return {
        (class_, i)
        for i, (common, (_, instruction)) in enumerate(zip(shared, accesses, strict=True))
        if common and (common == most or common == len(instruction.frames))
    }


def _joined(found: list[tuple[set[tuple[_Class, int]], int]]) -> list[tuple[set[tuple[_Class, int]], int]]:
    """Sites that share an access, as one."""
    groups: list[tuple[set[tuple[_Class, int]], int]] = []
    for members, count in found:
        touching = [group for group in groups if group[0] & members]
        groups = [group for group in groups if not group[0] & members]
        groups.append((members.union(*(group[0] for group in touching)), count + sum(group[1] for group in touching)))
    return groups


def _solve(code: Code, groups: list[_Group], warps: int) -> list[float]:
    """Executions of the blocks, then what the linear program needs beside them."""
    try:
        from scipy.optimize import linprog
        from scipy.sparse import coo_matrix
    except ImportError as error:
        raise RuntimeError("counting executed instructions needs scipy: pip install scipy") from error
    blocks, edges, exits = len(code.blocks), len(code.edges), len(code.exits)
    first_slack = blocks + edges + exits
    cost = [_BLOCK] * blocks + [0.0] * (edges + exits)
    equations: list[tuple[dict[int, float], float]] = []
    for block in range(blocks):
        entering = {blocks + i: -1.0 for i, (_, to) in enumerate(code.edges) if to == block}
        leaving = {blocks + i: -1.0 for i, (begin, _) in enumerate(code.edges) if begin == block}
        leaving |= {blocks + edges + i: -1.0 for i, at in enumerate(code.exits) if at == block}
        equations.append(({block: 1.0, **entering}, warps if block == 0 else 0))
        equations.append(({block: 1.0, **leaving}, 0))
    for i, (members, requests, predicated) in enumerate(groups):
        too_many, missing = first_slack + 2 * i, first_slack + 2 * i + 1
        equations.append(({**members, too_many: -1.0, missing: 1.0}, requests))
        cost += [_PREDICATED if predicated else 1.0, 1.0]
    rows = [row for row, (terms, _) in enumerate(equations) for _ in terms]
    columns = [column for terms, _ in equations for column in terms]
    values = [value for terms, _ in equations for value in terms.values()]
    matrix = coo_matrix((values, (rows, columns)), shape=(len(equations), len(cost)))
    found = linprog(cost, A_eq=matrix.tocsr(), b_eq=[right for _, right in equations], method="highs")
    if found.x is None:
        raise RuntimeError(f"the executions of {code.kernel} cannot be found: {found.message}")
    return [float(value) for value in found.x]
