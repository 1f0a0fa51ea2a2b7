"""Write a random APT-METER source in the official file format, of any size, to try the tool or to measure it.

    python -m memvp_export.examples.random_meter DIR [--task nlvr2] [--dim 96 --layers 2 ...]
    python -m memvp_export.examples.random_meter DIR --preset base     (RoBERTa-base, CLIP-ViT-B/16, 200 tokens a site)

The weights are random, so the answers mean nothing; they are scaled so that text, image and prompts all move them.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel

from .command_line import command_line
from .random_apt import (
    CHECKPOINT,
    TASKS,
    Shapes,
    head_sizes,
    random_state,
    save_lightning,
    site_shapes,
    with_biases,
    write_toml,
)

STREAMS = ("cross_modal_text", "cross_modal_image")


@dataclass(frozen=True)
class Sizes:
    """Sizes of a source; the defaults are odd on purpose, with three different widths. blocks are those of the file,
    without the last one of CLIP; grid is the side of the position table in patches; positions are RoBERTa's rows."""

    dim: int = 96
    layers: int = 2
    heads: int = 6
    ffn_dim: int = 160
    text_dim: int = 128
    text_layers: int = 2
    text_ffn_dim: int = 144
    vocab: int = 290
    positions: int = 18
    text_length: int = 14
    width: int = 64
    blocks: int = 2
    patch: int = 16
    grid: int = 3
    prompt_rows: int = 21
    rank: int = 3
    head_dim: int = 56
    classes: int = 37


PRESETS = {
    "odd": Sizes(),
    "wide-patches": Sizes(64, 1, 4, 96, 64, 1, 80, 270, 14, 12, 128, 1, 32, 2, 9, 4, 40, 2),
    "base": Sizes(768, 6, 12, 3072, 768, 12, 3072, 50265, 514, 50, 768, 11, 16, 24, 200, 4, 1536, 3129),
}


def write_source(folder: Path, sizes: Sizes, task: str = "vqa", seed: int = 0, scalar: str = "scale") -> Path:
    """Write checkpoint, vocabulary, labels (vqa) and model.toml below `folder`; returns the path of model.toml.

    scalar is the name of a site's factor: "scale", or "weight" as in the `_draw` modules of the official code.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = random_state(official_shapes(sizes, task, scalar), seed)
    state["text_transformer.embeddings.position_ids"] = torch.arange(sizes.positions)[None]
    save_lightning(folder / CHECKPOINT, state, {"num_heads": sizes.heads, "max_text_len": sizes.text_length})
    write_vocabulary(folder / "roberta", sizes.vocab, seed)
    return write_toml(folder, "apt-meter", task, "roberta", sizes.classes, "")


def write_vocabulary(folder: Path, size: int, seed: int = 0) -> None:
    """vocab.json and merges.txt of a byte-level BPE with `size` tokens, 261 at least: special ones, bytes, and random
    merges of letters and of what was merged before."""
    folder.mkdir(exist_ok=True)
    tokens = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet())])
    letters, parts, merges = random.Random(seed), [*"Ġabcdefghijklmnopqrstuvwxyz"], []
    while len(tokens) < size - 1:
        first, second = letters.choice(parts), letters.choice(parts[1:27])
        if first + second not in tokens:
            tokens[first + second] = None
            parts.append(first + second)
            merges.append(f"{first} {second}\n")
    tokens["<mask>"] = None
    ids = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(merges), encoding="utf-8")


def official_shapes(sizes: Sizes, task: str, scalar: str = "scale") -> Shapes:
    """Every tensor of a fine-tuned checkpoint under its official name (spec 5.5), with what it keeps of CLIP's text."""
    d, text, image = sizes.dim, sizes.text_dim, sizes.width
    shapes: Shapes = {
        "text_transformer.embeddings.word_embeddings.weight": (sizes.vocab, text),
        "text_transformer.embeddings.position_embeddings.weight": (sizes.positions, text),
        "text_transformer.embeddings.token_type_embeddings.weight": (1, text),
        "vit_model.positional_embedding": (77, 8),
        "vit_model.visual.conv1.weight": (image, 3, sizes.patch, sizes.patch),
        "vit_model.visual.class_embedding": (image,),
        "vit_model.visual.positional_embedding": (1 + sizes.grid**2, image),
        "token_type_embeddings.weight": (3 if task == "nlvr2" else 2, d),
        "token4classifier": (1, 1, d),
    }
    linears = {"text_transformer.pooler.dense": (text, text)}
    linears |= {f"{STREAMS[0]}_transform": (d, text), f"{STREAMS[1]}_transform": (d, image)}
    norms = {"text_transformer.embeddings.LayerNorm": text, "vit_model.ln_final": 8}
    norms |= {"vit_model.visual.ln_pre": image, "vit_model.visual.ln_post": image}
    for i in range(sizes.text_layers):
        layer = f"text_transformer.encoder.layer.{i}"
        linears |= _bert_linears(layer, ("attention",), text, sizes.text_ffn_dim)
        norms |= {f"{layer}.attention.output.LayerNorm": text, f"{layer}.output.LayerNorm": text}
    for i in range(sizes.blocks):
        block = f"vit_model.visual.transformer.resblocks.{i}"
        norms |= {f"{block}.ln_1": image, f"{block}.ln_2": image}
        linears |= {f"{block}.attn.out_proj": (image, image), f"{block}.mlp.c_fc": (4 * image, image)}
        linears |= {f"{block}.mlp.c_proj": (image, 4 * image)}
        shapes |= {f"{block}.attn.in_proj_weight": (3 * image, image), f"{block}.attn.in_proj_bias": (3 * image,)}
    for stream in STREAMS:
        linears |= {f"{stream}_pooler.dense": (d, d)}
        for i in range(sizes.layers):
            layer, parts = f"{stream}_layers.{i}", ("attention", "crossattention")
            linears |= _bert_linears(layer, parts, d, sizes.ffn_dim)
            norms |= {f"{layer}.output.LayerNorm": d}
            for part in parts:
                norms |= {f"{layer}.{part}.output.LayerNorm": d}
                shapes |= site_shapes(f"{layer}.{part}.output", sizes.prompt_rows, sizes.rank, d, scalar)
    head_linears, head_norms = head_sizes(task, 2 * d, sizes.head_dim, sizes.classes)
    return shapes | with_biases(linears | head_linears, norms | head_norms)


def _bert_linears(layer: str, attentions: tuple[str, ...], width: int, hidden: int) -> dict[str, tuple[int, int]]:
    linears = {f"{layer}.intermediate.dense": (hidden, width), f"{layer}.output.dense": (width, hidden)}
    for part in attentions:
        linears |= {f"{layer}.{part}.self.{name}": (width, width) for name in ("query", "key", "value")}
        linears[f"{layer}.{part}.output.dense"] = (width, width)
    return linears


def main() -> None:
    """Command line."""
    command_line(__doc__, PRESETS, write_source, TASKS)


if __name__ == "__main__":
    main()
