"""model.toml and flags: what is right gives a complete source, what is wrong is listed at once."""

from pathlib import Path
from typing import Any

import pytest
from memvp_export.exporter.checkpoints.options import FAMILIES
from memvp_export.exporter.checkpoints.source import Source, read_source, source_from_flags
from memvp_export.exporter.errors import EnvironmentLack, InputError

FILES = {"base": "weights/7B", "vision": "ViT.pt", "adapter": "a.pth", "tokenizer": "weights/tokenizer.model"}
DEFAULTS = {
    "adapter_scale": 0.1,
    "visual_scale": 0.01,
    "clip_adapter_scale": 0.1,
    "max_sequence": 512,
    "max_batch": 64,
    "max_new_tokens": 1,
    "text_prefix": "",
}
TOML = """
family = "memvp-llama"
task = "vqa"
[files]
base = "weights/7B"
vision = "ViT.pt"
adapter = "a.pth"
tokenizer = "weights/tokenizer.model"
[options]
adapter_scale = 1
text_prefix = "Q: "
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "weights" / "7B").mkdir(parents=True)
    for name in ("ViT.pt", "a.pth", "weights/tokenizer.model"):
        (tmp_path / name).touch()
    (tmp_path / "model.toml").write_text(TOML)
    return tmp_path


def test_file_and_folder(folder: Path) -> None:
    expected = Source(
        "memvp-llama",
        "vqa",
        {key: folder / path for key, path in FILES.items()},
        DEFAULTS | {"adapter_scale": 1.0, "text_prefix": "Q: "},
        folder / "model.toml",
    )
    assert read_source(folder) == read_source(folder / "model.toml") == expected
    assert type(expected.options["adapter_scale"]) is float


def test_flags(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    options = {"max_batch": "8", "visual_scale": "0.5", "max_sequence": 64, "text_prefix": "1"}
    source = source_from_flags("memvp-llama", None, FILES, options)
    expected = {"max_batch": 8, "visual_scale": 0.5, "max_sequence": 64, "text_prefix": "1"}
    assert source.options == DEFAULTS | expected and source.where is None and source.task == "vqa"
    assert source.files["base"].samefile(folder / "weights/7B")
    with pytest.raises(InputError, match="max_batch is 'many', needs an integer from 1"):
        source_from_flags("memvp-llama", None, FILES, {"max_batch": "many"})
    with pytest.raises(InputError, match="family is missing"):
        source_from_flags(None, None, FILES, {})


BAD: dict[str, tuple[str, str, str]] = {
    "key": ('task = "vqa"', 'taks = "vqa"', r"unknown key 'taks' \(did you mean 'task'\?\)"),
    "section": ("[options]", "[option]", r"unknown key 'option' \(did you mean 'options'\?\)"),
    "file key": (
        "vision =",
        "visoin =",
        r"unknown file 'visoin' \(did you mean 'vision'\?\)\n.*files.vision is missing",
    ),
    "option": ("adapter_scale", "adapter_scal", r"unknown option 'adapter_scal' \(did you mean 'adapter_scale'\?\)"),
    "far option": ("adapter_scale", "zzz", r"unknown option 'zzz' \(known: adapter_scale, "),
    "family": ("memvp-llama", "memvp-lama", r"unknown family 'memvp-lama' \(did you mean 'memvp-llama'\?\)"),
    "no family": ('family = "memvp-llama"', "", "family is missing"),
    "family type": ('"memvp-llama"', "7", "unknown family 7"),
    "task": ('"vqa"', '"nlvr2"', r"memvp-llama has no task 'nlvr2' \(known: vqa\)"),
    "type": ("adapter_scale = 1", 'adapter_scale = "0.1"', "adapter_scale is '0.1', needs a number from 0"),
    "bool": ("adapter_scale = 1", "max_batch = true", "max_batch is True, needs an integer"),
    "float": ("adapter_scale = 1", "max_batch = 1.0", "max_batch is 1.0, needs an integer"),
    "range": ("adapter_scale = 1", "max_batch = 0", "max_batch is 0, needs an integer from 1 to 4096"),
    "nan": ("adapter_scale = 1", "adapter_scale = nan", "adapter_scale is nan, needs a number"),
    "equal length": ("adapter_scale = 1", "max_new_tokens = 512", "max_new_tokens is larger than max_sequence - 1"),
    "short sequence": ("adapter_scale = 1", "max_sequence = 7", "max_sequence is 7, needs an integer from 8"),
    "length": ("adapter_scale = 1", "max_new_tokens = 513", "max_new_tokens is larger than max_sequence"),
    "text": ('"Q: "', "3", "text_prefix is 3, needs a text"),
    "path type": ('"ViT.pt"', "3", "files.vision is 3, needs a path"),
    "syntax": ("[files]", "[files", "is not TOML"),
    "sections": ("[files]", "files = 3\n[x]", r"files is a value, expected a section"),
    "reference": ('"ViT.pt"', '"hf:ViT"', "files.vision: 'hf:ViT' is not of the form"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_sources(folder: Path, case: str) -> None:
    old, new, message = BAD[case]
    assert old in TOML
    (folder / "model.toml").write_text(TOML.replace(old, new))
    with pytest.raises(InputError, match=message) as error:
        read_source(folder)
    assert str(folder / "model.toml") in str(error.value)


def test_the_longest_answer_leaves_room_for_one_token_of_the_prompt(folder: Path) -> None:
    (folder / "model.toml").write_text(TOML.replace("adapter_scale = 1", "max_sequence = 8\nmax_new_tokens = 7"))
    assert read_source(folder).options["max_new_tokens"] == 7


def test_everything_wrong_is_one_message(folder: Path) -> None:
    text = TOML.replace("ViT.pt", "gone.pt").replace('adapter = "a.pth"', "").replace("weights/7B", "gone")
    (folder / "model.toml").write_text(text.replace("adapter_scale = 1", "max_batch = -1"))
    with pytest.raises(InputError) as error:
        read_source(folder)
    for line in (
        f"files.base: {folder / 'gone'} does not exist",
        f"files.vision: {folder / 'gone.pt'} does not exist",
        "files.adapter is missing",
        "max_batch is -1",
    ):
        assert line in str(error.value)


@pytest.mark.parametrize("family", [name for name, known in FAMILIES.items() if not known.tasks])
def test_families_to_come(folder: Path, family: str) -> None:
    (folder / "model.toml").write_text(TOML.replace("memvp-llama", family))
    with pytest.raises(InputError, match=f"{family} is not supported yet by this version"):
        read_source(folder)


def test_no_source(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder without a model\.toml"):
        read_source(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_source(tmp_path / "x.toml")
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is not TOML"):
        read_source(tmp_path / "x.toml")


def test_downloads_start_only_when_all_else_is_right(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    text = TOML.replace("ViT.pt", "hf:owner/name@main:ViT.pt")
    (folder / "model.toml").write_text(text.replace("a.pth", "gone.pth"))
    with pytest.raises(InputError, match=r"gone\.pth does not exist"):
        read_source(folder)
    (folder / "model.toml").write_text(text)
    with pytest.raises(EnvironmentLack, match="not in the local Hugging Face cache"):
        read_source(folder)


def test_defaults_are_the_papers() -> None:
    options: Any = FAMILIES["memvp-llama"].options
    assert {name: option.default for name, option in options.items()} == DEFAULTS
