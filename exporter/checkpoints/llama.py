"""LLaMA weights from either of the two layouts that people have."""

from pathlib import Path

from ..errors import InputError
from .huggingface_llama import read_huggingface_llama
from .llama_layout import LlamaCheckpoint
from .meta_llama import read_meta_llama

__all__ = ["LlamaCheckpoint", "read_llama"]


def read_llama(folder: Path) -> LlamaCheckpoint:
    """A Meta folder (params.json, consolidated.NN.pth) or a Hugging Face folder (config.json, safetensors).

    Shapes and sizes are known at once, weights are read when they are loaded. InputError names what does not fit.
    """
    if not folder.is_dir():
        state = "is a file, expected a folder" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {state}: give the folder that holds the LLaMA weights.")
    if any(folder.glob("consolidated.*.pth")):
        return read_meta_llama(folder)
    if (folder / "config.json").is_file():
        return read_huggingface_llama(folder)
    if (folder / "params.json").is_file():
        raise InputError(f"{folder} has params.json but no consolidated.00.pth beside it. Download the weights.")
    raise InputError(
        f"{folder} is no LLaMA folder: it needs params.json and consolidated.*.pth (Meta), or config.json and "
        "safetensors (Hugging Face)."
    )
