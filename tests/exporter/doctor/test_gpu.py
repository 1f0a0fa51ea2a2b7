"""GPU, CUDA runtime and compilers, with programs and answers of machines that this one is not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from memvp_export.exporter.child_process import ChildFailed
from memvp_export.exporter.doctor import gpu as subject

T4 = {"name": "T4", "sm": "75", "driver": "12.4", "runtime": "12.0", "memory": 16 * 10**9, "free": 15 * 10**9}


def test_gpus_come_from_nvidia_smi(program: Callable[[str, str], Path]) -> None:
    assert subject.check_gpu()[0].status == "missing"
    program("nvidia-smi", "echo 'NVIDIA A100, 8.0, 570.10, 40960 MiB'; echo 'NVIDIA T4, 7.5, 570.10, 15360 MiB'")
    checks = subject.check_gpu()
    assert [check.status for check in checks] == ["ok", "ok"]
    assert checks[1].detail == "NVIDIA T4, compute capability 7.5, driver 570.10, 15360 MiB"
    program("nvidia-smi", "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    (check,) = subject.check_gpu()
    assert check.status == "broken" and "mismatch" in check.detail


def test_the_cuda_runtime_is_missing_without_a_driver_and_broken_beside_one(
    monkeypatch: pytest.MonkeyPatch, program: Callable[[str, str], Path]
) -> None:
    answer: dict[str, Any] = {"gpu": None, "reason": "no GPU for a reason"}
    monkeypatch.setattr(subject, "ask_module", lambda *words, **options: answer)
    (check,) = subject.check_cuda()
    assert (check.status, check.detail) == ("missing", "no GPU for a reason") and check.fix
    program("nvidia-smi", "true")
    assert subject.check_cuda()[0].status == "broken"
    answer = {"gpu": T4, "copied": 1 << 20}
    (check,) = subject.check_cuda()
    assert check.status == "ok"
    assert check.detail == "12.0, driver serves 12.4, T4 (sm_75), 15.0 GB of 16.0 GB free; copied 1.0 MB there and back"


def test_a_cuda_runtime_that_crashes_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*words: object, **options: object) -> None:
        raise ChildFailed("crashed (SIGSEGV)")

    monkeypatch.setattr(subject, "ask_module", crash)
    (check,) = subject.check_cuda()
    assert (check.status, check.detail) == ("broken", "crashed (SIGSEGV)") and check.fix


def test_what_builds_the_plugin_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, program: Callable[[str, str], Path], tmp_path: Path
) -> None:
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)
    program("nvcc", "echo 'release 12.4'; echo compute_75; echo compute_90")
    program("g++", "true")
    (tmp_path / "NvInfer.h").touch()
    version = "".join(f"#define NV_TENSORRT_{part} {i}\n" for part, i in (("MAJOR", 10), ("MINOR", 3), ("PATCH", 0)))
    (tmp_path / "NvInferVersion.h").write_text(version)
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path))
    nvcc, compiler, headers = subject.check_compiler()
    assert nvcc.detail.startswith("12.4 at ") and nvcc.detail.endswith("sm_75 90")
    assert compiler.status == "ok" and headers.detail.startswith("10.3.0 in ")


def test_without_compilers_the_plugin_alone_cannot_be_built(
    monkeypatch: pytest.MonkeyPatch, program: Callable[[str, str], Path], tmp_path: Path
) -> None:
    program("nvcc", "echo 'not a compiler'")
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path))
    nvcc, compiler, headers = subject.check_compiler()
    assert [nvcc.status, compiler.status, headers.status] == ["broken", "missing", "missing"]
    assert all(check.fix and not check.needed for check in (nvcc, compiler, headers))
    assert "TENSORRT_ROOT" in headers.detail and "git clone" in headers.fix
