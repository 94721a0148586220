"""Measuring an experiment, and the file that keeps what was measured."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from convbound.bench import provenance
from convbound.bench.experiments.experiment import Experiment, Group, Point, Points, Setting, Subject
from convbound.bench.progress import Progress
from convbound.bench.rows import check_machine, check_roofs
from convbound.bench.runner import RoofMeter
from convbound.devices import Device
from convbound.problem import DTYPE_NAMES
from convbound.roofs import Roofs
from convbound.timing import Timer, interleave, quantiles
from convbound.untrusted import check_kinds, parse_json, read_text, replace_text

FILE, SCHEMA = "experiments.json", 1
# Seconds of sampling for one experiment; making tensors and first calls come on top.
SECONDS = 30.0
# Of the largest element: what two ways of computing the same may differ by.
_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
_HEAD = {"schema": int, "machine": dict, "roofs": dict, "dtype": str, "device": str, "experiments": dict}


@dataclass
class Record:
    """Points of experiments on one machine, by the experiment's name."""

    machine: dict[str, Any]
    roofs: Roofs
    device: str
    dtype: str
    points: dict[str, Points] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write it, one point a line, so that committed files show readable differences."""
        head = {
            "schema": SCHEMA,
            "machine": self.machine,
            "roofs": dataclasses.asdict(self.roofs),
            "device": self.device,
            "dtype": self.dtype,
        }
        blocks = []
        for name, points in self.points.items():
            lines = ",\n".join(json.dumps(point.record()) for point in points)
            blocks.append(f"{json.dumps(name)}: [\n{lines}\n]")
        text = json.dumps(head, indent=1)[:-2]
        replace_text(path, f'{text},\n "experiments": {{\n{", ".join(blocks)}\n }}\n}}\n')


def read(path: Path) -> Record:
    """Read such a file, which is not trusted.

    Raises
    ------
    OSError
        When it cannot be read.
    ValueError
        When it is no file of experiments.
    """
    try:
        head = parse_json(read_text(path))
        check_kinds(head, _HEAD)
        if head["schema"] != SCHEMA:
            raise ValueError(f"schema {head['schema']} is not {SCHEMA}, the one that this version reads")
        check_machine(head["machine"])
        check_roofs(head["roofs"])
        points = {name: Points(map(Point.from_record, records)) for name, records in head["experiments"].items()}
        roofs = Roofs(**head["roofs"])
        spread = {name: (least, most) for name, (least, most) in roofs.spread.items()}
        roofs = dataclasses.replace(roofs, spread=spread)
        return Record(head["machine"], roofs, head["device"], head["dtype"], points)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no file of experiments ({error})") from error


class Run:
    """Experiments that are measured in one process, with roofs that are measured again after each of them.

    Parameters
    ----------
    device, dtype
        What is measured.
    folder
        Where ``experiments.json`` and the pictures go; an experiment is kept as soon as it ended.
    """

    def __init__(self, device: Device, dtype: torch.dtype, folder: Path) -> None:
        machine = provenance.describe(device.type) | device.start()
        self._device, self._dtype, self._folder = device, dtype, folder
        self._roofs = RoofMeter(device, [dtype])
        self._roofs.measure()
        self.record = Record(machine, self._roofs.found, device.type, DTYPE_NAMES[dtype])

    def add(self, experiment: Experiment, seconds: float, progress: Progress) -> Points:
        """Measure an experiment and keep it."""
        setting = Setting(self._device, self._dtype, self._roofs.found)
        with torch.no_grad(), progress:
            progress.total(len(experiment.groups(setting)) or 1)
            progress.step(experiment.name)
            points = measure(experiment, setting, seconds, progress.advance)
            self._roofs.measure()
        self.record.roofs = self._roofs.found
        self.record.points[experiment.name] = points
        self.record.write(self._folder / FILE)
        return points


def measure(
    experiment: Experiment,
    setting: Setting,
    seconds: float,
    advance: Callable[[], None] = lambda: None,
) -> Points:
    """Time every subject in every state of the caches; `advance` is called after each group.

    Raises
    ------
    RuntimeError
        When two ways of computing the same thing differ.
    """
    if experiment.measured is not None:
        points = experiment.measured(setting, seconds)
        advance()
        return points
    groups = experiment.groups(setting)
    timers = {cache: setting.device.timer(cold=cache == "cold") for cache in experiment.caches}
    share = seconds / (len(groups) * len(timers))
    points = Points()
    for group in groups:
        points += _measure_group(group, timers, share)
        setting.device.release()
        advance()
    return points


def _measure_group(group: Group, timers: dict[Any, Timer], share: float) -> Points:
    subjects = group()
    _compare(subjects)
    points = Points()
    for cache, timer in timers.items():
        first = [timer.sample(subject.calls(1)[0]) for subject in subjects]
        prepared = [timer.prepare(subject.calls, taken) for subject, taken in zip(subjects, first, strict=True)]
        once = [taken * ready.calls for taken, ready in zip(first, prepared, strict=True)]
        samples = interleave([ready.run for ready in prepared], timer, share, once)
        for subject, ready, taken in zip(subjects, prepared, samples, strict=True):
            p20, median, p80 = (q / ready.calls * 1e3 for q in quantiles(taken))
            points.append(dataclasses.replace(subject.point, cache=cache, ms=median, p20_ms=p20, p80_ms=p80))
    return points


def _compare(subjects: Sequence[Subject]) -> None:
    """Run all once; those that say that they are equal have to be."""
    results: dict[str, torch.Tensor] = {}
    for subject in subjects:
        result = subject.run(*subject.tensors)
        if not subject.equal:
            continue
        expected = results.setdefault(subject.equal, result)
        name = f"{subject.point.series} {subject.point.label} {subject.point.layout} {subject.point.pass_}"
        if result.shape != expected.shape:
            raise RuntimeError(f"{name} is wrong: its shape is {tuple(result.shape)}, not {tuple(expected.shape)}")
        scale = float(expected.abs().max())
        off = float((result - expected).abs().max()) / scale if scale else 0.0
        if not off <= _TOLERANCE[expected.dtype]:
            raise RuntimeError(f"{name} is wrong: it is off by {off:.1e} of the largest element")
