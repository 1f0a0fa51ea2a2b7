"""Disk, memory, permissions, caches."""

from pathlib import Path

import pytest
from memvp_export.exporter.doctor import exit_code
from memvp_export.exporter.doctor import system as subject


def test_a_folder_that_cannot_be_written_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(subject.tempfile, "TemporaryFile", refuse)
    checks = subject.check_write_permission()
    assert "Permission denied" in checks[0].detail and exit_code(checks) == 3


def test_memory_is_told_where_the_system_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "available_memory", lambda: 3 << 30)
    assert subject.check_memory()[0].detail.startswith("3.2 GB of ")
    monkeypatch.setattr(subject, "available_memory", lambda: None)
    assert subject.check_memory()[0].status == "ok"


def test_the_hugging_face_cache_follows_its_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (check,) = subject.check_hugging_face_cache()
    assert check.status == "ok" and str(tmp_path / "models" / "hub") in check.detail and "offline" in check.detail
