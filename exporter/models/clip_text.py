"""CLIP's text tower under Hugging Face's names, `text_model.*`: hidden states of ids, and the row of the end token."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .clip_encoder import EncoderConfig, encode, encoder_weights
from .component import Weight, norm_weights
from .layers import causal_bias, layer_norm_of, select_positions

NAME = "text_model"


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the tower. positions are its longest text in tokens. end is the id whose first place in a text is its
    pooled row; None: the highest id of the text, as in OpenAI's CLIP, where the end token is the last of the
    vocabulary (Hugging Face's older configs say so by `eos_token_id` 2)."""

    encoder: EncoderConfig
    vocab: int
    positions: int
    end: int | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; `from_dict` reads it back."""
        return {**vars(self), "encoder": self.encoder.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "TextConfig":
        """The inverse of `to_dict`."""
        return cls(**{**data, "encoder": EncoderConfig.from_dict(data["encoder"])})


def text_weights(config: TextConfig) -> dict[str, Weight]:
    """Every tensor of `hidden_states` as a graph holds it; a projection is its user's."""
    d = config.encoder.width
    return {
        f"{NAME}.embeddings.token_embedding.weight": Weight((config.vocab, d)),
        f"{NAME}.embeddings.position_embedding.weight": Weight((config.positions, d)),
        **encoder_weights(NAME, config.encoder),
        **norm_weights(f"{NAME}.final_layer_norm", d),
    }


def hidden_states(weights: Mapping[str, Tensor], config: TextConfig, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Last hidden states after the final norm [B,T,width] of ids [B,T] int64, T at most config.positions.

    Every token sees itself and those before it, of those where mask [B,T] int64 is not 0; None: of all.
    """
    places = torch.arange(ids.shape[1], device=ids.device)
    x = F.embedding(ids, weights[f"{NAME}.embeddings.token_embedding.weight"])
    x = x + F.embedding(places, weights[f"{NAME}.embeddings.position_embedding.weight"])
    bias = causal_bias(torch.ones_like(ids) if mask is None else mask, ids.shape[1])
    x = encode(weights, NAME, config.encoder, x, bias)
    return layer_norm_of(weights, f"{NAME}.final_layer_norm", x, config.encoder.eps)


def pooled(config: TextConfig, ids: Tensor, hidden: Tensor) -> Tensor:
    """The row [B,1,width] of hidden [B,T,width] at the first end token of ids [B,T]; the first row where there is none.

    What comes after the end is padding that the row does not see.
    """
    # In float32, which holds every id: not every parser takes the least or the largest of integers.
    numbers = ids.float()
    ends = numbers == (numbers.amax(-1, keepdim=True) if config.end is None else float(config.end))
    places = torch.arange(ids.shape[1], device=ids.device).float()
    # The sooner the larger, and 0 where there is no end.
    sooner = torch.where(ends, config.positions - places, 0.0).amax(-1, keepdim=True)
    return select_positions(hidden, torch.where(sooner == 0, 0.0, config.positions - sooner).long())
