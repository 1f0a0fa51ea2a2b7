"""A diffusers folder of Stable Diffusion 1.x or 2.x: the configs and tensors of its parts, read from their files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from .json_file import read_object
from .lazy import LazyTensor
from .safetensors_folder import read_safetensors_folder

PIPELINE = "StableDiffusionPipeline"
SCHEDULER = "scheduler_config.json"
_CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
_STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@dataclass(frozen=True)
class Part:
    """One model of the folder: its parsed config.json, where that lies, its tensors, and all files that were read."""

    config: dict[str, Any]
    path: Path
    weights: dict[str, LazyTensor]
    files: list[Path]


@dataclass(frozen=True)
class DiffusersFolder:
    """The parts of Stable Diffusion. scheduler is its scheduler_config.json, tokenizer the folder of its tokenizer,
    unused the names of parts that this tool does not export."""

    unet: Part
    vae: Part
    text_encoder: Part
    scheduler: Path
    tokenizer: Path
    index: Path
    unused: list[str]


def read_diffusers(folder: Path) -> DiffusersFolder:
    """Reads model_index.json and what it names. InputError for another pipeline than Stable Diffusion's, such as
    SDXL's, a part of another class, and one that is missing."""
    path = folder / "model_index.json"
    if not path.is_file():
        raise InputError(
            f"{folder} is no diffusers folder: it has no model_index.json. Give the folder of the pipeline."
        )
    index = read_object(path)
    if index.get("_class_name") != PIPELINE:
        raise InputError(
            f"{path} describes a {index.get('_class_name')}; this family takes Stable Diffusion 1.x and 2.x, a "
            f"{PIPELINE}."
        )
    named = {name: entry[1] for name, entry in index.items() if isinstance(entry, list) and len(entry) == 2}
    for name, wanted in _CLASSES.items():
        if named.get(name) != wanted:
            raise InputError(f"{path}: {name} is a {named.get(name)}; this family takes a {wanted}.")
    parts = {name: _part(folder / name, _STEMS[name]) for name in _CLASSES}
    known = {*_CLASSES, "scheduler", "tokenizer"}
    return DiffusersFolder(
        **parts,
        scheduler=folder / "scheduler" / SCHEDULER,
        tokenizer=folder / "tokenizer",
        index=path,
        unused=[name for name, kind in named.items() if name not in known and kind],
    )


def _part(folder: Path, stem: str) -> Part:
    path = folder / "config.json"
    weights, files = read_safetensors_folder(folder, stem)
    return Part(read_object(path), path, weights, [path, *files])
