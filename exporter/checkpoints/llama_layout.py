"""What a LLaMA checkpoint is made of: names in both layouts, shapes, and the sizes that follow from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import InputError
from .lazy import LazyTensor
from .matching import count_numbered

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
NORM = "model.norm.weight"
GATE = "model.layers.0.mlp.gate_proj.weight"

# Hugging Face name -> Meta name (spec 1.9), inside `model.layers.N.` and `layers.N.`.
LAYER_NAMES = {
    "self_attn.q_proj.weight": "attention.wq.weight",
    "self_attn.k_proj.weight": "attention.wk.weight",
    "self_attn.v_proj.weight": "attention.wv.weight",
    "self_attn.o_proj.weight": "attention.wo.weight",
    "mlp.gate_proj.weight": "feed_forward.w1.weight",
    "mlp.down_proj.weight": "feed_forward.w2.weight",
    "mlp.up_proj.weight": "feed_forward.w3.weight",
    "input_layernorm.weight": "attention_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
}
OUTER_NAMES = {EMBEDDING: "tok_embeddings.weight", NORM: "norm.weight", HEAD: "output.weight"}


@dataclass(frozen=True)
class LlamaCheckpoint:
    """Sizes of a LLaMA and its weights under Hugging Face names, with Hugging Face's row order of q and k.

    dtype is that of the token embeddings. files are those that were read.
    """

    dim: int
    layers: int
    heads: int
    ffn_dim: int
    vocab: int
    norm_eps: float
    rope_theta: float
    dtype: torch.dtype
    weights: dict[str, LazyTensor]
    files: list[Path]


@dataclass(frozen=True)
class Sizes:
    """The sizes that tensor shapes show."""

    dim: int
    layers: int
    ffn_dim: int
    vocab: int


def shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Every tensor under its Hugging Face name."""
    d, hidden = sizes.dim, sizes.ffn_dim
    per_layer = {name: (d, d) for name in LAYER_NAMES if "self_attn" in name}
    per_layer |= {f"mlp.{name}_proj.weight": (hidden, d) for name in ("gate", "up")}
    per_layer |= {"mlp.down_proj.weight": (d, hidden)}
    norms: dict[str, tuple[int, ...]] = {name: (d,) for name in LAYER_NAMES if "layernorm" in name}
    expected: dict[str, tuple[int, ...]] = {EMBEDDING: (sizes.vocab, d)}
    for i in range(sizes.layers):
        expected |= {f"model.layers.{i}.{name}": shape for name, shape in (per_layer | norms).items()}
    return expected | {NORM: (d,), HEAD: (sizes.vocab, d)}


def meta_name(name: str) -> str:
    """The Meta name of a tensor with a Hugging Face name."""
    if name in OUTER_NAMES:
        return OUTER_NAMES[name]
    _, _, layer, part = name.split(".", 3)
    return f"layers.{layer}.{LAYER_NAMES[part]}"


def measured(
    found: Mapping[str, LazyTensor], embedding: str, gate: str, layer_prefix: str, claims: Mapping[str, int | None]
) -> Sizes:
    """Sizes from tensor shapes; a tensor that is absent leaves the claim, so that `match` can name it."""

    def size(name: str, axis: int, claim: str) -> int:
        shape = found[name].shape if name in found else ()
        return shape[axis] if len(shape) == 2 else claims[claim] or 1

    layers = count_numbered(found, layer_prefix)
    return Sizes(size(embedding, 1, "dim"), layers, size(gate, 0, "ffn_dim"), size(embedding, 0, "vocab"))


def check_claims(sizes: Sizes, claims: Mapping[str, int | None], keys: Mapping[str, str], config: Path) -> None:
    """InputError where the config file and the tensors disagree; `keys` are the config's words for the sizes."""
    wrong = [
        f"{keys[size]} is {claim}, the tensors have {getattr(sizes, size)}"
        for size, claim in claims.items()
        if claim is not None and claim != getattr(sizes, size)
    ]
    if wrong:
        raise InputError(f"{config} and the weights beside it are of different models: {'; '.join(wrong)}.")


def check_heads(sizes: Sizes, heads: int, config: Path) -> None:
    """InputError unless the heads divide the width into parts of even size, as rotary pairs need."""
    if sizes.dim % heads or sizes.dim // heads % 2:
        raise InputError(f"{config}: {heads} heads do not divide the width {sizes.dim} into parts of even size.")
