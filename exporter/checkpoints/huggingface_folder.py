"""Hugging Face folders of one model: its config.json, and weights as safetensors or as PyTorch's own file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from .generation_rules import read_rules
from .json_file import integer, read_object
from .lazy import LazyTensor
from .safetensors_folder import read_safetensors_folder
from .torch_file import flatten_module, read_torch_file

_TORCH = "pytorch_model.bin"


@dataclass(frozen=True)
class HostFolder:
    """config.json of an encoder-decoder, the tensors by name, the rules that it writes by, and the files they are
    in."""

    path: Path
    config: dict[str, Any]
    weights: dict[str, LazyTensor]
    generation: dict[str, Any]
    files: list[Path]

    def size(self, key: str, default: int | None = None) -> int:
        """A size that the config must tell where there is no default. InputError where it does not."""
        return int(integer(self.config, key, self.path, *([] if default is None else [default])))


def read_host(folder: Path, model_type: str, plain: Mapping[str, Any], whose: str) -> HostFolder:
    """Reads the folder. plain are entries of its config as the family `whose` has them. InputError for another family
    and where one of them, if there, is another."""
    config, path = read_config(folder, model_type), folder / "config.json"
    if unlike := [key for key, value in plain.items() if config.get(key, value) != value]:
        raise InputError(f"{path}: {unlike[0]} is {config[unlike[0]]!r}; {whose} is {plain[unlike[0]]!r}.")
    weights, files = read_weights(folder)
    generation, others = read_rules(folder, config)
    return HostFolder(path, config, weights, generation, [path, *others, *files])


def with_first_name(found: Mapping[str, LazyTensor], name: str, copies: Sequence[str]) -> dict[str, LazyTensor]:
    """The tensors, and one by `name` too where it is there as one of its copies only."""
    there = [copy for copy in copies if copy in found]
    return dict(found) if name in found or not there else {**found, name: found[there[0]]}


def read_config(folder: Path, model_type: str) -> dict[str, Any]:
    """config.json of a folder. InputError where it is missing, of another family, or its weights are quantized."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} is no Hugging Face folder: it needs config.json beside the weights.")
    config = read_object(path)
    if config.get("model_type") != model_type:
        found = config.get("model_type")
        raise InputError(f"{path} describes a model of the family {found!r}; expected {model_type!r}.")
    if config.get("quantization_config"):
        raise InputError(f"{path}: the weights are quantized. Take the model in fp32, fp16 or bf16.")
    return config


def read_weights(folder: Path) -> tuple[dict[str, LazyTensor], list[Path]]:
    """All tensors of a folder by name, and the files they are in: safetensors where there are any, otherwise
    pytorch_model.bin. InputError as their readers raise it."""
    path = folder / _TORCH
    if not any(folder.glob("model*.safetensors*")):
        if path.is_file():
            return flatten_module(read_torch_file(path), str(path)), [path]
        if not any(folder.glob("*pytorch_model*.bin")):
            raise InputError(
                f"{folder} holds no weights. It needs model.safetensors, or model.safetensors.index.json with its "
                f"shards, or {_TORCH}."
            )
    return read_safetensors_folder(folder)
