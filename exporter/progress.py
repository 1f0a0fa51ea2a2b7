"""Stages of a long command: their time and peak memory, and where the numbers go while they run."""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

Advance = Callable[[int], None]
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Stage:
    """What a finished stage took: wall seconds, and the process's peak resident memory in MiB during it."""

    name: str
    seconds: float
    peak_mib: float


@dataclass
class Progress:
    """Collects stages. Subclasses show them; this one is silent, for use from Python."""

    stages: list[Stage] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Measure one stage. total is in bytes where the work is counted in them; call the result with increments."""
        _reset_peak()
        start = time.perf_counter()
        advance = self.started(name, total)
        try:
            yield advance
        except BaseException:
            self.failed(name)
            raise
        stage = Stage(name, time.perf_counter() - start, peak_mib())
        self.stages.append(stage)
        self.finished(stage)

    def started(self, name: str, total: int | None) -> Advance:
        """Called when a stage begins; returns what is told of the work done."""
        return lambda done: None

    def finished(self, stage: Stage) -> None:
        """Called when a stage is done."""

    def note(self, message: str) -> None:
        """Called with something the user should know although nothing is wrong."""

    def failed(self, name: str) -> None:
        """Called when a stage ends by an exception."""

    @property
    def peak_mib(self) -> float:
        """The highest peak of all stages, MiB."""
        return max((stage.peak_mib for stage in self.stages), default=peak_mib())


def peak_mib() -> float:
    """Peak resident memory of this process since the last reset, in MiB."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    scale = 1 << 20 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def _reset_peak() -> None:
    # Where the kernel has no reset, a stage reports the peak so far.
    with suppress(OSError):
        _CLEAR.write_text("5")
