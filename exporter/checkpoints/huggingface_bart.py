"""A BART as Hugging Face has it: BartModel or BartForConditionalGeneration, under the names of the latter."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from .huggingface_folder import HostFolder, read_host, with_first_name
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


def read_huggingface_bart(folder: Path) -> HostFolder:
    """Reads the folder. InputError for another family than BART and for variants of it with other layers."""
    found = read_host(folder, "bart", _PLAIN, "BART's")
    return replace(found, weights=canonical(found.weights))


def canonical(weights: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Tensors under the names of BartForConditionalGeneration; the matrix of words is there by its first name, if by
    any."""
    found = {f"model.{name}" if name.startswith(_BARE) else name: tensor for name, tensor in weights.items()}
    return with_first_name(found, WORDS, TIED)
