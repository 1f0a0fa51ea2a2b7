"""Write a random APT-ViLT source in the official file format, of any size, to try the tool or to measure it.

    python -m memvp_export.examples.random_vilt DIR [--task nlvr2] [--dim 96 --blocks 3 ...]
    python -m memvp_export.examples.random_vilt DIR --preset base        (ViLT-B/32 with 200 tokens a site)

The weights are random, so the answers mean nothing; they are scaled so that text, image and prompts all move them.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import torch

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

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Sizes:
    """Sizes of a source; the defaults are odd on purpose. side and width are those of the input in patches."""

    dim: int = 96
    blocks: int = 3
    heads: int = 6
    ffn_dim: int = 160
    vocab: int = 130
    text_length: int = 14
    patch: int = 16
    grid: int = 5
    prompt_rows: int = 21
    rank: int = 3
    head_dim: int = 56
    classes: int = 37
    rows: int = 4
    columns: int = 6
    shorter: int = 64


PRESETS = {
    "odd": Sizes(),
    "base": Sizes(768, 12, 12, 3072, 30522, 40, 32, 12, 200, 4, 1536, 3129, 12, 16, 384),
}


def write_source(folder: Path, sizes: Sizes, task: str = "vqa", seed: int = 0, scalar: str = "scale") -> Path:
    """Write checkpoint, vocabulary, labels (vqa) and model.toml below `folder`; returns the path of model.toml.

    scalar is the name of a site's factor: "scale", or "weight" as in the `_draw` modules of the official code.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = random_state(official_shapes(sizes, task, scalar), seed)
    state["text_embeddings.position_ids"] = torch.arange(sizes.text_length)[None]
    save_lightning(folder / CHECKPOINT, state, {"num_heads": sizes.heads, "image_size": sizes.shorter})
    letters = random.Random(seed)
    words: dict[str, None] = dict.fromkeys(SPECIAL)
    while len(words) < sizes.vocab:
        words["".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=letters.randint(1, 4)))] = None
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    size = f"[{sizes.rows * sizes.patch}, {sizes.columns * sizes.patch}]"
    options = f'image_size = {size}\ntext_prefix = ""\n'
    return write_toml(folder, "apt-vilt", task, "vocab.txt", sizes.classes, options)


def official_shapes(sizes: Sizes, task: str, scalar: str = "scale") -> Shapes:
    """Every tensor of a fine-tuned checkpoint under its official name (spec 4.4)."""
    d = sizes.dim
    shapes: Shapes = {
        "token4classifier": (1, 1, d),
        "text_embeddings.word_embeddings.weight": (sizes.vocab, d),
        "text_embeddings.position_embeddings.weight": (sizes.text_length, d),
        "text_embeddings.token_type_embeddings.weight": (2, d),
        "token_type_embeddings.weight": (3 if task == "nlvr2" else 2, d),
        "transformer.cls_token": (1, 1, d),
        "transformer.pos_embed": (1, 1 + sizes.grid**2, d),
        "transformer.patch_embed.proj.weight": (d, 3, sizes.patch, sizes.patch),
        "transformer.patch_embed.proj.bias": (d,),
    }
    linears = {"pooler.dense": (d, d)}
    norms = {"text_embeddings.LayerNorm": d, "transformer.norm": d}
    for i in range(sizes.blocks):
        block = f"transformer.blocks.{i}"
        norms |= {f"{block}.norm1": d, f"{block}.norm2": d}
        linears |= {f"{block}.attn.qkv": (3 * d, d), f"{block}.attn.proj": (d, d)}
        linears |= {f"{block}.mlp.fc1": (sizes.ffn_dim, d), f"{block}.mlp.fc2": (d, sizes.ffn_dim)}
        shapes |= site_shapes(f"{block}.attn", sizes.prompt_rows, sizes.rank, d, scalar)
    head_linears, head_norms = head_sizes(task, d, sizes.head_dim, sizes.classes)
    return shapes | with_biases(linears | head_linears, norms | head_norms)


def main() -> None:
    """Command line."""
    command_line(__doc__, PRESETS, write_source, TASKS)


if __name__ == "__main__":
    main()
