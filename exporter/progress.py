"""Stages of a long command: their time and peak memory, and where the numbers go while they run."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

Advance = Callable[[int], None]
BYTES = "bytes"
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
    def stage(self, name: str, total: int | None = None, unit: str = BYTES) -> Iterator[Advance]:
        """Measure one stage. total is its work where that can be counted, in `unit`, a plural; call the result with
        increments."""
        peak = _PEAKS.begin()
        start = time.perf_counter()
        advance = self.started(name, total, unit)
        try:
            yield advance
        except BaseException:
            self.failed(name)
            raise
        finally:
            _PEAKS.end(peak)
        stage = Stage(name, time.perf_counter() - start, peak.mib)
        self.stages.append(stage)
        self.finished(stage)

    def started(self, name: str, total: int | None, unit: str) -> Advance:
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
        """The peak resident memory of this process so far, MiB: stages, what lies between them, and the imports."""
        return _PEAKS.process()


@dataclass(eq=False)
class _Stretch:
    """A stretch of time and the highest resident memory in it, MiB."""

    mib: float = 0.0


class _Peaks:
    """The peaks of nested stretches and of the whole process, although the kernel keeps one mark that a reset clears:
    what it says is noted for all that is running before every reset. ru_maxrss knows nothing of that."""

    def __init__(self) -> None:
        self._whole = _Stretch()
        self._running = [self._whole]
        self._lock = threading.Lock()

    def begin(self) -> _Stretch:
        """A new stretch, which knows nothing of what was before it."""
        with self._lock:
            self._note()
            _reset_kernel_peak()
            stretch = _Stretch()
            self._running.append(stretch)
        return stretch

    def end(self, stretch: _Stretch) -> None:
        """The stretch has its peak from now on."""
        with self._lock:
            self._note()
            self._running.remove(stretch)

    def process(self) -> float:
        """The peak since the process began."""
        with self._lock:
            self._note()
        return self._whole.mib

    def _note(self) -> None:
        peak = _kernel_peak_mib()
        for stretch in self._running:
            stretch.mib = max(stretch.mib, peak)


_PEAKS = _Peaks()


def _kernel_peak_mib() -> float:
    """The peak resident memory of this process since the last reset, MiB; 0 where the system does not say."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return 0.0
    scale = 1 << 20 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def _reset_kernel_peak() -> None:
    # Where the kernel has no reset, a stage reports the peak so far.
    with suppress(OSError):
        _CLEAR.write_text("5")
