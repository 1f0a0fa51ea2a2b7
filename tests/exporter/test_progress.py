"""Stages are measured one by one, shown on standard error, and a stage that fails is not counted as done."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from memvp_export.exporter import console
from memvp_export.exporter.progress import Progress, Stage


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="this kernel cannot reset the peak")
def test_a_stage_has_its_own_peak_and_time() -> None:
    progress = Progress()
    with progress.stage("large"):
        np.ones(64 << 20, np.uint8)
    with progress.stage("small"):
        pass
    large, small = progress.stages
    assert (large.name, small.name) == ("large", "small")
    assert large.peak_mib > small.peak_mib + 32
    assert progress.peak_mib >= large.peak_mib
    assert large.seconds >= 0 and small.seconds >= 0


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="this kernel cannot reset the peak")
def test_a_stage_around_another_keeps_what_was_before_it_and_in_it() -> None:
    progress = Progress()
    with progress.stage("outer"):
        np.ones(64 << 20, np.uint8)
        with progress.stage("inner, small"):
            pass
    with progress.stage("second outer"), progress.stage("inner, large"):
        np.ones(64 << 20, np.uint8)
    peaks = {stage.name: stage.peak_mib for stage in progress.stages}
    assert peaks["outer"] > peaks["inner, small"] + 32
    assert peaks["second outer"] == pytest.approx(peaks["inner, large"], abs=4)
    assert peaks["second outer"] > peaks["inner, small"] + 32


def test_the_peak_of_the_process_has_what_was_before_the_first_stage_and_between() -> None:
    code = (
        "from memvp_export.exporter.progress import Progress\n"
        "held = bytearray(b'x' * (96 << 20)); del held\n"
        "progress = Progress()\n"
        "for name in 'ab':\n"
        "    with progress.stage(name): pass\n"
        "print(progress.peak_mib, *(stage.peak_mib for stage in progress.stages))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak, *stages = map(float, done.stdout.split())
    assert peak >= 96 and all(stage <= peak for stage in stages)


def test_a_stage_that_fails_is_no_finished_stage() -> None:
    told: list[tuple[str, object]] = []

    class Told(Progress):
        def failed(self, name: str) -> None:
            told.append(("failed", name))

        def finished(self, stage: Stage) -> None:
            told.append(("finished", stage.name))

    progress = Told()
    with pytest.raises(KeyboardInterrupt), progress.stage("first"):
        raise KeyboardInterrupt
    with progress.stage("second"):
        pass
    assert told == [("failed", "first"), ("finished", "second")]
    assert [stage.name for stage in progress.stages] == ["second"]


@pytest.mark.parametrize("kind", [console.PlainProgress, console.BarProgress])
@pytest.mark.parametrize("total", [None, 100])
def test_progress_goes_to_standard_error_one_line_a_stage(
    kind: type[Progress], total: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = kind()
    with progress.stage("write it", total) as advance:
        advance(60)
        advance(40)
    with pytest.raises(RuntimeError), progress.stage("fail", total):
        raise RuntimeError
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = [line for line in shown.err.splitlines() if "MiB" in line]
    assert len(lines) == 1 and lines[0].split()[:2] == ["write", "it"]


def test_a_long_stage_says_how_far_it_is_and_how_long_it_will_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 1.0, 11.0, 41.0, 51.0, 400.0])
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with console.PlainProgress().stage("observe", 100, "samples") as advance:
        # What was done before, then ten in ten seconds, ten more in thirty.
        for done in (20, 10, 10, 10, 50):
            advance(done)
    lines = [line.strip() for line in capsys.readouterr().err.splitlines() if "MiB" not in line]
    assert lines == ["observe: 40 of 100 samples, about 2 min left"]


def test_a_table_is_whole_where_standard_output_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.table("a title", ("first", "second"), [("x" * 60, "[bold]y[/bold]"), (1, None)])
    shown = capsys.readouterr().out
    assert "x" * 60 in shown and "[bold]y[/bold]" in shown and "a title" in shown and "None" in shown


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_600_000, "2.6 MB"), (13_500_000_000, "13.5 GB")],
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert console.size(count) == text
