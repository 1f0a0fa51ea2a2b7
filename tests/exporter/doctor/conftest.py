"""What the checks look at, changed for one test."""

from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let distributions be missing (None) or of another version."""
    real = metadata.version

    def change(**versions: str | None) -> None:
        changed = {name.replace("_", "-"): version for name, version in versions.items()}

        def version(name: str) -> str:
            found = changed.get(name, "") if name in changed else real(name)
            if found is None:
                raise metadata.PackageNotFoundError(name)
            return found

        monkeypatch.setattr(metadata, "version", version)

    return change


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], Path]:
    """Make a shell script the only program of this name on PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(name: str, script: str) -> Path:
        file = folder / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return file

    return write
