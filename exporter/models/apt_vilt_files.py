"""The official files of APT-ViLT -> its config, weights and use (spec 4.2 and 4.4)."""

from collections.abc import Mapping
from typing import Any

import torch

from ..checkpoints.lazy import LazyTensor
from ..checkpoints.lightning import LightningCheckpoint, read_lightning
from ..checkpoints.matching import count_numbered, match, some
from ..checkpoints.source import Source
from ..errors import InputError
from ..images import pixelbert_preprocessing
from ..labels import read_labels
from ..wordpiece import describe_wordpiece
from . import apt
from .apt_vilt import HEADS, PROJECTION, Config, components
from .family import Model

RELEASED_PREFIX = "Does the images satisfy the description:"
NLVR2_LABELS = ["False", "True"]
# Width of one head in the ViT that ViLT starts from, where the checkpoint does not say how many there are.
HEAD_WIDTH = 64
_PRECISIONS = {torch.float16: "fp16", torch.bfloat16: "bf16"}
_UNUSED = (
    "text_embeddings.position_ids",
    *("mlm_score.*", "itm_score.*", "mpp_score.*", "snli_classifier.*", "vgqa_classifier.*"),
    *(f"{head}.*" for head in HEADS.values()),
)


def load(source: Source) -> Model:
    """Read the official files of `source` (keys checkpoint, tokenizer, and labels for vqa) into a Model."""
    path, options = source.files["checkpoint"], source.options
    checkpoint = read_lightning(path)
    found = _renamed(checkpoint.weights)
    if not any(".APT." in name for name in found):
        raise InputError(
            f"{path} holds no prompts of APT (transformer.blocks.N.attn.APT.mm_tokens). Give the checkpoint that APT's "
            "training wrote, not the ViLT it started from."
        )
    config = _config(found, checkpoint, source)
    official = match(found, official_shapes(config, found), str(path), ignored=_UNUSED)
    tokenizer = describe_wordpiece(source.files["tokenizer"])
    if tokenizer["pieces"] != config.vocab:
        raise InputError(
            f"{source.files['tokenizer']} has {tokenizer['pieces']} pieces, the model in {path} embeds {config.vocab}: "
            "they do not belong together."
        )
    files = {"checkpoint": checkpoint.files, "tokenizer": [source.files["tokenizer"]]}
    labels = NLVR2_LABELS if source.task == "nlvr2" else None
    if "labels" in source.files:
        if source.task != "vqa":
            raise InputError(f"labels name the answers of vqa; {source.task} has none.")
        labels, files["labels"] = read_labels(source.files["labels"], config.classes), [source.files["labels"]]
    rank = official["transformer.blocks.0.attn.APT.mm.0.weight"].shape[0]
    return Model(
        family="apt-vilt",
        task=source.task,
        config=config,
        components=components(config),
        weights=folded(official, config),
        unfolded=official,
        files=files,
        precision=_PRECISIONS.get(official["text_embeddings.word_embeddings.weight"].dtype, "fp32"),
        preprocessing=pixelbert_preprocessing(config.height, config.width, _shorter(checkpoint, options), config.patch),
        tokenizer={**tokenizer, "prefix": options["text_prefix"], "maximum": config.text_length},
        tokenizer_file=source.files["tokenizer"],
        generation=None,
        memory={
            "activation": "relu",
            "visual_rows": None,
            "table_rows": config.prompt_rows,
            "rank": rank,
            "folded": {"keys": "M + (M A1^T) A2^T", "scale": "exp(scale) in values and output projection"},
        },
        options=dict(options),
        labels=labels,
        notes=_notes(checkpoint, source, labels),
    )


