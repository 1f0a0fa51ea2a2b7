"""The doctor reports what is missing or broken, and survives what it tries."""

import sys
from pathlib import Path

import pytest
from memvp_export.exporter import doctor as subject
from memvp_export.exporter.doctor import Check

ABORT = "import os; os.abort()"


def hide(monkeypatch: pytest.MonkeyPatch, *names: str, also: dict[str, str] | None = None) -> None:
    real = subject.installed_version
    found = also or {}
    monkeypatch.setattr(
        subject, "installed_version", lambda name: None if name in names else found.get(name) or real(name)
    )


def by_name(checks: list[Check]) -> dict[str, Check]:
    named = {check.name: check for check in checks}
    assert len(named) == len(checks)
    return named


def program(folder: Path, name: str, script: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def test_this_machine_can_export() -> None:
    checks = subject.doctor()
    named = by_name(checks)
    assert subject.exit_code(checks) == 0
    assert "ran a graph" in named["onnxruntime runs CPUExecutionProvider"].detail
    assert "multiplies" in named["torch runs"].detail
    assert named["package onnx"].status == "ok"
    assert all(check.fix for check in checks if check.status != "ok")


def test_a_missing_package_comes_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "torch", "polygraphy")
    packages = by_name(subject.check_packages())
    assert packages["package torch"] == Check(
        "package torch", "missing", "not installed (extra export)", "pip install 'memvp-export[export]'", needed=True
    )
    assert packages["package polygraphy"].fix == "pip install 'memvp-export[gpu]'"
    assert subject.exit_code([packages["package torch"]]) == 3
    assert subject.exit_code([packages["package polygraphy"]]) == 0
    (runs,) = subject.check_torch()
    assert runs.status == "missing"


def test_an_old_package_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, also={"torch": "2.8.1+cpu", "click": "10.0"})
    packages = by_name(subject.check_packages())
    assert packages["package torch"].status == "broken" and "older than 2.9" in packages["package torch"].detail
    assert packages["package click"].status == "ok"


def test_onnxruntime_gpu_stands_in_for_onnxruntime_but_not_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "onnxruntime", also={"onnxruntime-gpu": "1.27.0"})
    assert by_name(subject.check_packages())["package onnxruntime"].detail == "onnxruntime-gpu 1.27.0"
    assert subject.check_onnxruntime_conflict()[0].status == "ok"
    hide(monkeypatch, also={"onnxruntime": "1.27.0", "onnxruntime-gpu": "1.27.0"})
    (conflict,) = subject.check_onnxruntime_conflict()
    assert conflict.status == "broken" and conflict.fix.startswith("pip uninstall -y onnxruntime onnxruntime-gpu")


def test_children_that_die_hang_or_fail_are_outcomes() -> None:
    assert subject.run_child(ABORT) == subject.Outcome(False, "crashed (SIGABRT)")
    assert subject.run_child("import time; time.sleep(60)", timeout=0.5).text == "did not answer within 0.5 s"
    assert subject.run_child("import no_such_module_at_all").text.startswith("ModuleNotFoundError")
    assert subject.run_child("import sys; print('noise'); print(sys.argv[1])", "fine") == subject.Outcome(True, "fine")
    assert subject.run_program(["/no/such/program"]).text.startswith("cannot be started")


def test_a_crashing_runtime_is_broken_and_fails_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "_SESSION", ABORT)
    checks = subject.check_onnxruntime()
    assert [(c.status, c.detail, c.needed) for c in checks] == [("broken", "crashed (SIGABRT)", True)]
    assert subject.exit_code(checks) == 3


def test_a_provider_that_falls_back_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    # A wheel may list a provider whose libraries this machine lacks; ONNX Runtime then takes the CPU and only warns.
    monkeypatch.setattr(subject, "_PROVIDERS", 'print(\'["DmlExecutionProvider", "CPUExecutionProvider"]\')')
    absent, cpu = subject.check_onnxruntime()
    assert absent.status == "broken" and absent.fix and not absent.needed
    assert cpu.status == "ok" and subject.exit_code([absent, cpu]) == 0


@pytest.mark.parametrize(
    ("module", "detail"),
    [("import os; os.abort()", "crashed"), ("import time; time.sleep(60)", "did not answer"), ("x", "NameError")],
)
def test_a_tensorrt_that_crashes_or_hangs_is_broken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, detail: str
) -> None:
    (tmp_path / "tensorrt.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(subject, "_BUILD_TIMEOUT_S", 1.0)
    hide(monkeypatch, also={"tensorrt": "10.3"})
    (check,) = subject.check_tensorrt()
    assert check.status == "broken" and detail in check.detail and not check.needed and check.fix


def test_a_file_beside_the_user_does_not_stand_in_for_a_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('the wrong torch')")
    monkeypatch.chdir(tmp_path)
    assert subject.check_torch()[0].status == "ok"


def test_a_check_that_fails_itself_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def check_of_tomorrow() -> list[Check]:
        raise RuntimeError("boom")

    monkeypatch.setattr(subject, "CHECKS", [check_of_tomorrow, subject.check_python])
    broken, python = subject.doctor()
    assert (broken.name, broken.status) == ("of tomorrow", "broken") and "boom" in broken.detail
    assert python.status == "ok" and sys.executable in python.detail


def test_gpus_come_from_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert subject.check_gpu()[0].status == "missing"
    program(
        tmp_path, "nvidia-smi", "echo 'NVIDIA A100, 8.0, 570.10, 40960 MiB'; echo 'NVIDIA T4, 7.5, 570.10, 15360 MiB'"
    )
    checks = subject.check_gpu()
    assert [check.status for check in checks] == ["ok", "ok"]
    assert checks[1].detail == "NVIDIA T4, compute capability 7.5, driver 570.10, 15360 MiB"
    program(tmp_path, "nvidia-smi", "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    (check,) = subject.check_gpu()
    assert check.status == "broken" and "mismatch" in check.detail


def test_a_folder_that_cannot_be_written_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(subject.tempfile, "TemporaryFile", refuse)
    checks = subject.check_write_permission()
    assert "Permission denied" in checks[0].detail and subject.exit_code(checks) == 3


def test_the_hugging_face_cache_follows_its_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (check,) = subject.check_hugging_face_cache()
    assert check.status == "ok" and str(tmp_path / "models" / "hub") in check.detail and "offline" in check.detail
