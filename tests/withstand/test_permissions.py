"""A file that is there and may not be read is a lack of this machine, whichever option names it."""

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
# An option, or where a file takes its place, and the command that takes it.
NAMED: dict[str, list[object]] = {
    "SOURCE": ["onnx", "FILE.toml", "-o", "new"],
    "--samples": ["onnx", "SOURCE", "-o", "new", "--dry-run", "--samples", "FILE"],
    "--source": ["check", "BUNDLE", "--dry-run", "--source", "FILE.toml"],
    "check --data": ["check", "BUNDLE", "--dry-run", "--data", "FILE"],
    "calibrate --data": ["calibrate", "BUNDLE", "--dry-run", "--data", "FILE"],
    "--scales": ["calibrate", "BUNDLE", "--dry-run", "--scales", "FILE"],
    "--adopt": ["trt", "BUNDLE", "--adopt", "FOLDER"],
    "--image": ["run", "BUNDLE", "--text", "x", "--image", "FILE"],
    "--data": ["run", "BUNDLE", "--dry-run", "--data", "FILE"],
    "--inputs": ["run", "BUNDLE", "--component", "vision", "--inputs", "FILE", "--save-outputs", "new"],
    "--compare": ["bench", "BUNDLE", "--dry-run", "--compare", "FILE"],
    "PATH": ["inspect", "FILE.onnx"],
    "LIBRARY": ["plugin", "info", "FILE"],
}


@pytest.fixture
def forbid(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Take the permission to read a path, from root too, who has it on every file."""

    def forbid(path: Path) -> None:
        opened, allowed = builtins.open, os.access

        def open_other(file: Any, *args: Any, **options: Any) -> Any:
            if isinstance(file, str | Path) and Path(file) == path:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return opened(file, *args, **options)

        monkeypatch.setattr(builtins, "open", open_other)
        monkeypatch.setattr(io, "open", open_other)
        monkeypatch.setattr(os, "access", lambda at, mode: Path(at) != path and allowed(at, mode))

    return forbid


@pytest.mark.parametrize("name", NAMED)
def test_a_file_that_may_not_be_read_is_a_lack_of_this_machine(
    name: str,
    command: Command,
    bundle: Path,
    odd_source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    forbid: Callable[[Path], None],
) -> None:
    monkeypatch.chdir(tmp_path)
    (word,) = (str(one) for one in NAMED[name] if str(one).startswith(("FILE", "FOLDER")))
    path = tmp_path / word
    path.mkdir() if word == "FOLDER" else path.write_text("secret")
    forbid(path)
    places = {word: str(path), "BUNDLE": str(bundle)}
    words = [places.get(str(one), str(one).replace("SOURCE", str(odd_source))) for one in NAMED[name]]
    done = command(*words)
    assert done.code == 3 and str(path) in done.verdict and "ermi" in done.verdict
    assert not (tmp_path / "new").exists()


def test_weights_that_may_not_be_read_are_not_called_damaged(tmp_path: Path, forbid: Callable[[Path], None]) -> None:
    import torch
    from memvp_export.exporter.checkpoints.safetensors_folder import read_safetensors_file
    from memvp_export.exporter.errors import EnvironmentLack
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(1)}, path)
    assert list(read_safetensors_file(path)) == ["weight"]
    forbid(path)
    with pytest.raises(EnvironmentLack, match="cannot be read: no permission"):
        read_safetensors_file(path)
