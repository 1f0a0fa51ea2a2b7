"""Work in progress belongs to one process, whatever another one takes for a leftover at the worst moment."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from memvp_export.exporter import partial
from memvp_export.exporter.data import AnswerFile
from memvp_export.exporter.partial import LOCK, lock, partial_file, partial_folder, remove_leftovers
from memvp_export.exporter.whole_file import whole_file


def before_first_lock(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Something happens between opening the first file that is locked and locking it."""
    real, done = partial._flock, []

    def flock(file: BinaryIO) -> bool:
        if not done:
            done.append(True)
            happens()
        return real(file)

    monkeypatch.setattr(partial, "_flock", flock)


def partials(folder: Path) -> list[Path]:
    return list(folder.glob(".*.partial-*"))


def test_one_lock_at_a_time(tmp_path: Path) -> None:
    held = lock(tmp_path / "x")
    assert held is not None and lock(tmp_path / "x") is None
    held.close()
    again = lock(tmp_path / "x", create=False)
    assert again is not None
    again.close()
    with pytest.raises(FileNotFoundError):
        lock(tmp_path / "y", create=False)


def test_a_lock_on_a_file_that_is_gone_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    before_first_lock(monkeypatch, path.unlink)
    held = lock(path)
    assert held is not None and path.exists() and lock(path) is None
    held.close()


def test_a_folder_that_is_removed_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_first_lock(monkeypatch, lambda: shutil.rmtree(partials(tmp_path)[0]))
    with partial_folder(tmp_path / "b") as folder:
        assert partials(tmp_path) == [folder] and lock(folder / LOCK) is None
        remove_leftovers(tmp_path / "b")
        assert folder.is_dir()
    assert not partials(tmp_path)


def test_a_folder_that_another_process_is_removing_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one has its lock, and is done later."""
    taken: list[BinaryIO] = []

    def take() -> None:
        other = (partials(tmp_path)[0] / LOCK).open("r+b")
        assert partial._flock(other)
        taken.append(other)

    before_first_lock(monkeypatch, take)
    with partial_folder(tmp_path / "b") as folder:
        assert len(partials(tmp_path)) == 2 and lock(folder / LOCK) is None
        taken[0].close()
        remove_leftovers(tmp_path / "b")
        assert partials(tmp_path) == [folder]


def test_a_file_that_is_removed_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_first_lock(monkeypatch, lambda: partials(tmp_path)[0].unlink())
    with whole_file(tmp_path / "x") as file:
        assert len(partials(tmp_path)) == 1
        file.write(b"whole")
    assert (tmp_path / "x").read_bytes() == b"whole" and not partials(tmp_path)


def test_an_answer_file_that_is_removed_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = AnswerFile(tmp_path / "x", [], "bundle", {})
    before_first_lock(monkeypatch, answers.partial.unlink)
    with answers:
        assert lock(answers.partial) is None
    assert (tmp_path / "x").exists() and not partials(tmp_path)


def test_a_leftover_that_gets_its_name_before_it_is_locked_is_no_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process resumed and finished it, and a third began anew under the same name."""
    left = tmp_path / ".x.partial-1"
    left.write_bytes(b"answers")
    holders: list[BinaryIO | None] = []

    def finish() -> None:
        left.rename(tmp_path / "x")
        holders.append(lock(left))

    before_first_lock(monkeypatch, finish)
    remove_leftovers(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"answers" and left.exists()
    assert holders[0] is not None
    holders[0].close()
    remove_leftovers(tmp_path / "x", keep=left)
    assert left.exists()
    remove_leftovers(tmp_path / "x")
    assert not left.exists()


@pytest.mark.parametrize("inside", [[], [LOCK], [LOCK, "graphs"], ["graphs"]])
def test_a_folder_of_a_killed_run_is_removed_in_any_state(tmp_path: Path, inside: list[str]) -> None:
    left = tmp_path / ".b.partial-1"
    left.mkdir()
    for name in inside:
        (left / name).touch()
    remove_leftovers(tmp_path / "b")
    assert not left.exists()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    for make in (partial_file, partial_folder):
        with pytest.raises(KeyboardInterrupt), make(tmp_path / "b"):
            raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_without_posix_locks_help_is_shown_and_files_are_written(tmp_path: Path) -> None:
    code = (
        "import sys\nsys.modules['fcntl'] = sys.modules['resource'] = None\n"
        "from pathlib import Path\nfrom memvp_export.exporter.whole_file import whole_file\n"
        "from memvp_export.exporter.progress import Progress\n"
        "from memvp_export.exporter import bundle, data\n"
        "with Progress().stage('x'), whole_file(Path(sys.argv[1])) as file: file.write(b'x')\n"
        "from memvp_export.cli import cli\ncli(['run', '--help'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "Usage" in done.stdout, done.stderr
    assert (tmp_path / "x").read_bytes() == b"x"
