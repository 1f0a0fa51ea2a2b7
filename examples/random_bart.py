"""Write a random MemVP-BART source in the official file formats, of any size, to try the tool or to measure it.

    python -m memvp_export.examples.random_bart DIR [--task caption] [--dim 96 --layers 3 ...]
    python -m memvp_export.examples.random_bart DIR --preset base     (BART-base, 36 rows of 2048 features)

The weights are random, so the answers mean nothing; they are scaled so that text and image both move them. Beside the
model lie features of two images that do not exist: `memvp-export run BUNDLE --image DIR/first.npy --text ...`.
"""

from dataclasses import dataclass
from pathlib import Path

from .command_line import command_line
from .random_apt import Shapes, random_state, with_biases
from .random_encoder_decoder import BASE_MEMORY, TASKS, MemorySizes, write_base, write_memory
from .random_meter import write_vocabulary


@dataclass(frozen=True)
class Sizes(MemorySizes):
    """Sizes of a source; the defaults are odd on purpose. positions are the longest text."""

    dim: int = 80
    layers: int = 1
    decoder_layers: int = 2
    heads: int = 5
    ffn_dim: int = 88
    vocab: int = 290
    positions: int = 40


PRESETS = {
    "odd": Sizes(),
    "base": Sizes(
        **BASE_MEMORY, dim=768, layers=6, decoder_layers=6, heads=12, ffn_dim=3072, vocab=50265, positions=1024
    ),
}


def write_source(folder: Path, sizes: Sizes, task: str = "vqa", seed: int = 0) -> Path:
    """Write base, adapter, tokenizer, features of two images and model.toml below `folder`; returns the path of
    model.toml."""
    state = random_state(bart_shapes(sizes), seed)
    # One matrix serves words and logits: its rows must not be longer than 1.
    state["shared.weight"] /= 4
    base = write_base(folder, state, bart_config(sizes))
    write_vocabulary(base, sizes.vocab, seed)
    return write_memory(folder, "memvp-bart", task, "base", sizes.dim, sizes, seed)


def bart_config(sizes: Sizes) -> dict[str, object]:
    """config.json with what the one of bart-base says, its rules of generation among it."""
    return {
        "model_type": "bart",
        "architectures": ["BartModel"],
        "activation_function": "gelu",
        "d_model": sizes.dim,
        "encoder_layers": sizes.layers,
        "decoder_layers": sizes.decoder_layers,
        "encoder_attention_heads": sizes.heads,
        "decoder_attention_heads": sizes.heads,
        "encoder_ffn_dim": sizes.ffn_dim,
        "decoder_ffn_dim": sizes.ffn_dim,
        "max_position_embeddings": sizes.positions,
        "vocab_size": sizes.vocab,
        "normalize_before": False,
        "scale_embedding": False,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
        "no_repeat_ngram_size": 3,
        "early_stopping": True,
        "num_beams": 4,
    }


def bart_shapes(sizes: Sizes) -> Shapes:
    """The names of a BartModel, as bart-base has them."""
    d = sizes.dim
    shapes: Shapes = {"shared.weight": (sizes.vocab, d)}
    linears: dict[str, tuple[int, int]] = {}
    norms: dict[str, int] = {}
    for side, layers, parts in (
        ("encoder", sizes.layers, ("self_attn",)),
        ("decoder", sizes.decoder_layers, ("self_attn", "encoder_attn")),
    ):
        shapes[f"{side}.embed_positions.weight"] = (sizes.positions + 2, d)
        norms[f"{side}.layernorm_embedding"] = d
        for i in range(layers):
            layer = f"{side}.layers.{i}"
            linears |= {f"{layer}.{part}.{name}_proj": (d, d) for part in parts for name in ("q", "k", "v", "out")}
            linears |= {f"{layer}.fc1": (sizes.ffn_dim, d), f"{layer}.fc2": (d, sizes.ffn_dim)}
            norms |= {f"{layer}.{part}_layer_norm": d for part in (*parts, "final")}
    return shapes | with_biases(linears, norms)


def main() -> None:
    """Command line."""
    command_line(__doc__, PRESETS, write_source, TASKS)


if __name__ == "__main__":
    main()
