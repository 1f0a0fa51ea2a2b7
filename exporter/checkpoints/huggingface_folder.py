"""Hugging Face folders of one model: its config.json, and weights as safetensors or as PyTorch's own file."""

from pathlib import Path
from typing import Any

from ..errors import InputError
from .json_file import read_object
from .lazy import LazyTensor
from .safetensors_folder import read_safetensors_folder
from .torch_file import flatten_module, read_torch_file

_TORCH = "pytorch_model.bin"


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
    if path.is_file() and not any(folder.glob("model*.safetensors*")):
        return flatten_module(read_torch_file(path), str(path)), [path]
    return read_safetensors_folder(folder)
