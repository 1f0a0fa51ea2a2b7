"""A T5 v1.0 as Hugging Face has it: T5Model or T5ForConditionalGeneration, whose names are the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from .generation_rules import read_rules
from .huggingface_folder import read_config, read_weights
from .json_file import integer, number
from .lazy import LazyTensor

WORDS = "shared.weight"
# Copies of the one matrix, and a table that the first files had and nothing reads.
TIED = ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
IGNORED = (*TIED, "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight")
# T5 v1.1 and what came after it differ in one of these.
_PLAIN = {
    "feed_forward_proj": "relu",
    "tie_word_embeddings": True,
    "scale_decoder_outputs": True,
    "is_encoder_decoder": True,
}
MAX_DISTANCE, EPS = 128, 1e-6


@dataclass(frozen=True)
class T5Folder:
    """config.json, the tensors by name, the rules that the model writes by, and the files they are in."""

    path: Path
    config: dict[str, Any]
    weights: dict[str, LazyTensor]
    generation: dict[str, Any]
    files: list[Path]

    def size(self, key: str, default: int | None = None) -> int:
        """A size that the config must tell where there is no default. InputError where it does not."""
        return int(integer(self.config, key, self.path, *([] if default is None else [default])))

    @property
    def eps(self) -> float:
        """What the norms add to the mean of squares."""
        return float(number(self.config, "layer_norm_epsilon", self.path, EPS))


def read_huggingface_t5(folder: Path) -> T5Folder:
    """Reads the folder. InputError for another family than T5, and for T5 v1.1 with its other layers."""
    config = read_config(folder, "t5")
    path = folder / "config.json"
    if unlike := [key for key, plain in _PLAIN.items() if config.get(key, plain) != plain]:
        raise InputError(
            f"{path}: {unlike[0]} is {config[unlike[0]]!r}, T5 v1.0's is {_PLAIN[unlike[0]]!r}. MemVP is built on v1.0."
        )
    weights, files = read_weights(folder)
    generation, others = read_rules(folder, config)
    return T5Folder(path, config, canonical(weights), generation, [path, *others, *files])


def canonical(weights: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors, the matrix of words by its first name where it is there by any."""
    copies = [name for name in TIED if name in weights]
    return dict(weights) if WORDS in weights or not copies else {**weights, WORDS: weights[copies[0]]}
