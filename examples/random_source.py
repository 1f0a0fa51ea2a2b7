"""Write a random MemVP-LLaMA source in the official file formats, of any size, to try the tool or to measure it.

    python -m memvp_export.examples.random_source DIR [--dim 96 --layers 3 --heads 6 --vocab 150 ...]
    python -m memvp_export.examples.random_source DIR --preset 7b        (13.5 GB, float16)

The weights are random, so the answers mean nothing; they are scaled so that activations stay of order one and the
image moves every logit. Memory stays at the largest tensor, whatever the size.
"""

import argparse
import json
import os
import random
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ..exporter.errors import InputError
from .command_line import command_line


def meta_ffn_dim(dim: int, multiple_of: int) -> int:
    """Meta's rule for the width of LLaMA's FFN: two thirds of 4 d, rounded up. InputError for a multiple of 0."""
    if not multiple_of:
        raise InputError("the width of the FFN is a multiple of 0.")
    return -(-int(2 * 4 * dim / 3) // multiple_of) * multiple_of


@dataclass(frozen=True)
class Sizes:
    """Sizes of a source; the defaults are odd on purpose."""

    dim: int = 96
    layers: int = 3
    heads: int = 6
    multiple_of: int = 32
    vocab: int = 150
    memory_rows: int = 290
    projector_dim: int = 24
    tower_width: int = 64
    tower_blocks: int = 3
    patch: int = 14
    grid: int = 16
    adapter_dim: int = 12

    @property
    def ffn_dim(self) -> int:
        """See `meta_ffn_dim`."""
        return meta_ffn_dim(self.dim, self.multiple_of)


PRESETS = {
    "odd": Sizes(),
    "7b": Sizes(4096, 32, 32, 256, 32000, 320, 128, 1024, 24, 14, 16, 12),
    "13b": Sizes(5120, 40, 40, 256, 32000, 400, 128, 1024, 24, 14, 16, 12),
}

Shapes = dict[str, tuple[int, ...]]


def write_source(folder: Path, sizes: Sizes, seed: int = 0, dtype: torch.dtype = torch.float16) -> Path:
    """Write base, tower, adapter, tokenizer and model.toml below `folder`; returns the path of model.toml."""
    base = folder / "weights" / "base"
    base.mkdir(parents=True, exist_ok=True)
    params = {
        "dim": sizes.dim,
        "multiple_of": sizes.multiple_of,
        "n_heads": sizes.heads,
        "n_layers": sizes.layers,
        "norm_eps": 1e-6,
        "vocab_size": -1,
    }
    (base / "params.json").write_text(json.dumps(params))
    generator = torch.Generator().manual_seed(seed)
    _save(base / "consolidated.00.pth", llama_shapes(sizes), dtype, generator)
    _save(folder / "ViT.pt", tower_shapes(sizes), torch.float16, generator)
    adapter = {name: random_values(name, shape, generator) for name, shape in adapter_shapes(sizes).items()}
    torch.save(
        {
            "model": {f"module.{name}": tensor for name, tensor in adapter.items()},
            "optimizer": {"state": {}, "param_groups": []},
            "epoch": 19,
            "scaler": {},
            "args": argparse.Namespace(adapter_scale=0.1, emb=sizes.memory_rows, max_seq_len=512),
        },
        folder / "checkpoint-19.pth",
    )
    train_tokenizer(folder / "weights" / "tokenizer.model", sizes.vocab)
    toml = folder / "model.toml"
    toml.write_text(
        'family = "memvp-llama"\ntask = "vqa"\n\n[files]\nbase = "weights/base"\nvision = "ViT.pt"\n'
        'adapter = "checkpoint-19.pth"\ntokenizer = "weights/tokenizer.model"\n\n[options]\nmax_new_tokens = 4\n'
    )
    return toml


def llama_shapes(sizes: Sizes) -> Shapes:
    """Meta's names (spec 1.8)."""
    d, hidden = sizes.dim, sizes.ffn_dim
    shapes: Shapes = {"tok_embeddings.weight": (sizes.vocab, d), "norm.weight": (d,), "output.weight": (sizes.vocab, d)}
    for i in range(sizes.layers):
        layer = f"layers.{i}"
        shapes |= {f"{layer}.attention.w{n}.weight": (d, d) for n in "qkvo"}
        shapes |= {
            f"{layer}.feed_forward.w1.weight": (hidden, d),
            f"{layer}.feed_forward.w2.weight": (d, hidden),
            f"{layer}.feed_forward.w3.weight": (hidden, d),
            f"{layer}.attention_norm.weight": (d,),
            f"{layer}.ffn_norm.weight": (d,),
        }
    return shapes


def tower_shapes(sizes: Sizes) -> Shapes:
    """OpenAI's names, the skipped last block and the unused projection included."""
    d = sizes.tower_width
    shapes: Shapes = {
        "visual.conv1.weight": (d, 3, sizes.patch, sizes.patch),
        "visual.class_embedding": (d,),
        "visual.positional_embedding": (1 + sizes.grid**2, d),
        "visual.proj": (d, 48),
    }
    norms = ["visual.ln_pre", "visual.ln_post"]
    for i in range(sizes.tower_blocks):
        block = f"visual.transformer.resblocks.{i}"
        norms += [f"{block}.ln_1", f"{block}.ln_2"]
        shapes |= {
            f"{block}.attn.in_proj_weight": (3 * d, d),
            f"{block}.attn.in_proj_bias": (3 * d,),
            f"{block}.attn.out_proj.weight": (d, d),
            f"{block}.attn.out_proj.bias": (d,),
            f"{block}.mlp.c_fc.weight": (4 * d, d),
            f"{block}.mlp.c_fc.bias": (4 * d,),
            f"{block}.mlp.c_proj.weight": (d, 4 * d),
            f"{block}.mlp.c_proj.bias": (d,),
        }
    return shapes | {f"{norm}.{kind}": (d,) for norm in norms for kind in ("weight", "bias")}


def adapter_shapes(sizes: Sizes) -> Shapes:
    """MemVP's trained tensors, the dead ones included (spec 1.8)."""
    d, width, r = sizes.dim, sizes.tower_width, sizes.adapter_dim
    shapes: Shapes = {
        "adapter_emb1": (1, sizes.memory_rows, d),
        "adapter_emb2": (1, sizes.memory_rows, d),
        "adapter_proj.fc1.weight": (sizes.projector_dim, width),
        "adapter_proj.fc1.bias": (sizes.projector_dim,),
        "adapter_proj.fc2.weight": (d, sizes.projector_dim),
        "adapter_proj.fc2.bias": (d,),
        "adapter_modality_embedding.weight": (2, d),
    }
    for i in range(sizes.tower_blocks):
        adapter = f"backbone.visual.transformer.resblocks.{i}.adapter_mlp"
        shapes |= {f"{adapter}.fc1.weight": (r, width), f"{adapter}.fc2.weight": (width, r)}
    return shapes


def random_noise(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Numbers of mean 0 and variance 1. InputError for the shape of a tensor that would hold none."""
    if min(shape, default=1) < 1:
        raise InputError(f"{name} would have the shape {list(shape)}.")
    return torch.randn(shape, generator=generator)


def random_values(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """A tensor of this name and shape, so scaled that activations stay of order one and the image moves the answer."""
    noise = random_noise(name, shape, generator)
    if name.endswith(("norm.weight", "ln_1.weight", "ln_2.weight", "ln_pre.weight", "ln_post.weight")):
        return 1 + 0.1 * noise
    if name == "adapter_proj.fc2.weight":
        # Undoes lambda = 0.01, so that visual rows are about as long as table rows.
        return noise * 250 / (shape[0] * shape[1]) ** 0.5
    if name.startswith("adapter_emb"):
        # Longer rows would feed on their own output from layer to layer, beyond what fp16 holds at 4096 columns.
        return noise / shape[-1] ** 0.5
    if len(shape) < 2 or name.startswith(("tok_embeddings", "visual.pos")):
        return 0.1 * noise
    return noise / (noise[0].numel() ** 0.5)


def _save(path: Path, shapes: Shapes, dtype: torch.dtype, generator: torch.Generator) -> None:
    """torch.save of a file whose tensors are made one at a time: first its layout, then the values in place."""
    kinds = {name: torch.float32 if ".ln_" in name else dtype for name in shapes}
    with FakeTensorMode():
        tensors = {name: torch.empty(shape, dtype=kinds[name]) for name, shape in shapes.items()}
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(tensors, path)
    with path.open("r+b") as file:
        for (name, shape), offset in zip(shapes.items(), _storage_offsets(path), strict=True):
            file.seek(offset)
            for part in _row_blocks(name, shape, generator):
                file.write(part.to(kinds[name]).contiguous().view(-1).view(torch.uint8).numpy().data)


def _row_blocks(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Iterator[torch.Tensor]:
    step = max(1, (32 << 20) // max(1, torch.Size(shape[1:]).numel()))
    for start in range(0, shape[0], step):
        yield random_values(name, (min(step, shape[0] - start), *shape[1:]), generator)


def _storage_offsets(path: Path) -> list[int]:
    """Where the data of storage 0, 1, ... begins in a file of torch.save."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        entries = {int(i.filename.rsplit("/", 1)[1]): i for i in archive.infolist() if "/data/" in i.filename}
        offsets = []
        for _, entry in sorted(entries.items()):
            file.seek(entry.header_offset + 26)
            lengths = file.read(4)
            name, extra = int.from_bytes(lengths[:2], "little"), int.from_bytes(lengths[2:], "little")
            offsets.append(entry.header_offset + 30 + name + extra)
    return offsets


def train_tokenizer(path: Path, vocab: int, **others: Any) -> None:
    """A sentencepiece model of exactly `vocab` pieces, LLaMA's special ids (unknown 0, begin 1, end 2). others are
    options of the trainer in place of these."""
    import sentencepiece

    # Enough different words that the trainer finds as many pieces as asked for.
    letters = random.Random(0)
    words = ["".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=letters.randint(2, 7))) for _ in range(8 * vocab)]
    words += ["What", "is", "in", "the", "picture", "Question:", "Context:", "Options:", "Response:", "(A)", "(B)"] * 40
    text = Path(os.fspath(path) + ".txt")
    text.write_text("\n".join(" ".join(words[i : i + 12]) for i in range(0, len(words), 12)))
    try:
        ids = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
        sentencepiece.SentencePieceTrainer.train(
            input=str(text),
            model_prefix=os.fspath(path.with_suffix("")),
            vocab_size=vocab,
            minloglevel=2,
            **{"model_type": "bpe", "byte_fallback": vocab > 400, **ids, **others},
        )
    except RuntimeError as error:
        raise InputError(f"the tokenizer cannot be trained to {vocab} pieces.") from error
    finally:
        text.unlink()
        path.with_suffix(".vocab").unlink(missing_ok=True)


def main() -> None:
    """Command line."""
    command_line(__doc__, PRESETS, write_source, dtypes=("float16", "bfloat16", "float32"))


if __name__ == "__main__":
    main()
