"""BART under Hugging Face's names (spec 2.2): post-norm layers, learned positions, one matrix for words and logits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoints.huggingface_bart import WORDS
from .component import Weight, linear_weights, norm_weights
from .layers import attend, key_bias, later_bias, layer_norm_of, linear, linear_of, split_heads, with_past
from .memory import ACTIVATIONS

if TYPE_CHECKING:
    from .memvp_encoder_decoder import Add

LOGITS_BIAS = "final_logits_bias"
# Rows of the position tables before that of the first token.
OFFSET = 2
EPS = 1e-5


@dataclass(frozen=True)
class BartConfig:
    """Sizes of a BART; see `memvp_encoder_decoder.Host`. positions are the rows of its tables without the OFFSET;
    word_scale is what the words' vectors are multiplied with."""

    dim: int
    encoder_layers: int
    decoder_layers: int
    encoder_heads: int
    heads: int
    encoder_ffn_dim: int
    decoder_ffn_dim: int
    vocab: int
    positions: int
    word_scale: float
    activation: str

    encoder_stem = "model.encoder.layers"
    decoder_stem = "model.decoder.layers"

    @property
    def head_dim(self) -> int:
        """Width of one head of the decoder."""
        return self.dim // self.heads

    def encoder_weights(self) -> dict[str, Weight]:
        """See `Host`."""
        weights = _embedding_weights(self, "model.encoder")
        for i in range(self.encoder_layers):
            weights |= _layer_weights(f"{self.encoder_stem}.{i}", self.dim, self.encoder_ffn_dim, ("self_attn",))
        for name in self._crossings():
            weights |= linear_weights(name, self.dim, self.dim)
        return weights

    def decoder_weights(self) -> dict[str, Weight]:
        """See `Host`."""
        weights = _embedding_weights(self, "model.decoder")
        for i in range(self.decoder_layers):
            names = ("self_attn", "encoder_attn")
            weights |= _layer_weights(f"{self.decoder_stem}.{i}", self.dim, self.decoder_ffn_dim, names)
        left_out = tuple(f"{name}." for name in self._crossings())
        kept = {name: weight for name, weight in weights.items() if not name.startswith(left_out)}
        return kept | {LOGITS_BIAS: Weight((1, self.vocab))}

    def _crossings(self) -> list[str]:
        """The projections that make the keys and values of cross-attention, in the order of the caches."""
        layers = range(self.decoder_layers)
        return [f"{self.decoder_stem}.{i}.encoder_attn.{part}_proj" for i in layers for part in ("k", "v")]

    def encode(self, weights: Mapping[str, Tensor], ids: Tensor, mask: Tensor, add: "Add") -> tuple[Tensor, ...]:
        """See `Host`."""
        bias = key_bias(mask)
        x = self._embedded(weights, "model.encoder", ids, 0)
        for i in range(self.encoder_layers):
            layer = f"{self.encoder_stem}.{i}"
            query, key, value = (self._heads(weights, layer, part, x, self.encoder_heads) for part in "qkv")
            x = _attention_end(weights, f"{layer}.self_attn", x, attend(query, key, value, bias))
            x = self._feed_forward(weights, layer, x, add)
        return x, *(split_heads(linear_of(weights, name, x), self.heads) for name in self._crossings())

    def decode(
        self, weights: Mapping[str, Tensor], ids: Tensor, encoder_mask: Tensor, past: Mapping[str, Tensor], add: "Add"
    ) -> tuple[Tensor, ...]:
        """See `Host`."""
        columns = past["past_key_values.0.decoder.key"].shape[2]
        later, crossing = later_bias(columns, ids.shape[1], ids), key_bias(encoder_mask)
        present: list[Tensor] = []
        x = self._embedded(weights, "model.decoder", ids, columns)
        for i in range(self.decoder_layers):
            layer, cache = f"{self.decoder_stem}.{i}", f"past_key_values.{i}"
            query, key, value = (self._heads(weights, layer, part, x, self.heads) for part in "qkv")
            key = with_past(past[f"{cache}.decoder.key"], key)
            value = with_past(past[f"{cache}.decoder.value"], value)
            present += [key, value]
            x = _attention_end(weights, f"{layer}.self_attn", x, attend(query, key, value, later))
            query = split_heads(linear_of(weights, f"{layer}.encoder_attn.q_proj", x), self.heads)
            seen = past[f"{cache}.encoder.key"], past[f"{cache}.encoder.value"]
            x = _attention_end(weights, f"{layer}.encoder_attn", x, attend(query, *seen, crossing))
            x = self._feed_forward(weights, layer, x, add)
        return (linear(x, weights[WORDS]) + weights[LOGITS_BIAS], *present)

    def _embedded(self, weights: Mapping[str, Tensor], side: str, ids: Tensor, start: int) -> Tensor:
        words = F.embedding(ids, weights[WORDS])
        rows = torch.arange(ids.shape[1], device=ids.device) + (start + OFFSET)
        places = F.embedding(rows, weights[f"{side}.embed_positions.weight"])
        words = words if self.word_scale == 1 else words * self.word_scale
        return layer_norm_of(weights, f"{side}.layernorm_embedding", words + places, EPS)

    @staticmethod
    def _heads(weights: Mapping[str, Tensor], layer: str, part: str, x: Tensor, heads: int) -> Tensor:
        return split_heads(linear_of(weights, f"{layer}.self_attn.{part}_proj", x), heads)

    def _feed_forward(self, weights: Mapping[str, Tensor], layer: str, x: Tensor, add: "Add") -> Tensor:
        """`LN(x + add(x, fc2 act(fc1 x)))`"""
        wide = ACTIVATIONS[self.activation](linear_of(weights, f"{layer}.fc1", x))
        ffn = linear_of(weights, f"{layer}.fc2", wide)
        return layer_norm_of(weights, f"{layer}.final_layer_norm", x + add(x, ffn), EPS)


def _embedding_weights(config: BartConfig, side: str) -> dict[str, Weight]:
    rows = {
        WORDS: Weight((config.vocab, config.dim)),
        f"{side}.embed_positions.weight": Weight((config.positions + OFFSET, config.dim)),
    }
    return rows | norm_weights(f"{side}.layernorm_embedding", config.dim)


def _layer_weights(layer: str, dim: int, ffn_dim: int, attentions: tuple[str, ...]) -> dict[str, Weight]:
    weights: dict[str, Weight] = {}
    for name in attentions:
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            weights |= linear_weights(f"{layer}.{name}.{part}", dim, dim)
        weights |= norm_weights(f"{layer}.{name}_layer_norm", dim)
    weights |= linear_weights(f"{layer}.fc1", ffn_dim, dim) | linear_weights(f"{layer}.fc2", dim, ffn_dim)
    return weights | norm_weights(f"{layer}.final_layer_norm", dim)


def _attention_end(weights: Mapping[str, Tensor], name: str, x: Tensor, mixed: Tensor) -> Tensor:
    """`LN(x + out_proj(mixed))`"""
    attended = x + linear_of(weights, f"{name}.out_proj", mixed)
    return layer_norm_of(weights, f"{name}_layer_norm", attended, EPS)
