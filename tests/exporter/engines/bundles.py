"""Bundles that tests build engines of: what is in them, copies to change, and a disk as small as a test needs."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.engines import build as building
from memvp_export.exporter.progress import Progress

DATA = "graphs/decoder.onnx.data"


def entry(bundle: Bundle, component: str) -> dict[str, Any]:
    (found,) = [one for one in bundle.manifest["engines"] if one["component"] == component]
    return found


def record(bundle: Bundle, component: str) -> dict[str, Any]:
    return json.loads(bundle.path(entry(bundle, component)["layers"]).read_text())


def copied(bundle: Bundle, target: Path) -> Path:
    shutil.copytree(bundle.root, target)
    return target


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Told(Progress):
    """What a command says while it works."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def free_bytes(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    used = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr(building.shutil, "disk_usage", lambda folder: used)


def needed(message: str) -> int:
    (found,) = re.findall(r"needs ([\d,]+) bytes", message)
    return int(found.replace(",", ""))