def _renamed(weights: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The scalar under one name: `_draw` modules call it `weight` (spec 3)."""
    old, new = ".APT.weight", ".APT.scale"
    return {
        name.removesuffix(old) + new
        if name.endswith(old) and name.removesuffix(old) + new not in weights
        else name: tensor
        for name, tensor in weights.items()
    }


def _config(found: Mapping[str, LazyTensor], checkpoint: LightningCheckpoint, source: Source) -> Config:
    path, task, options = source.files["checkpoint"], source.task, source.options

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in found:
            raise InputError(f"{path} is no APT-ViLT checkpoint: it lacks {name}; it has {some(sorted(found)[:3])}.")
        if len(found[name].shape) != rank or not all(found[name].shape):
            raise InputError(f"{path}: {name} is {list(found[name].shape)}, which has not {rank} dimensions.")
        return found[name].shape

    head = HEADS[task]
    first, last = (f"{head}.weight",) * 2 if task == "irtr" else (f"{head}.0.weight", f"{head}.3.weight")
    if first not in found:
        there = [name for name, prefix in HEADS.items() if any(key.startswith(f"{prefix}.") for key in found)]
        has = f"it has those of {', '.join(there)}" if there else "it has none of any task"
        raise InputError(f"{path} lacks the head of the task {task}: {has}.")
    vocab, dim = shape("text_embeddings.word_embeddings.weight", 2)
    _, channels, patch, patch_width = shape("transformer.patch_embed.proj.weight", 4)
    places = shape("transformer.pos_embed", 3)[1] - 1
    grid = round(places**0.5)
    if grid**2 != places or channels != 3 or patch != patch_width:
        raise InputError(f"{path}: its image embeddings are of no square grid of square RGB patches.")
    token_types = shape("token_type_embeddings.weight", 2)[0]
    if task == "nlvr2" and token_types < 3:
        raise InputError(f"{path}: nlvr2 needs a third token type for the second image, there are {token_types}.")
    config = Config(
        task=task,
        dim=dim,
        blocks=count_numbered(found, "transformer.blocks."),
        heads=_heads(checkpoint, options, dim, source),
        ffn_dim=shape("transformer.blocks.0.mlp.fc1.weight", 2)[0],
        vocab=vocab,
        text_length=shape("text_embeddings.position_embeddings.weight", 2)[0],
        patch=patch,
        grid=grid,
        token_types=token_types,
        prompt_rows=shape("transformer.blocks.0.attn.APT.mm_tokens", 2)[0],
        head_dim=0 if task == "irtr" else shape(first, 2)[0],
        classes=shape(last, 2)[0],
        height=options["image_size"][0],
        width=options["image_size"][1],
        max_batch=options["max_batch"],
    )
    if config.height % patch or config.width % patch:
        raise InputError(f"option image_size is {options['image_size']}; both must be multiples of the patch, {patch}.")
    return config


def _heads(checkpoint: LightningCheckpoint, options: Mapping[str, Any], dim: int, source: Source) -> int:
    given = options["heads"] or checkpoint.config.get("num_heads") or max(1, dim // HEAD_WIDTH)
    if not isinstance(given, int) or given < 1 or dim % given:
        raise InputError(f"{source.files['checkpoint']}: {given!r} heads do not divide a width of {dim}. Set heads.")
    return given


def _shorter(checkpoint: LightningCheckpoint, options: Mapping[str, Any]) -> int:
    """The side that images are scaled to: the option, or what the checkpoint was trained with, or the paper's."""
    trained = checkpoint.config.get("image_size")
    return int(options["shorter_side"] or (trained if isinstance(trained, int) and 0 < trained < 1 << 13 else 384))


def official_shapes(config: Config, found: Mapping[str, LazyTensor] | None = None) -> apt.Shapes:
    """Every official tensor that the forward pass reads. The rank of a prompt is its own, as `found` has it."""
    d = config.dim
    shapes: apt.Shapes = {
        "text_embeddings.word_embeddings.weight": (config.vocab, d),
        "text_embeddings.position_embeddings.weight": (config.text_length, d),
        "text_embeddings.token_type_embeddings.weight": (2, d),
        **_vectors("text_embeddings.LayerNorm", d),
        "token4classifier": (1, 1, d),
        "token_type_embeddings.weight": (config.token_types, d),
        "transformer.cls_token": (1, 1, d),
        "transformer.pos_embed": (1, 1 + config.grid**2, d),
        "transformer.patch_embed.proj.weight": (d, 3, config.patch, config.patch),
        "transformer.patch_embed.proj.bias": (d,),
    }
    for i in range(config.blocks):
        block = f"transformer.blocks.{i}"
        shapes |= _vectors(f"{block}.norm1", d) | _matrix(f"{block}.attn.qkv", 3 * d, d)
        shapes |= _matrix(f"{block}.attn.{PROJECTION}", d, d)
        first = found.get(f"{block}.attn.APT.mm.0.weight") if found else None
        rank = first.shape[0] if first is not None and first.shape else 4
        shapes |= apt.official_shapes(f"{block}.attn", config.prompt_rows, rank, d)
        shapes |= _vectors(f"{block}.norm2", d)
        shapes |= _matrix(f"{block}.mlp.fc1", config.ffn_dim, d) | _matrix(f"{block}.mlp.fc2", d, config.ffn_dim)
    shapes |= _vectors("transformer.norm", d) | _matrix("pooler.dense", d, d)
    head = HEADS[config.task]
    if config.task == "irtr":
        return shapes | _matrix(head, config.classes, d)
    hidden = _matrix(f"{head}.0", config.head_dim, config.images * d) | _vectors(f"{head}.1", config.head_dim)
    return shapes | hidden | _matrix(f"{head}.3", config.classes, config.head_dim)


def _vectors(name: str, width: int) -> apt.Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _matrix(name: str, rows: int, columns: int) -> apt.Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def folded(official: Mapping[str, LazyTensor], config: Config) -> dict[str, LazyTensor]:
    """The tensors of the graph (spec 8.1 and 8.7): prompts, and static rows of the embeddings, are sums made here."""
    n, d = config.images, config.dim
    types, places = official["token_type_embeddings.weight"], official["transformer.pos_embed"]
    static = {
        "text_embeddings.positions": apt.derived(
            (
                official["text_embeddings.position_embeddings.weight"],
                official["text_embeddings.token_type_embeddings.weight"],
            ),
            lambda rows, kinds: rows + kinds[0],
        ),
        "text_type": types.mapped((d,), lambda rows: rows[0]),
        "text_start": apt.derived((official["token4classifier"], types), lambda start, rows: start + rows[0]),
        "transformer.positions": places.mapped((config.grid**2, d), lambda rows: rows[0, 1:]),
        "image_types": types.mapped((n, 1, 1, d), lambda rows: rows[1 : 1 + n, None, None]),
        "image_starts": apt.derived(
            (official["transformer.cls_token"], places, types),
            lambda start, rows, kinds: start + rows[:, :1] + kinds[1 : 1 + n, None, None],
            (n, 1, 1, d),
        ),
    }
    prompts: dict[str, LazyTensor] = {}
    for i in range(config.blocks):
        prompts |= apt.fold(official, f"transformer.blocks.{i}.attn", PROJECTION)
    kept = {name: tensor for part in components(config) for name, tensor in official.items() if name in part.weights}
    return {**kept, **static, **prompts}


def _notes(checkpoint: LightningCheckpoint, source: Source, labels: list[str] | None) -> list[str]:
    prefix = source.options["text_prefix"]
    notes = [
        f"every text gets the prefix {prefix!r}, as the released code does in all tasks; which one this checkpoint was "
        "trained with is not in the file: set text_prefix if it was another"
        if prefix == RELEASED_PREFIX
        else f"texts get the prefix {prefix!r}; the released code has {RELEASED_PREFIX!r} in all tasks"
    ]
    most = checkpoint.config.get("max_image_len")
    if isinstance(most, int) and most > 0:
        notes.append(
            f"the checkpoint was trained with max_image_len = {most}: the official code then drops patches at random; "
            "this export always keeps all"
        )
    if source.task == "vqa" and labels is None:
        notes.append("no labels were given: answers are the numbers of their classes; files.labels names them")
    return notes
