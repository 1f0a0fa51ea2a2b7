"""Random sources on the command line: whole ones can be read, and sizes that make none end in a message."""

import sys
from importlib import import_module
from pathlib import Path

import pytest
from memvp_export.exporter.checkpoints.source import read_source
from memvp_export.exporter.models.family import load

MODULES = ("bart", "clip", "diffusion", "meter", "source", "t5", "vilt")
REFUSED = {
    "a width of none": ("vilt --ffn-dim 0", "would have the shape [0"),
    "a width below none": ("vilt --ffn-dim -1", "argument --ffn-dim: '-1' is no size"),
    "no number": ("clip --width wide", "argument --width: 'wide' is no size"),
    "heads that do not divide": ("meter --heads 7", "7 heads do not divide a width"),
    "groups that do not divide": ("diffusion --first 7", "8 groups do not divide its channels"),
    "lists that are not equally long": ("diffusion --attended 7", "its lists of levels are not equally long"),
    "a vocabulary of other words": ("diffusion --vocab 7", "they do not belong together"),
    "too few pieces": ("source --vocab 7", "the tokenizer cannot be trained to 7 pieces"),
    "a multiple of 0": ("source --multiple-of 0", "the width of the FFN is a multiple of 0"),
}


def call(name: str, *words: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *words])
        import_module(f"memvp_export.examples.random_{name}").main()


@pytest.mark.parametrize("name", MODULES)
def test_a_source_of_the_smallest_preset_is_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(name, str(tmp_path / "new"), "--seed", "3")
    path = Path(capsys.readouterr().out.strip())
    assert path == tmp_path / "new" / "model.toml" and load(read_source(path)).components


@pytest.mark.parametrize("name", REFUSED)
def test_sizes_that_make_no_source_are_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (module, *words), message = REFUSED[name][0].split(), REFUSED[name][1]
    with pytest.raises(SystemExit) as stop:
        call(module, str(tmp_path / "new"), *words)
    shown = capsys.readouterr()
    assert stop.value.code == 2 and message in shown.err and shown.out == ""
