"""T5 v1.0 under Hugging Face's names (spec 2.2): pre-norm layers, distances in place of positions, no biases, one
matrix for words and logits.

What a distance adds to the scores is stored in buckets of distances (`relative_attention_bias` of block 0, which all
blocks share). The graphs hold it by distance, under the names TABLES: see `by_distance`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoints.huggingface_t5 import WORDS
from .component import Weight
from .layers import attend, key_bias, later_bias, linear, rms_norm, split_heads, with_past

if TYPE_CHECKING:
    from .memvp_encoder_decoder import Add

TABLES = {side: f"{side}.relative_attention_bias.weight" for side in ("encoder", "decoder")}
BUCKETS = {side: f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight" for side in TABLES}


@dataclass(frozen=True)
class T5Config:
    """Sizes of a T5; see `memvp_encoder_decoder.Host`. From max_distance on, all distances are one."""

    dim: int
    encoder_layers: int
    decoder_layers: int
    heads: int
    head_dim: int
    ffn_dim: int
    vocab: int
    max_distance: int
    eps: float

    activation = "relu"
    encoder_stem = "encoder.block"
    decoder_stem = "decoder.block"

    def encoder_weights(self) -> dict[str, Weight]:
        """See `Host`."""
        weights = {WORDS: Weight((self.vocab, self.dim)), TABLES["encoder"]: self._table(2 * self.max_distance + 1)}
        for i in range(self.encoder_layers):
            layer = f"{self.encoder_stem}.{i}.layer"
            weights |= self._attention_weights(f"{layer}.0", "SelfAttention")
            weights |= self._feed_forward_weights(f"{layer}.1")
        weights["encoder.final_layer_norm.weight"] = Weight((self.dim,))
        return weights | {name: Weight((self.heads * self.head_dim, self.dim)) for name in self._crossings()}

    def decoder_weights(self) -> dict[str, Weight]:
        """See `Host`."""
        weights = {WORDS: Weight((self.vocab, self.dim)), TABLES["decoder"]: self._table(self.max_distance + 1)}
        for i in range(self.decoder_layers):
            layer = f"{self.decoder_stem}.{i}.layer"
            weights |= self._attention_weights(f"{layer}.0", "SelfAttention")
            weights |= self._attention_weights(f"{layer}.1", "EncDecAttention")
            weights |= self._feed_forward_weights(f"{layer}.2")
        weights["decoder.final_layer_norm.weight"] = Weight((self.dim,))
        return {name: weight for name, weight in weights.items() if name not in self._crossings()}

    def _table(self, distances: int) -> Weight:
        # It is added to scores in float32.
        return Weight((distances, self.heads), float32=True)

    def _attention_weights(self, layer: str, name: str) -> dict[str, Weight]:
        inner = self.heads * self.head_dim
        weights = {f"{layer}.{name}.{part}.weight": Weight((inner, self.dim)) for part in "qkv"}
        return weights | {
            f"{layer}.{name}.o.weight": Weight((self.dim, inner)),
            f"{layer}.layer_norm.weight": Weight((self.dim,)),
        }

    def _feed_forward_weights(self, layer: str) -> dict[str, Weight]:
        return {
            f"{layer}.DenseReluDense.wi.weight": Weight((self.ffn_dim, self.dim)),
            f"{layer}.DenseReluDense.wo.weight": Weight((self.dim, self.ffn_dim)),
            f"{layer}.layer_norm.weight": Weight((self.dim,)),
        }

    def _crossings(self) -> list[str]:
        """The projections that make the keys and values of cross-attention, in the order of the caches."""
        layers = range(self.decoder_layers)
        return [f"{self.decoder_stem}.{i}.layer.1.EncDecAttention.{part}.weight" for i in layers for part in "kv"]

    def encode(self, weights: Mapping[str, Tensor], ids: Tensor, mask: Tensor, add: "Add") -> tuple[Tensor, ...]:
        """See `Host`."""
        bias = key_bias(mask) + self._both_ways(weights[TABLES["encoder"]], ids)
        # Sums over all layers are beyond what half types resolve, and float16 holds.
        x = F.embedding(ids, weights[WORDS]).float()
        for i in range(self.encoder_layers):
            layer = f"{self.encoder_stem}.{i}.layer"
            normed = self._normed(weights, f"{layer}.0", x)
            query, key, value = (self._heads(weights, f"{layer}.0.SelfAttention.{part}", normed) for part in "qkv")
            x = x + self._attended(weights, f"{layer}.0.SelfAttention", query, key, value, bias)
            x = x + self._feed_forward(weights, f"{layer}.1", x, add)
        x = rms_norm(x, weights["encoder.final_layer_norm.weight"], self.eps)
        return x, *(split_heads(linear(x, weights[name]), self.heads) for name in self._crossings())

    def decode(
        self, weights: Mapping[str, Tensor], ids: Tensor, encoder_mask: Tensor, past: Mapping[str, Tensor], add: "Add"
    ) -> tuple[Tensor, ...]:
        """See `Host`."""
        columns = past["past_key_values.0.decoder.key"].shape[2]
        bias = later_bias(columns, ids.shape[1], ids) + self._backwards(weights[TABLES["decoder"]], ids, columns)
        crossing = key_bias(encoder_mask)
        present: list[Tensor] = []
        x = F.embedding(ids, weights[WORDS]).float()
        for i in range(self.decoder_layers):
            layer, cache = f"{self.decoder_stem}.{i}.layer", f"past_key_values.{i}"
            normed = self._normed(weights, f"{layer}.0", x)
            query, key, value = (self._heads(weights, f"{layer}.0.SelfAttention.{part}", normed) for part in "qkv")
            key = with_past(past[f"{cache}.decoder.key"], key)
            value = with_past(past[f"{cache}.decoder.value"], value)
            present += [key, value]
            x = x + self._attended(weights, f"{layer}.0.SelfAttention", query, key, value, bias)
            query = self._heads(weights, f"{layer}.1.EncDecAttention.q", self._normed(weights, f"{layer}.1", x))
            seen = past[f"{cache}.encoder.key"], past[f"{cache}.encoder.value"]
            x = x + self._attended(weights, f"{layer}.1.EncDecAttention", query, *seen, crossing)
            x = x + self._feed_forward(weights, f"{layer}.2", x, add)
        x = rms_norm(x, weights["decoder.final_layer_norm.weight"], self.eps)
        return linear(x * self.dim**-0.5, weights[WORDS]), *present

    def _both_ways(self, table: Tensor, ids: Tensor) -> Tensor:
        """What the distances of columns add to scores, float32 [1,H,T,T]."""
        columns, last = torch.arange(ids.shape[1], device=ids.device), self.max_distance
        rows = columns[None, :] - columns[:, None] + last
        rows = torch.where(rows <= 2 * last, rows, 2 * last)
        return F.embedding(torch.where(rows <= 0, 0, rows), table).permute(2, 0, 1)[None]

    def _backwards(self, table: Tensor, ids: Tensor, past: int) -> Tensor:
        """The same of new columns [B,T] and those before them, float32 [1,H,T,P+T]. Those behind are masked."""
        columns = torch.arange(past + ids.shape[1], device=ids.device)
        rows = torch.arange(ids.shape[1], device=ids.device) + past
        back = rows[:, None] - columns[None, :]
        back = torch.where(back <= self.max_distance, back, self.max_distance)
        return F.embedding(torch.where(back <= 0, 0, back), table).permute(2, 0, 1)[None]

    def _normed(self, weights: Mapping[str, Tensor], layer: str, x: Tensor) -> Tensor:
        return rms_norm(x, weights[f"{layer}.layer_norm.weight"], self.eps)

    def _heads(self, weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
        return split_heads(linear(x, weights[f"{name}.weight"]), self.heads)

    def _attended(
        self, weights: Mapping[str, Tensor], name: str, query: Tensor, key: Tensor, value: Tensor, bias: Tensor
    ) -> Tensor:
        """`o(softmax(q k^T + bias) v)`"""
        return linear(attend(query, key, value, bias, scale=1.0), weights[f"{name}.o.weight"])

    def _feed_forward(self, weights: Mapping[str, Tensor], layer: str, x: Tensor, add: "Add") -> Tensor:
        """`add(n, wo relu(wi n))` of the normed rows n."""
        normed = self._normed(weights, layer, x)
        wide = F.relu(linear(normed, weights[f"{layer}.DenseReluDense.wi.weight"]))
        return add(normed, linear(wide, weights[f"{layer}.DenseReluDense.wo.weight"]))


def by_distance(table: Tensor, max_distance: int, side: str) -> Tensor:
    """The biases of buckets [buckets,H] by distance: of the decoder [max_distance + 1,H] for 0, 1, ... columns back, of
    the encoder [2 max_distance + 1,H] for max_distance columns back to as many ahead."""
    back = torch.arange(max_distance + 1)
    if side == "decoder":
        return table[_buckets(back, len(table), max_distance)]
    half = len(table) // 2
    near = _buckets(back, half, max_distance)
    return table[torch.cat([near.flip(0), near[1:] + half])]


def _buckets(distances: Tensor, count: int, max_distance: int) -> Tensor:
    """The bucket of each distance in one direction: the first half of them holds one distance each, the others grow to
    max_distance by a constant factor. float32 as in training, where a distance at a border is rounded by it."""
    exact = count // 2
    share = torch.log(distances.clamp_min(1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (share * (count - exact)).long()).clamp_max(count - 1)
    return torch.where(distances < exact, distances, far)
