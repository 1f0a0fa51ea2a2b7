"""Hugging Face folders: model.safetensors, or shards under an index, as lazy tensors by name. diffusers calls the same
files diffusion_pytorch_model.*, and either may have a variant in half precision, *.fp16.*."""

from functools import partial
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from ..disk import require_readable
from ..errors import InputError
from ..packages import needing
from .json_file import read_object
from .lazy import LazyTensor
from .matching import some

STEM = "model"
DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_safetensors_folder(folder: Path, stem: str = STEM) -> tuple[dict[str, LazyTensor], list[Path]]:
    """All tensors of a folder by name, and the files they are in (the index among them). stem is how their names begin;
    those in half precision are taken where there are no others.

    InputError for a missing or damaged shard, an index that names a file outside the folder, and a tensor that the
    index lists and no shard holds.
    """
    for variant in ("", ".fp16"):
        single = folder / f"{stem}{variant}.safetensors"
        index = folder / f"{stem}.safetensors.index{variant}.json"
        if single.is_file():
            return read_safetensors_file(single), [single]
        if index.is_file():
            return _read_shards(folder, index)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder.")
    hint = f"It needs {stem}.safetensors, or {stem}.safetensors.index.json with its shards."
    if any(folder.glob("*pytorch_model*.bin")):
        hint += (
            " It has PyTorch .bin files: load the model with transformers or diffusers and use its save_pretrained()."
        )
    raise InputError(f"{folder} holds no safetensors weights. {hint}")


def read_safetensors_file(path: Path) -> dict[str, LazyTensor]:
    """All tensors of one file by name. InputError where it is missing, cut short or not of this format."""
    with needing("export"):
        from safetensors import SafetensorError, safe_open
    if not path.is_file():
        raise InputError(f"{path} is missing. Download all files of the model.")
    require_readable(path)
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: _lazy(path, name, part.get_shape(), part.get_dtype()) for name, part in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is cut short or no safetensors file ({error}). Download or copy it again.") from None


def _lazy(path: Path, name: str, shape: list[int], dtype: str) -> LazyTensor:
    if dtype not in DTYPES:
        raise InputError(
            f"{path}: {name} has the type {dtype}, which is not supported. Use fp32, fp16 or bf16 weights."
        )
    rows = partial(_load, path, name) if shape else None
    return LazyTensor(tuple(shape), DTYPES[dtype], f"{path}: {name}", partial(_load, path, name), rows)


def _load(path: Path, name: str, first: int | None = None, last: int | None = None) -> Tensor:
    # The library maps the file: opened for one tensor and closed, no more than that tensor counts as memory.
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name) if first is None else file.get_slice(name)[first:last]
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} changed while it was read ({error}). Do not change it during an export.") from None


def _read_shards(folder: Path, index: Path) -> tuple[dict[str, LazyTensor], list[Path]]:
    shard_of = read_object(index).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(name, str) for name in shard_of.values()):
        raise InputError(f"{index} has no weight_map from tensors to files. Download it again.")
    names = sorted(set(shard_of.values()))
    # By name, not by where links lead: the Hugging Face cache is made of links to files elsewhere.
    outside = [n for n in names if "\\" in n or PurePosixPath(n).is_absolute() or ".." in PurePosixPath(n).parts]
    if outside:
        raise InputError(f"{index} names a file outside its folder: {outside[0]!r}. Do not use this model.")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} lacks {some(missing)}, which {index.name} lists. Download all shards.")
    files = {name: folder / name for name in names}
    shards = {name: read_safetensors_file(path) for name, path in files.items()}
    absent = [f"{key} (in {name})" for key, name in shard_of.items() if key not in shards[name]]
    if absent:
        raise InputError(f"{folder}: tensors that {index.name} lists are not in their file: {some(absent)}.")
    return {key: shards[name][key] for key, name in shard_of.items()}, [index, *files.values()]
