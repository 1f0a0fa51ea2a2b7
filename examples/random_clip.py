"""Write a random APT-CLIP source of any size, to try the tool or to measure it.

    python -m memvp_export.examples.random_clip DIR [--width 96 --layers 3 ...]
    python -m memvp_export.examples.random_clip DIR --preset base     (CLIP-ViT-B/32, 50 tokens at each image block)

The weights are random, so the answers mean nothing; they are scaled so that image, labels and prompts all move them.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel

from .command_line import command_line
from .random_apt import Shapes, random_state, site_shapes, with_biases

LABELS = ("cat", "dog", "aeroplane", "bowl of soup", "2 bicycles")
PROMPTS = "prompts.pth"


@dataclass(frozen=True)
class Sizes:
    """Sizes of a source; the defaults are odd on purpose. Names without `text_` are the image tower's; prompted blocks
    are counted from the first one, image_prompts and text_prompts of them; activation is of both towers."""

    width: int = 96
    layers: int = 3
    heads: int = 6
    ffn_dim: int = 160
    patch: int = 16
    grid: int = 3
    text_width: int = 80
    text_layers: int = 2
    text_heads: int = 5
    text_ffn_dim: int = 144
    vocab: int = 620
    positions: int = 40
    dim: int = 56
    prompt_rows: int = 21
    rank: int = 3
    image_prompts: int = 3
    text_prompts: int = 0
    activation: str = "quick_gelu"


PRESETS = {
    "odd": Sizes(),
    "both-towers": Sizes(64, 2, 1, 256, 8, 4, 64, 3, 1, 256, 530, 14, 40, 9, 4, 1, 2, "gelu"),
    "base": Sizes(768, 12, 12, 3072, 32, 7, 512, 12, 8, 2048, 49408, 77, 512, 50, 4, 12, 0),
}


def write_source(folder: Path, sizes: Sizes, seed: int = 0, labels: bool = True) -> Path:
    """Write a Hugging Face CLIP, its vocabulary, prompts, labels where they are wanted, and model.toml below `folder`;
    returns the path of model.toml."""
    base = folder / "clip"
    base.mkdir(parents=True, exist_ok=True)
    save_file(clip_state(sizes, seed), base / "model.safetensors")
    (base / "config.json").write_text(json.dumps(clip_config(sizes), indent=1))
    write_vocabulary(base, sizes.vocab, seed)
    torch.save({"state_dict": random_state(prompt_shapes(sizes), seed + 1)}, folder / PROMPTS)
    named = ""
    if labels:
        (folder / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
        named = 'labels = "labels.txt"\n'
    toml = folder / "model.toml"
    toml.write_text(
        f'family = "apt-clip"\n\n[files]\nbase = "clip"\ncheckpoint = "{PROMPTS}"\ntokenizer = "clip"\n{named}\n'
        "[options]\nmax_batch = 8\n"
    )
    return toml


def clip_state(sizes: Sizes, seed: int = 0) -> dict[str, torch.Tensor]:
    """Every tensor of a CLIPModel under Hugging Face's names, without prompts."""
    state = random_state(clip_shapes(sizes), seed)
    # Labels then differ by a few units of the logits.
    return state | {"logit_scale": torch.tensor(2.5)}


def clip_config(sizes: Sizes) -> dict[str, object]:
    """The config.json of the same."""
    text = {
        "hidden_size": sizes.text_width,
        "num_hidden_layers": sizes.text_layers,
        "num_attention_heads": sizes.text_heads,
        "intermediate_size": sizes.text_ffn_dim,
        "vocab_size": sizes.vocab,
        "max_position_embeddings": sizes.positions,
        "bos_token_id": sizes.vocab - 2,
        "eos_token_id": sizes.vocab - 1,
    }
    image = {
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.ffn_dim,
        "patch_size": sizes.patch,
        "image_size": sizes.patch * sizes.grid,
    }
    common = {"hidden_act": sizes.activation, "projection_dim": sizes.dim}
    return {
        "model_type": "clip",
        "projection_dim": sizes.dim,
        "text_config": {**text, **common},
        "vision_config": {**image, **common},
    }


def clip_shapes(sizes: Sizes) -> Shapes:
    """The shapes of `clip_state`, but for the scale."""
    d, t = sizes.width, sizes.text_width
    shapes: Shapes = {
        "vision_model.embeddings.class_embedding": (d,),
        "vision_model.embeddings.patch_embedding.weight": (d, 3, sizes.patch, sizes.patch),
        "vision_model.embeddings.position_embedding.weight": (1 + sizes.grid**2, d),
        "text_model.embeddings.token_embedding.weight": (sizes.vocab, t),
        "text_model.embeddings.position_embedding.weight": (sizes.positions, t),
        "visual_projection.weight": (sizes.dim, d),
        "text_projection.weight": (sizes.dim, t),
    }
    norms = {"vision_model.pre_layrnorm": d, "vision_model.post_layernorm": d, "text_model.final_layer_norm": t}
    linears: dict[str, tuple[int, int]] = {}
    for tower, layers, width, hidden in (
        ("vision_model", sizes.layers, d, sizes.ffn_dim),
        ("text_model", sizes.text_layers, t, sizes.text_ffn_dim),
    ):
        for i in range(layers):
            layer = f"{tower}.encoder.layers.{i}"
            norms |= {f"{layer}.layer_norm{number}": width for number in (1, 2)}
            linears |= {f"{layer}.self_attn.{part}_proj": (width, width) for part in ("q", "k", "v", "out")}
            linears |= {f"{layer}.mlp.fc1": (hidden, width), f"{layer}.mlp.fc2": (width, hidden)}
    return shapes | with_biases(linears, norms)


def prompt_shapes(sizes: Sizes) -> Shapes:
    """The trained tensors of every prompted block."""
    shapes: Shapes = {}
    for tower, blocks, width in (
        ("vision_model", sizes.image_prompts, sizes.width),
        ("text_model", sizes.text_prompts, sizes.text_width),
    ):
        for i in range(blocks):
            site = f"{tower}.encoder.layers.{i}.self_attn"
            shapes |= site_shapes(site, sizes.prompt_rows, sizes.rank, width, "scale")
    return shapes


def write_vocabulary(folder: Path, size: int, seed: int = 0) -> Path:
    """vocab.json and merges.txt of CLIP's byte-level BPE with `size` tokens, 515 at least: bytes, bytes that end a
    word, random merges of letters and of what was merged before, and start and end of text. Returns the folder."""
    folder.mkdir(exist_ok=True)
    letters = sorted(ByteLevel.alphabet())
    tokens = dict.fromkeys([*letters, *(f"{letter}</w>" for letter in letters)])
    choice, parts = random.Random(seed).choice, [*"abcdefghijklmnopqrstuvwxyz"]
    merges: list[str] = []
    ends = [*parts, *(f"{letter}</w>" for letter in parts)]
    while len(tokens) < size - 2:
        first, second = (choice(parts), choice(ends)) if merges else ("a", "b")
        if first + second not in tokens:
            tokens[first + second] = None
            merges.append(f"{first} {second}\n")
            if not second.endswith("</w>"):
                parts.append(first + second)
    tokens |= {"<|startoftext|>": None, "<|endoftext|>": None}
    ids = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(merges), encoding="utf-8")
    return folder


def main() -> None:
    """Command line."""
    command_line(__doc__, PRESETS, write_source)


if __name__ == "__main__":
    main()
