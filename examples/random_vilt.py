"""Write a random APT-ViLT source in the official file format, of any size, to try the tool or to measure it.

    python -m memvp_export.examples.random_vilt DIR [--task nlvr2] [--dim 96 --blocks 3 ...]
    python -m memvp_export.examples.random_vilt DIR --preset base        (ViLT-B/32 with 200 tokens a site)

The weights are random, so the answers mean nothing; they are scaled so that text, image and prompts all move them.
"""

import argparse
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import torch

TASKS = ("vqa", "nlvr2", "irtr")
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
    generator = torch.Generator().manual_seed(seed)
    state = {name: _values(name, shape, generator) for name, shape in official_shapes(sizes, task, scalar).items()}
    state["text_embeddings.position_ids"] = torch.arange(sizes.text_length)[None]
    save_lightning(folder / "epoch=9-step=99.ckpt", state, {"num_heads": sizes.heads, "image_size": sizes.shorter})
    letters = random.Random(seed)
    words: dict[str, None] = dict.fromkeys(SPECIAL)
    while len(words) < sizes.vocab:
        words["".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=letters.randint(1, 4)))] = None
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    labels = ""
    if task == "vqa":
        (folder / "answers.json").write_text(json.dumps({"id2label": {i: f"answer {i}" for i in range(sizes.classes)}}))
        labels = 'labels = "answers.json"\n'
    toml = folder / "model.toml"
    toml.write_text(
        f'family = "apt-vilt"\ntask = "{task}"\n\n[files]\ncheckpoint = "epoch=9-step=99.ckpt"\n'
        f'tokenizer = "vocab.txt"\n{labels}\n[options]\n'
        f'image_size = [{sizes.rows * sizes.patch}, {sizes.columns * sizes.patch}]\ntext_prefix = ""\nmax_batch = 8\n'
    )
    return toml


def save_lightning(path: Path, state: dict[str, torch.Tensor], config: dict[str, object]) -> None:
    """A file as Lightning 1.1 leaves it: `callbacks` is keyed by a class of Lightning itself."""
    names = ("pytorch_lightning", "pytorch_lightning.callbacks", "pytorch_lightning.callbacks.model_checkpoint")
    modules = {name: ModuleType(name) for name in names}
    callback = type("ModelCheckpoint", (), {"__module__": names[-1]})
    vars(modules[names[-1]])["ModelCheckpoint"] = callback
    content = {
        "epoch": 9,
        "global_step": 99,
        "pytorch-lightning_version": "1.1.4",
        "callbacks": {callback: {"best_model_score": torch.tensor(0.7), "best_model_path": "epoch=9.ckpt"}},
        "optimizer_states": [],
        "lr_schedulers": [],
        "state_dict": state,
        "hparams_name": "kwargs",
        "hyper_parameters": {"config": {"exp_name": "finetune", "max_image_len": -1, **config}, "trainable": ["APT"]},
    }
    # Lightning itself need not be here.
    with patch.dict(sys.modules, modules):
        torch.save(content, path)


def official_shapes(sizes: Sizes, task: str, scalar: str = "scale") -> dict[str, tuple[int, ...]]:
    """Every tensor of a fine-tuned checkpoint under its official name (spec 4.4)."""
    d = sizes.dim
    shapes: dict[str, tuple[int, ...]] = {
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
        shapes |= {
            f"{block}.attn.APT.mm_tokens": (sizes.prompt_rows, d),
            f"{block}.attn.APT.mm.0.weight": (sizes.rank, d),
            f"{block}.attn.APT.mm.1.weight": (d, sizes.rank),
            f"{block}.attn.APT.{scalar}": (1,),
        }
    if task == "irtr":
        linears |= {"rank_output": (1, d), "itm_score.fc": (2, d)}
    else:
        head, width, classes = ("vqa_classifier", d, sizes.classes) if task == "vqa" else ("nlvr2_classifier", 2 * d, 2)
        norms[f"{head}.1"] = sizes.head_dim
        linears |= {f"{head}.0": (sizes.head_dim, width), f"{head}.3": (classes, sizes.head_dim)}
    for name, (rows, columns) in linears.items():
        shapes |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    for name, width in norms.items():
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return shapes


def _values(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    if len(shape) == 1 and name.endswith((".1.weight", "norm.weight", "norm1.weight", "norm2.weight", "Norm.weight")):
        return 1 + 0.1 * noise
    if name.endswith(("APT.scale", "APT.weight")):
        return 0.3 + 0.1 * noise
    if name.endswith("mm_tokens"):
        # A row's score is then of order one half, and the lookup about as long as the attention it is added to.
        return 0.5 * noise / shape[-1] ** 0.5
    if len(shape) < 2:
        return 0.1 * noise
    if "embed" in name and not name.endswith("proj.weight"):
        return noise
    return noise / (noise[0].numel() ** 0.5)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="odd")
    parser.add_argument("--task", choices=TASKS, default="vqa")
    parser.add_argument("--seed", type=int, default=0)
    for name in Sizes.__dataclass_fields__:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int)
    args = vars(parser.parse_args())
    folder, preset, task, seed = (args.pop(name) for name in ("folder", "preset", "task", "seed"))
    chosen = {name: value for name, value in args.items() if value is not None}
    print(write_source(folder, Sizes(**{**vars(PRESETS[preset]), **chosen}), task, seed))


if __name__ == "__main__":
    main()
