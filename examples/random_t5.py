"""Write a random MemVP-T5 source in the official file formats, of any size, to try the tool or to measure it.

    python -m memvp_export.examples.random_t5 DIR [--task caption] [--dim 96 --layers 3 ...]
    python -m memvp_export.examples.random_t5 DIR --preset base     (T5-base, 36 rows of 2048 features)

The weights are random, so the answers mean nothing; they are scaled so that text and image both move them. Beside the
model lie features of two images that do not exist: `memvp-export run BUNDLE --image DIR/first.npy --text ...`.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from .command_line import command_line
from .random_apt import Shapes, random_state
from .random_encoder_decoder import BASE_MEMORY, TASKS, MemorySizes, write_base, write_memory
from .random_source import train_tokenizer

# T5's special ids.
PAD, EOS, UNKNOWN = range(3)


@dataclass(frozen=True)
class Sizes(MemorySizes):
    """Sizes of a source; the defaults are odd on purpose. pieces are the tokenizer's, behind which the vocabulary has
    ids that are in no text."""

    dim: int = 60
    layers: int = 1
    decoder_layers: int = 2
    heads: int = 5
    head_dim: int = 16
    ffn_dim: int = 88
    pieces: int = 120
    vocab: int = 150
    buckets: int = 8
    max_distance: int = 12


PRESETS = {
    "odd": Sizes(),
    "base": Sizes(
        **BASE_MEMORY,
        dim=768,
        layers=12,
        decoder_layers=12,
        heads=12,
        head_dim=64,
        ffn_dim=3072,
        pieces=32000,
        vocab=32128,
        buckets=32,
        max_distance=128,
    ),
}


def write_source(folder: Path, sizes: Sizes, task: str = "vqa", seed: int = 0) -> Path:
    """Write base, adapter, tokenizer, features of two images and model.toml below `folder`; returns the path of
    model.toml."""
    state = {name: _scaled(name, tensor, sizes) for name, tensor in random_state(t5_shapes(sizes), seed).items()}
    base = write_base(folder, state, t5_config(sizes))
    ids = {"pad_id": PAD, "eos_id": EOS, "unk_id": UNKNOWN, "bos_id": -1}
    train_tokenizer(base / "spiece.model", sizes.pieces, model_type="unigram", byte_fallback=False, **ids)
    return write_memory(folder, "memvp-t5", task, "base/spiece.model", sizes.dim, sizes, seed)


def _scaled(name: str, tensor: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    """Distinct attention, and words that do not ask for themselves: one matrix serves words and, divided by sqrt(dim),
    logits. T5 has no factor between queries and scores: its weights hold it."""
    scales = {
        "shared.weight": sizes.dim**0.5 / 8,
        ".q.weight": 4 / sizes.head_dim**0.5,
        ".o.weight": 2.0,
        "attention_bias.weight": 3.0,
    }
    return tensor * next((scale for end, scale in scales.items() if name.endswith(end)), 1.0)


def t5_config(sizes: Sizes) -> dict[str, object]:
    """config.json with what the one of t5-base says."""
    return {
        "model_type": "t5",
        "architectures": ["T5WithLMHeadModel"],
        "d_model": sizes.dim,
        "d_kv": sizes.head_dim,
        "d_ff": sizes.ffn_dim,
        "num_layers": sizes.layers,
        "num_decoder_layers": sizes.decoder_layers,
        "num_heads": sizes.heads,
        "relative_attention_num_buckets": sizes.buckets,
        "relative_attention_max_distance": sizes.max_distance,
        "layer_norm_epsilon": 1e-6,
        "vocab_size": sizes.vocab,
        "is_encoder_decoder": True,
        "pad_token_id": PAD,
        "eos_token_id": EOS,
        "decoder_start_token_id": PAD,
    }


def t5_shapes(sizes: Sizes) -> Shapes:
    """The names of a T5ForConditionalGeneration."""
    d, inner = sizes.dim, sizes.heads * sizes.head_dim
    shapes: Shapes = {"shared.weight": (sizes.vocab, d)}
    for side, layers, attentions in (
        ("encoder", sizes.layers, ("SelfAttention",)),
        ("decoder", sizes.decoder_layers, ("SelfAttention", "EncDecAttention")),
    ):
        table = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        shapes |= {table: (sizes.buckets, sizes.heads), f"{side}.final_layer_norm.weight": (d,)}
        for i in range(layers):
            for number, attention in enumerate(attentions):
                layer = f"{side}.block.{i}.layer.{number}"
                shapes |= {f"{layer}.{attention}.{part}.weight": (inner, d) for part in "qkv"}
                shapes |= {f"{layer}.{attention}.o.weight": (d, inner), f"{layer}.layer_norm.weight": (d,)}
            layer = f"{side}.block.{i}.layer.{len(attentions)}"
            shapes |= {
                f"{layer}.DenseReluDense.wi.weight": (sizes.ffn_dim, d),
                f"{layer}.DenseReluDense.wo.weight": (d, sizes.ffn_dim),
                f"{layer}.layer_norm.weight": (d,),
            }
    return shapes


def main() -> None:
    """Command line."""
    command_line(__doc__, PRESETS, write_source, TASKS)


if __name__ == "__main__":
    main()
