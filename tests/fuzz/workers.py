"""Cases run in processes of their own: a crash or an endless loop is a fault of the case, and the run goes on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

SECONDS = 120.0  # that a case may take


@dataclass(frozen=True)
class Job:
    """Cases with these numbers of a target, or a given case."""

    target: str = ""
    seed: str = ""
    numbers: Sequence[int] = ()
    case: Any = None


@dataclass(frozen=True)
class Fault:
    """What was wrong with a case; of a `kind` by which faults are told apart."""

    case: Any
    number: int
    kind: str
    text: str


@dataclass(frozen=True)
class Done:
    """What came of a job: how many runs there were by label, and the faults. `numbers` are those that are left."""

    runs: dict[str, int]
    faults: tuple[Fault, ...]
    numbers: Sequence[int] = ()


class Worker:
    """A process that does one job at a time, and is started again when it ends before it should."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._at = self._context.Value("q", -1)
        self._process: Any = None
        self.job: Job | None = None
        self._last_at, self._since = -2, 0.0

    def start(self, job: Job) -> None:
        """Begin a job; the last one has to be done."""
        if self._process is None or not self._process.is_alive():
            self.connection, theirs = self._context.Pipe()
            self._process = self._context.Process(target=_serve, args=(theirs, self._at), daemon=True)
            self._process.start()
            theirs.close()
        self.job = job
        self._at.value = self._last_at = -1
        self._since = time.monotonic()
        self.connection.send(job)

    def finish(self) -> Done:
        """Wait for the job; a dead or an endless process is a fault of the case that it was at."""
        assert self.job is not None
        job, self.job = self.job, None
        while not self.connection.poll(1.0):
            if self.overdue:
                self.stop()
                return self._broken(job, "hang", f"it takes more than {SECONDS:.0f} s")
        try:
            done: Done = self.connection.recv()
            return done
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            return self._broken(job, "crash", signal.strsignal(-code) or str(code) if code < 0 else f"exit code {code}")

    @property
    def overdue(self) -> bool:
        """Whether it has been at one case for too long."""
        if self._at.value != self._last_at:
            self._last_at, self._since = self._at.value, time.monotonic()
        return time.monotonic() > self._since + SECONDS

    def run(self, job: Job) -> Done:
        """Start and finish."""
        self.start(job)
        return self.finish()

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def _broken(self, job: Job, kind: str, text: str) -> Done:
        if job.case is not None:
            return Done({}, (Fault(job.case, -1, kind, text),))
        from fuzz.targets import targets

        number = self._at.value
        case = targets()[job.target].case(job.seed, number)
        left = job.numbers[list(job.numbers).index(number) + 1 :]
        return Done(dict.fromkeys(case.labels, 1), (Fault(case, number, kind, text),), left)


def _serve(connection: Connection, at: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Other workers want the cores while a thread of torch's waits.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.pop("CONVBOUND_TUNE", None)
    import torch

    from fuzz.targets import targets

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    known = targets()
    while True:
        try:
            job: Job = connection.recv()
        except EOFError:
            return
        runs: dict[str, int] = {}
        faults: list[Fault] = []
        for number in job.numbers if job.case is None else (-1,):
            at.value = number
            case = job.case if job.case is not None else known[job.target].case(job.seed, number)
            for label in case.labels:
                runs[label] = runs.get(label, 0) + 1
            if (fault := judge(case, number)) is not None:
                faults.append(fault)
        connection.send(Done(runs, tuple(faults)))


def judge(case: Any, number: int = -1) -> Fault | None:
    """Run a case in this process; None where all is well, or where there is no such case."""
    from fuzz.judge import Unfit, Wrong

    try:
        case.check()
    except Wrong as wrong:
        return Fault(case, number, wrong.kind, wrong.text)
    except Unfit:
        return None
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({os.path.basename(where.filename)}:{where.lineno})"
        return Fault(case, number, f"exception {type(error).__name__}", text)
    return None
