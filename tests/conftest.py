"""Random models of odd sizes in the official formats, exported once a run and shared by the tests."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from .traced_once import keep_traces

# Tests must not reach for a hub, and one test process per core needs no more threads than that.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_runtest_setup() -> None:
    keep_traces()


@pytest.fixture(scope="session")
def odd_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random MemVP-LLaMA source of odd sizes: d=96, 3 layers, p=290, a vocabulary of 150."""
    from memvp_export.examples.random_source import PRESETS, write_source

    folder = tmp_path_factory.mktemp("odd-source")
    write_source(folder, PRESETS["odd"])
    return folder


@pytest.fixture(scope="session")
def bundle_of(tmp_path_factory: pytest.TempPathFactory, odd_source: Path) -> Callable[[str], Path]:
    """The odd source exported in a precision; made when first asked for. Tests must not change it: copy it."""
    made: dict[str, Path] = {}

    def make(precision: str) -> Path:
        if precision not in made:
            from memvp_export import export_onnx, read_source

            keep_traces()
            made[precision] = tmp_path_factory.mktemp("bundles") / precision
            export_onnx(read_source(odd_source), made[precision], precision)
        return made[precision]

    return make


@pytest.fixture(scope="session")
def quantized(
    bundle_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, object]]]:
    """The odd bundle in fp32 and, calibrated on twelve questions about noise, in int8-weights and int8; and the
    questions as lines of a data file. Tests must not change it: copy it."""
    import numpy as np
    from memvp_export.calibration.calibrate import calibrate
    from memvp_export.exporter.data import Request
    from PIL import Image

    folder, generator = tmp_path_factory.mktemp("quantized"), np.random.default_rng(0)
    root = Path(shutil.copytree(bundle_of("fp32"), folder / "bundle"))
    lines: list[dict[str, object]] = []
    for number in range(12):
        picture = folder / f"{number}.png"
        Image.fromarray(generator.integers(0, 256, (40, 40, 3), np.uint8)).save(picture)
        lines.append({"id": str(number), "text": "what is it? " + "so " * (number % 5), "image": str(picture)})
    data = [Request(str(line["id"]), str(line["text"]), Path(str(line["image"]))) for line in lines]
    for mode in ("int8-weights", "int8"):
        calibrate(root, data, mode, rest="fp32", sensitivity=False)
    return root, lines


class Result(NamedTuple):
    """What a command line gave: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def verdict(self) -> str:
        """The last line that is not the data's."""
        return self.err.rstrip().splitlines()[-1]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Result]]:
    """Run a command line in this process; whatever it says must be no traceback, and one error where it failed."""
    from memvp_export import cli

    numbers = (signal.SIGTERM, signal.SIGALRM, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)

    def call(*words: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["memvp-export", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
            sys.exit(0)
        shown = capsys.readouterr()
        result = Result(int(stop.value.code or 0), shown.out, shown.err)
        expects_error = result.code not in (0, 1, 4)
        assert "Traceback" not in result.err or result.code == 4
        assert not expects_error or result.err.lower().count("error: ") == 1, result.err
        return result

    yield call
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)
