"""Room is asked of the disk where something will be; work in progress is gone afterwards, whatever ended it."""

import errno
import shutil
from pathlib import Path

import pytest
from memvp_export.exporter.disk import free_bytes, nearest, require_free, work_folder
from memvp_export.exporter.errors import EnvironmentLack


def test_room_is_that_of_the_nearest_folder_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    used = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: asked.append(folder) or used)
    (tmp_path / "file").touch()
    for place in ("", "new", "new/deep", "file", "file/below"):
        assert nearest(tmp_path / place) == tmp_path and free_bytes(tmp_path / place) == 1000
    assert {*asked} == {tmp_path}
    require_free(tmp_path / "new", 1000)
    with pytest.raises(EnvironmentLack, match=r"too small: .*/new needs 1,001 bytes, 1,000 are free"):
        require_free(tmp_path / "new", 1001)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the disk of {} is full"),
        (errno.EACCES, "{} cannot be written"),
        (errno.EROFS, "{} cannot be written"),
        (errno.EIO, None),
    ],
)
def test_a_work_folder_is_gone_after_a_failure_that_is_told(number: int, message: str | None, tmp_path: Path) -> None:
    kind = EnvironmentLack if message else OSError
    with pytest.raises(kind) as caught, work_folder(tmp_path / "made") as folder:
        assert folder.parent == tmp_path and folder.name.startswith(".made.partial-")
        (folder / "file").touch()
        raise OSError(number, "failed")
    assert message is None or message.format(tmp_path) in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_work_folder_can_get_its_name_and_leftovers_go(tmp_path: Path) -> None:
    (tmp_path / ".made.partial-left").mkdir()
    with work_folder(tmp_path / "made") as folder:
        assert [path.name for path in tmp_path.iterdir()] == [folder.name]
        folder.rename(tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
