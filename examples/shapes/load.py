"""Reads the official files back for the reference forward passes."""

import argparse
from pathlib import Path

import sentencepiece
import torch
from torch import Tensor

from ...exporter.models import memvp_llama
from .files import ADAPTER, LLAMA, TOKENIZER, VISION, is_rotated, meta_name
from .model import make_config


def load_model(folder: Path) -> tuple[memvp_llama.Config, dict[str, Tensor], sentencepiece.SentencePieceProcessor]:
    """The config, the weights by the names of `memvp_llama.components` in float32, and the tokenizer."""
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / TOKENIZER))
    config = make_config(tokenizer.vocab_size())
    with torch.serialization.safe_globals([argparse.Namespace]):
        adapter = torch.load(folder / ADAPTER, weights_only=True)["model"]
    read = {
        **torch.load(folder / LLAMA / "consolidated.00.pth", weights_only=True),
        **torch.load(folder / VISION, weights_only=True),
        **{name.removeprefix("module."): weight for name, weight in adapter.items()},
    }
    weights = {"rotary.inverse_frequencies": torch.from_numpy(memvp_llama.rotary_frequencies(config))}
    for part in memvp_llama.components(config):
        for name, expected in part.weights.items():
            weight = read[meta_name(name) or name].float().reshape(expected.shape)
            weights[name] = _halves_from_pairs(weight, config.heads) if is_rotated(name) else weight
    return config, weights, tokenizer


def _halves_from_pairs(weight: Tensor, heads: int) -> Tensor:
    """Rows of q or k from Meta's order to Hugging Face's; [d,d] (spec 1.9)."""
    return weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
