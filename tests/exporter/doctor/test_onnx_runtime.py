"""Providers of ONNX Runtime are opened and run."""

from collections.abc import Callable

import pytest
from memvp_export.exporter.doctor import onnx_runtime as subject


def test_two_distributions_of_one_import_package_are_broken(installed: Callable[..., None]) -> None:
    installed(onnxruntime=None, onnxruntime_gpu="1.27.0")
    (alone,) = subject.check_onnxruntime_conflict()
    assert (alone.status, alone.detail) == ("ok", "onnxruntime-gpu 1.27.0")
    installed(onnxruntime="1.27.0", onnxruntime_gpu="1.26.0")
    (conflict,) = subject.check_onnxruntime_conflict()
    assert conflict.status == "broken" and "onnxruntime 1.27.0, onnxruntime-gpu 1.26.0" in conflict.detail
    assert conflict.fix == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'memvp-export[gpu]'"


def test_a_provider_that_falls_back_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    # A wheel may list a provider whose libraries this machine lacks; ONNX Runtime then takes the CPU and only warns.
    monkeypatch.setattr(subject, "_PROVIDERS", 'print(\'["DmlExecutionProvider", "CPUExecutionProvider"]\')')
    absent, cpu = subject.check_onnxruntime()
    assert absent.status == "broken" and absent.fix and not absent.needed
    assert cpu.status == "ok" and cpu.needed


def test_a_crashing_runtime_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "_SESSION", "import os; os.abort()")
    checks = subject.check_onnxruntime()
    assert [(c.status, c.detail, c.needed) for c in checks] == [("broken", "crashed (SIGABRT)", True)]


@pytest.mark.parametrize("code", ["import os; os.abort()", "print('no list')"])
def test_a_runtime_that_cannot_list_its_providers_is_broken(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(subject, "_PROVIDERS", code)
    (check,) = subject.check_onnxruntime()
    assert check.status == "broken" and check.needed and check.fix


def test_wrong_numbers_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "_SESSION", subject._SESSION.replace("[[1, -2]]", "[[3, -2]]"))
    (cpu,) = subject.check_onnxruntime()
    assert (cpu.status, cpu.detail) == ("broken", "gave [[6.0, 0.0]] in place of [[2, 0]]")
