"""Hugging Face folders: one file, shards, and what can be wrong with them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from memvp_export.exporter.checkpoints.safetensors_folder import read_safetensors_file, read_safetensors_folder
from memvp_export.exporter.errors import InputError
from safetensors.torch import save_file

TENSORS = {
    "a": torch.randn(3, 4),
    "b": torch.randn(5).half(),
    "c": torch.randn(2, 2).bfloat16(),
    "scalar": torch.tensor(2.0),
    "ids": torch.arange(3),
}


def sharded(folder: Path, **changed: Any) -> Path:
    save_file({"a": TENSORS["a"], "b": TENSORS["b"]}, folder / "model-1.safetensors")
    save_file({"c": TENSORS["c"]}, folder / "model-2.safetensors")
    weight_map = {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"} | changed
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_one_file(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    found, files = read_safetensors_folder(tmp_path)
    assert files == [tmp_path / "model.safetensors"] and found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        lazy = found[name]
        assert (lazy.shape, lazy.dtype) == (tuple(tensor.shape), tensor.dtype)
        assert torch.equal(lazy.load(), tensor)
        lazy.load().zero_()
        assert torch.equal(lazy.load(), tensor)
        assert lazy.load_rows is None if not tensor.shape else torch.equal(lazy.load_rows(1, 2), tensor[1:2])  # type: ignore[misc]


def test_shards(tmp_path: Path) -> None:
    found, files = read_safetensors_folder(sharded(tmp_path))
    names = [path.name for path in files]
    assert names == ["model.safetensors.index.json", "model-1.safetensors", "model-2.safetensors"]
    for name in "abc":
        assert torch.equal(found[name].load(), TENSORS[name])


def test_opening_reads_no_tensor(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F16", "shape": [1 << 32], "data_offsets": [0, 1 << 33]}}).encode()
    header += b" " * (-len(header) % 8)
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + (1 << 33))
    assert read_safetensors_file(path)["w"].nbytes == 1 << 33


@pytest.mark.parametrize(
    "outside", ["../x.safetensors", "/etc/x.safetensors", "a/../../x.safetensors", "..\\x.safetensors"]
)
def test_index_leads_out_of_the_folder(tmp_path: Path, outside: str) -> None:
    save_file({"a": TENSORS["a"]}, tmp_path / "x.safetensors")
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError, match="names a file outside its folder"):
        read_safetensors_folder(sharded(tmp_path / "model", a=outside))


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        read_safetensors_folder(tmp_path / "none")
    with pytest.raises(InputError, match="holds no safetensors weights"):
        read_safetensors_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(InputError, match="save_pretrained"):
        read_safetensors_folder(tmp_path)
    sharded(tmp_path, d="model-2.safetensors")
    with pytest.raises(InputError, match=r"not in their file: d \(in model-2.safetensors\)"):
        read_safetensors_folder(tmp_path)
    sharded(tmp_path, d="model-3.safetensors")
    with pytest.raises(InputError, match=r"lacks model-3\.safetensors"):
        read_safetensors_folder(tmp_path)
    sharded(tmp_path, d=5)
    with pytest.raises(InputError, match="has no weight_map"):
        read_safetensors_folder(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    for text, message in (("{", "is not whole JSON"), ("[1]", "holds a JSON list"), ("{}", "has no weight_map")):
        index.write_text(text)
        with pytest.raises(InputError, match=message):
            read_safetensors_folder(tmp_path)


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(InputError, match="is missing"):
        read_safetensors_file(path)
    save_file(TENSORS, path)
    whole = path.read_bytes()
    for content in (b"", whole[:4], whole[:100], whole[:-1], b"x" * 100):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cut short or no safetensors file"):
            read_safetensors_file(path)
    save_file({"q": torch.ones(4).to(torch.float8_e4m3fn)}, path)
    with pytest.raises(InputError, match="q has the type F8_E4M3"):
        read_safetensors_file(path)


def test_a_file_that_changes_after_opening(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    lazy = read_safetensors_file(path)["a"]
    path.write_bytes(b"")
    with pytest.raises(InputError, match="changed while it was read"):
        lazy.load()
