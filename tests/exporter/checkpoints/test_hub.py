"""References to files, without a network: the cache is made by the test."""

import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from memvp_export.exporter.checkpoints.hub import parse_reference, resolve
from memvp_export.exporter.errors import EnvironmentLack, InputError, MissingPackage

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--owner--name"
    snapshot = repository / "snapshots" / COMMIT
    (snapshot / "7B").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "7B" / "params.json").write_text("{}")
    return snapshot


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    assert resolve("a", tmp_path) == tmp_path / "a"
    assert resolve(str(tmp_path / "a"), Path("/elsewhere")) == tmp_path / "a"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/a", Path("/elsewhere")) == tmp_path / "a"
    with pytest.raises(InputError, match=r"b does not exist"):
        resolve("b", tmp_path)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("hf:owner/name@main", ""),
        (f"hf:owner/name@{COMMIT}", ""),
        ("hf:owner/name@main:config.json", "config.json"),
        ("hf:owner/name@main:7B/params.json", "7B/params.json"),
        ("hf:owner/name@main:7B/", "7B"),
    ],
)
def test_cached_references(cache: Path, reference: str, expected: str) -> None:
    assert resolve(reference, Path("/elsewhere")) == cache / expected


@pytest.mark.parametrize(
    "reference",
    ["hf:owner/name@main:none.pth", "hf:owner/other@main", "hf:owner/other@main:a.pt", "hf:owner/name@v2"],
)
def test_not_cached_and_offline(cache: Path, reference: str) -> None:
    with pytest.raises(EnvironmentLack, match="is not in the local Hugging Face cache") as error:
        resolve(reference, Path())
    assert reference in str(error.value)


def test_folder_that_the_repository_lacks(cache: Path) -> None:
    with pytest.raises(InputError, match="has no folder '13B/'"):
        resolve("hf:owner/name@main:13B/", Path())


@pytest.mark.parametrize(
    "reference",
    ["hf:", "hf:owner", "hf:owner/name", "hf:name@main", "hf:a/b/c@main", "hf:a/b@", "hf:a/b@main:", "hf:/b@x"],
)
def test_bad_syntax(reference: str) -> None:
    with pytest.raises(InputError, match=r"is not of the form hf:owner/name@revision"):
        parse_reference(reference)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../b", "a\\b"])
def test_paths_stay_in_the_repository(path: str) -> None:
    with pytest.raises(InputError, match="leads out of the repository"):
        parse_reference(f"hf:owner/name@main:{path}")


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingPackage, match=r"huggingface_hub is not installed.*memvp-export\[export\]"):
        resolve("hf:owner/name@main", Path())


def test_repository_names_that_the_hub_refuses(cache: Path) -> None:
    with pytest.raises(InputError, match="is not of the form"):
        resolve("hf:owner/na--me@main", Path())


@pytest.mark.parametrize(
    ("safetensors", "folder", "fetched"),
    [
        ("model.safetensors", "", ["config.json", "merges.txt", "model.safetensors"]),
        ("7B/model.safetensors", "7B/", ["model.safetensors", "params.json"]),
        (None, "", ["config.json", "merges.txt", "original/consolidated.00.pth", "pytorch_model.bin"]),
        ("original/model.safetensors", "", None),
    ],
)
def test_pytorch_files_are_not_fetched_beside_safetensors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, safetensors: str | None, folder: str, fetched: list[str] | None
) -> None:
    """snapshot_download is replaced by one that makes the files it is asked for."""
    files = [
        "config.json",
        "merges.txt",
        "7B/params.json",
        "pytorch_model.bin",
        "original/consolidated.00.pth",
        "7B/consolidated.00.pth",
    ]
    files += [safetensors] if safetensors else []

    def download(repository: str, revision: str, allow_patterns: list[str]) -> str:
        for name in files:
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                (tmp_path / name).parent.mkdir(exist_ok=True)
                (tmp_path / name).touch()
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    path = resolve(f"hf:owner/name@main:{folder}" if folder else "hf:owner/name@main", Path())
    found = sorted(one.relative_to(path).as_posix() for one in path.rglob("*") if one.is_file())
    if fetched is None:
        # Those in a folder below are not what the reference names.
        assert "pytorch_model.bin" in found
    else:
        assert [name for name in found if not name.startswith("7B/")] == fetched
