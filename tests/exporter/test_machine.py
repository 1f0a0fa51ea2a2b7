"""The facts that stand beside a figure, with a driver that answers, one that does not, and none."""

from pathlib import Path

import numpy
import pytest
from memvp_export.exporter import machine

_DRIVER = """#!/bin/sh
case "$*" in
  *power.limit*) echo "NVIDIA Abacus, 580.1, 700.00 W" ;;
  *) echo "1755 MHz, 1980 MHz, 3201 MHz, 41" ;;
esac
"""


def driver(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text(text)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_the_machine_is_described(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    driver(tmp_path, _DRIVER, monkeypatch)
    found = machine.describe()
    assert found["gpu"] == "NVIDIA Abacus" and found["driver"] == "580.1" and found["gpu power limit"] == "700.00 W"
    assert found["numpy"] == numpy.__version__ and found["cpu"] and int(found["cores"]) == machine.usable_cores() >= 1
    assert found["memory"].endswith(" GiB") and float(found["memory"].split()[0]) > 0
    assert machine.state()["gpu clock"] == "1755 MHz" and float(machine.state()["load"]) >= 0


@pytest.mark.parametrize("text", ["#!/bin/sh\nexit 9\n", "#!/bin/sh\n", "not a program"])
def test_a_driver_that_does_not_answer_is_no_gpu(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    driver(tmp_path, text, monkeypatch)
    assert "gpu" not in machine.describe() and "gpu clock" not in machine.state()


def test_memory_is_not_known_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    available = machine.available_memory()
    assert available is not None and available > 1 << 20
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "none")
    assert machine.available_memory() is None and "memory" not in machine.describe()


def test_available_memory_is_what_the_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    assert machine.available_memory() is None
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\nMemAvailable:    2048 kB\n")
    assert machine.available_memory() == 2 << 20
