"""What commands print: progress, tables, and the last line, which is the verdict. Everything but results goes to
standard error, so that --json leaves clean output."""

import json
import sys
import time
from collections.abc import Sequence, Sized
from typing import Any

import click

from .progress import BYTES, Advance, Progress, Stage

_SECONDS_BETWEEN_LINES = 30.0


class PlainProgress(Progress):
    """One line a stage, when it is done, and while a long one whose work is counted is on its way: for logs and
    pipes."""

    def started(self, name: str, total: int | None, unit: str) -> Advance:
        """Say now and then how far it is, and how long it will take at the pace so far."""
        return _lines(name, total, unit) if total and unit != BYTES else lambda done: None

    def finished(self, stage: Stage) -> None:
        """Print what the stage took."""
        print(
            f"  {stage.name:<34} {stage.seconds:7.1f} s   peak {stage.peak_mib:6.0f} MiB", file=sys.stderr, flush=True
        )

    def note(self, message: str) -> None:
        """Print it."""
        note(message)


def _lines(name: str, total: int, unit: str) -> Advance:
    begun: tuple[float, int] | None = None
    done, last = 0, time.monotonic()

    def advance(more: int) -> None:
        nonlocal begun, done, last
        done, now = done + more, time.monotonic()
        # What an earlier run had done comes first, and at once: it says nothing of the pace.
        begun = begun or (now, done)
        if now - last >= _SECONDS_BETWEEN_LINES and begun[1] < done < total:
            left = (now - begun[0]) / (done - begun[1]) * (total - done)
            print(f"  {name}: {done} of {total} {unit}, about {_duration(left)} left", file=sys.stderr, flush=True)
            last = now

    return advance


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


class BarProgress(PlainProgress):
    """A live bar for the running stage on a terminal, then the same line."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        shared = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._plain = lambda: Bar(*shared, console=console, transient=True)
        self._bytes = lambda: Bar(*shared, BarColumn(), DownloadColumn(), console=console, transient=True)
        left = (TextColumn("left:"), TimeRemainingColumn())
        self._counted = lambda: Bar(*shared, BarColumn(), MofNCompleteColumn(), *left, console=console, transient=True)
        self._bar: Any = None

    def started(self, name: str, total: int | None, unit: str) -> Advance:
        """Show the stage."""
        self._stop()
        counted = self._bytes if unit == BYTES else self._counted
        self._bar = bar = counted() if total else self._plain()
        bar.start()
        task = bar.add_task(name if unit == BYTES else f"{name}, {unit}", total=total)
        return lambda done: bar.advance(task, done)

    def finished(self, stage: Stage) -> None:
        """Replace the bar by a line."""
        self._stop()
        super().finished(stage)

    def failed(self, name: str) -> None:
        """Remove the bar."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def progress() -> Progress:
    """The progress display that fits where standard error goes."""
    return BarProgress() if sys.stderr.isatty() else PlainProgress()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table to standard output, as wide as it needs to be where that is no terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    console = Console() if sys.stdout.isatty() else Console(width=160)
    # Written by print, which leaves a reader that went away to the caller; rich would exit by itself.
    with console.capture() as written:
        console.print(made)
    print(written.get())


def print_json(data: Any) -> None:
    """Print a result as JSON to standard output."""
    click.echo(json.dumps(data, indent=1, default=str))


def note(message: str) -> None:
    """Say something that the user should know although nothing is wrong."""
    click.echo(f"note: {message}", err=True)


def done(message: str) -> None:
    """The last line of a command that did what it was asked."""
    click.echo(message, err=True)


def counted(things: Sized | int, name: str) -> str:
    """How many there are, or the number given, for people: 1 layer, 2 layers."""
    count = things if isinstance(things, int) else len(things)
    return f"{count} {name}{'' if count == 1 else 's'}"


def size(count: float) -> str:
    """Bytes for people: 13.5 GB, 2.6 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
