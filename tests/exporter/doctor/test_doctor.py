"""The doctor reports what is missing or broken, and survives what it tries."""

import json
import subprocess
import sys

import pytest
from memvp_export.exporter import doctor as subject
from memvp_export.exporter.doctor import Check


def test_this_machine_can_export() -> None:
    checks = subject.doctor()
    named = {check.name: check for check in checks}
    assert len(named) == len(checks)
    assert subject.exit_code(checks) == 0
    assert "ran a graph" in named["onnxruntime runs CPUExecutionProvider"].detail
    assert "multiplies" in named["torch runs"].detail
    assert named["package onnx"].status == "ok"
    assert all(check.fix for check in checks if check.status != "ok")


def test_only_what_is_needed_fails_the_whole() -> None:
    good = Check("a", "ok", "", needed=True)
    assert subject.exit_code([good, Check("b", "broken", ""), Check("c", "missing", "")]) == 0
    assert subject.exit_code([good, Check("b", "missing", "", needed=True)]) == 3
    assert subject.exit_code([good, Check("b", "broken", "", needed=True)]) == 3


def test_a_check_that_fails_itself_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def check_of_tomorrow() -> list[Check]:
        raise RuntimeError("boom")

    monkeypatch.setattr(subject, "CHECKS", [check_of_tomorrow, *subject.CHECKS[:1]])
    broken, python = subject.doctor()
    assert (broken.name, broken.status) == ("of tomorrow", "broken") and "boom" in broken.detail and broken.fix
    assert python.status == "ok" and sys.executable in python.detail


def test_starting_needs_no_package_that_may_be_missing() -> None:
    modules = "memvp_export.exporter.doctor, memvp_export.exporter.doctor.probes"
    code = f"import json, sys, {modules}; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert not {"numpy", "onnx", "onnxruntime", "torch", "tensorrt"} & {*loaded}
