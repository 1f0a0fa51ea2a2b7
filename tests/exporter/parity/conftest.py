"""A bundle to damage."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def copy(bundle_of: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_of("fp32"), tmp_path / "copy"))
