"""The official files of MemVP-LLaMA -> its config, weights and use (spec 1.6 and 1.8)."""

from collections.abc import Mapping
from typing import Any

from ..checkpoints.clip import ClipCheckpoint, read_clip_tower
from ..checkpoints.llama import LlamaCheckpoint, read_llama
from ..checkpoints.matching import match, require_pieces
from ..checkpoints.memvp_adapter import MemvpAdapter, read_memvp_adapter
from ..checkpoints.source import Source
from ..errors import InputError
from ..images import memvp_preprocessing
from ..tokenization import describe_sentencepiece
from .clip_tower import TowerConfig
from .family import Model, precision_of
from .memvp_llama import ACTIVATION, Config, components


def load(source: Source) -> Model:
    """Read the official files of `source` (keys base, vision, adapter, tokenizer) into a Model (spec 1.8)."""
    base = read_llama(source.files["base"])
    clip = read_clip_tower(source.files["vision"])
    adapter = read_memvp_adapter(source.files["adapter"], clip.blocks)
    trained = adapter.args.get("adapter_scale")
    used = source.options["adapter_scale"]
    notes = []
    if isinstance(trained, int | float) and trained != used:
        notes.append(f"the adapter was trained with adapter_scale {trained}, the option of this export is {used}")
    config = _config(base, clip, adapter, source.options)
    parts = components(config)
    found = {**base.weights, **clip.weights, **adapter.weights}
    expected = {name: weight.shape for part in parts for name, weight in part.weights.items()}
    last_block = f"visual.transformer.resblocks.{config.tower.blocks - 1}.*"
    tokenizer = {**describe_sentencepiece(source.files["tokenizer"]), "maximum": config.max_sequence}
    words = source.files["tokenizer"], config.vocab, source.files["base"]
    require_pieces(tokenizer["pieces"], *words, fewer=True)
    return Model(
        family=source.family,
        task=source.task,
        config=config,
        components=parts,
        weights=match(found, expected, "the MemVP-LLaMA source", ignored=(last_block,)),
        files={
            "base": base.files,
            "vision": clip.files,
            "adapter": adapter.files,
            "tokenizer": [source.files["tokenizer"]],
        },
        precision=precision_of(base.dtype),
        preprocessing=memvp_preprocessing(config.tower.image_size),
        tokenizer={**tokenizer, "prefix": source.options["text_prefix"]},
        tokenizer_files={"file": source.files["tokenizer"]},
        generation={"max_new_tokens": source.options["max_new_tokens"], "max_sequence": config.max_sequence},
        memory={
            "activation": ACTIVATION,
            "visual_rows": config.tower.rows,
            "table_rows": config.memory_rows,
            "scale": config.adapter_scale,
            "lambda": config.visual_scale,
            "folded": {"lambda": "vision", "indicator": "vision", "scale": "decoder, attribute of VisualMemoryFFN"},
        },
        options=dict(source.options),
        notes=notes,
    )


def _config(base: LlamaCheckpoint, clip: ClipCheckpoint, adapter: MemvpAdapter, options: Mapping[str, Any]) -> Config:
    for what, ours, whose, theirs in (
        ("hidden width", adapter.dim, "the LLaMA base", base.dim),
        ("image feature width", adapter.vision_width, "the CLIP tower", clip.width),
    ):
        if ours != theirs:
            raise InputError(f"the adapter was trained with a {what} of {ours}; {whose} has {theirs}. Wrong pair?")
    if clip.grid**2 > adapter.memory_rows:
        raise InputError(
            f"the CLIP tower gives {clip.grid**2} visual rows, the adapter's tables hold {adapter.memory_rows}. "
            "Wrong pair?"
        )
    return Config(
        tower=TowerConfig(
            clip.width, clip.blocks, clip.patch, clip.grid, adapter.adapter_dim, float(options["clip_adapter_scale"])
        ),
        dim=base.dim,
        layers=base.layers,
        heads=base.heads,
        ffn_dim=base.ffn_dim,
        vocab=base.vocab,
        norm_eps=base.norm_eps,
        rope_theta=base.rope_theta,
        projector_dim=adapter.projector_dim,
        memory_rows=adapter.memory_rows,
        adapter_scale=float(options["adapter_scale"]),
        visual_scale=float(options["visual_scale"]),
        max_sequence=options["max_sequence"],
        max_batch=options["max_batch"],
    )
