"""Packages are held against what the extras need."""

from collections.abc import Callable
from pathlib import Path

import pytest
from memvp_export.exporter.doctor import Check, packages


def by_name(checks: list[Check]) -> dict[str, Check]:
    named = {check.name: check for check in checks}
    assert len(named) == len(checks)
    return named


def test_a_missing_package_comes_with_its_pip_line(installed: Callable[..., None]) -> None:
    installed(torch=None, matplotlib=None)
    found = by_name(packages.check_packages())
    assert found["package torch"] == Check(
        "package torch", "missing", "not installed (extra export)", "pip install 'memvp-export[export]'", needed=True
    )
    assert found["package matplotlib"].fix == "pip install 'memvp-export[report]'"
    assert not found["package matplotlib"].needed
    (runs,) = packages.check_torch()
    assert runs.status == "missing" and runs.needed


def test_an_old_package_is_broken(installed: Callable[..., None]) -> None:
    installed(torch="2.8.1+cpu", click="10.0")
    found = by_name(packages.check_packages())
    assert found["package torch"].status == "broken" and "older than 2.9" in found["package torch"].detail
    assert found["package click"].status == "ok"


def test_onnxruntime_gpu_stands_in_for_onnxruntime(installed: Callable[..., None]) -> None:
    installed(onnxruntime=None, onnxruntime_gpu="1.27.0")
    assert by_name(packages.check_packages())["package onnxruntime"].detail == "onnxruntime-gpu 1.27.0"


def test_tensorrt_is_left_to_the_checks_that_try_it() -> None:
    assert not any("tensorrt" in name for name in by_name(packages.check_packages()))


def test_a_torch_that_does_not_load_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so: no such file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (check,) = packages.check_torch()
    assert check.status == "broken" and "libtorch.so" in check.detail and check.fix and check.needed
