"""A BART as Hugging Face has it: BartModel or BartForConditionalGeneration, under the names of the latter."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from .generation_rules import read_rules
from .huggingface_folder import read_config, read_weights
from .json_file import integer
from .lazy import LazyTensor

WORDS = "model.shared.weight"
# Copies of the one matrix, and what older versions saved besides.
TIED = ("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
IGNORED = (*TIED, "model.encoder.version", "model.decoder.version")
_BARE = ("shared.", "encoder.", "decoder.")
# Siblings of BART share its name and differ in one of these.
_PLAIN = {
    "normalize_before": False,
    "normalize_embedding": True,
    "add_final_layer_norm": False,
    "add_bias_logits": False,
    "static_position_embeddings": False,
    "extra_pos_embeddings": 2,
    "tie_word_embeddings": True,
    "is_encoder_decoder": True,
}


@dataclass(frozen=True)
class BartFolder:
    """config.json, the tensors by name, the rules that the model writes by, and the files they are in."""

    path: Path
    config: dict[str, Any]
    weights: dict[str, LazyTensor]
    generation: dict[str, Any]
    files: list[Path]


def read_huggingface_bart(folder: Path) -> BartFolder:
    """Reads the folder. InputError for another family than BART and for variants of it with other layers."""
    config = read_config(folder, "bart")
    path = folder / "config.json"
    if unlike := [key for key, plain in _PLAIN.items() if config.get(key, plain) != plain]:
        raise InputError(f"{path}: {unlike[0]} is {config[unlike[0]]!r}; BART's is {_PLAIN[unlike[0]]!r}.")
    weights, files = read_weights(folder)
    generation, others = read_rules(folder, config)
    return BartFolder(path, config, canonical(weights), generation, [path, *others, *files])


def canonical(weights: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Tensors under the names of BartForConditionalGeneration; the matrix of words is there by its first name, if by
    any."""
    found = {f"model.{name}" if name.startswith(_BARE) else name: tensor for name, tensor in weights.items()}
    copies = [name for name in TIED if name in found]
    return found if WORDS in found or not copies else {**found, WORDS: found[copies[0]]}


def size(folder: BartFolder, key: str) -> int:
    """A size that the config must tell. InputError where it does not."""
    return int(integer(folder.config, key, folder.path))
