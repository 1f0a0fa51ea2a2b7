"""A T5 v1.0 as Hugging Face has it: T5Model or T5ForConditionalGeneration, whose names are the same."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from .huggingface_folder import HostFolder, read_host, with_first_name
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


def read_huggingface_t5(folder: Path) -> HostFolder:
    """Reads the folder. InputError for another family than T5, and for T5 v1.1 with its other layers."""
    found = read_host(folder, "t5", _PLAIN, "that of T5 v1.0, on which MemVP is built,")
    return replace(found, weights=canonical(found.weights))


def canonical(weights: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors, the matrix of words by its first name where it is there by any."""
    return with_first_name(weights, WORDS, TIED)
