"""The official files of APT-METER -> its config, weights and use (spec 5.2 to 5.5)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bpe_files import bpe_files
from ..byte_bpe import describe_byte_bpe
from ..checkpoints.huggingface_clip import HEAD_WIDTH as TOWER_HEAD
from ..checkpoints.lazy import LazyTensor
from ..checkpoints.lightning import LightningCheckpoint
from ..checkpoints.matching import Shape, count_numbered, match, require_pieces, shapes_in
from ..checkpoints.source import Source
from ..errors import InputError
from ..images import clip_preprocessing
from . import apt, roberta
from .apt_files import (
    HEAD_WIDTH,
    OTHER_HEADS,
    attention_heads,
    head_sizes,
    labels_of,
    memory_of,
    read_apt,
    site_shapes,
    trained,
)
from .apt_meter import (
    IMAGE,
    IMAGE_SHIFTS,
    PROJECTION,
    TEXT,
    TEXT_SHIFT,
    TEXT_START,
    Config,
    components,
    shared_weights,
    sites,
)
from .clip_tower import TowerConfig
from .component import shapes_of
from .family import Model, precision_of
from .roberta import NAME, PAD, RobertaConfig

# What the paper's scripts cut texts to, where the checkpoint does not say (spec 5.2).
TEXT_LENGTHS = {"vqa": 50, "nlvr2": 50, "irtr": 40}
_TOWER = "vit_model."
_POSITIONS = "visual.positional_embedding"
_TABLES = tuple(f"{NAME}.embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type"))
_UNUSED = (
    *(f"{NAME}.embeddings.position_ids", f"{NAME}.pooler.dense.*", f"{_TOWER}visual.proj"),
    *(f"{_TOWER}{part}" for part in ("positional_embedding", "ln_final.*", "token_embedding.*", "text_projection")),
    *OTHER_HEADS,
)


def load(source: Source) -> Model:
    """Read the official files of `source` (keys checkpoint, tokenizer, and labels for vqa) into a Model."""
    path = source.files["checkpoint"]
    checkpoint = read_apt(path, f"{TEXT}_layers.N.attention.output", "METER")
    found = checkpoint.weights
    config, grid = _config(checkpoint, source)
    named = match(found, official_shapes(config, found, grid), str(path), ignored=_UNUSED)
    official = {name.removeprefix(_TOWER): tensor for name, tensor in named.items()}
    official[_POSITIONS] = interpolated(official[_POSITIONS], grid, config.tower.grid)
    files = bpe_files(source.files["tokenizer"])
    tokenizer = describe_byte_bpe(files, "RoBERTa")
    require_pieces(tokenizer["pieces"], source.files["tokenizer"], config.text.vocab, path)
    if tokenizer["pad"] != PAD:
        raise InputError(
            f"{files['file']} pads with {tokenizer['pad']}; RoBERTa counts positions by padding with {PAD}."
        )
    labels, notes = labels_of(source, config.classes)
    return Model(
        family=source.family,
        task=source.task,
        config=config,
        components=components(config),
        weights=folded(official, config),
        unfolded=official,
        files={
            key: {"checkpoint": checkpoint.files, "tokenizer": [*files.values()]}.get(key, [file])
            for key, file in source.files.items()
        },
        precision=precision_of(official[_TABLES[0]].dtype),
        preprocessing=clip_preprocessing(config.tower.image_size),
        tokenizer={**tokenizer, "prefix": "", "maximum": config.text.length},
        tokenizer_files=files,
        generation=None,
        memory=memory_of(official, {next(sites(config)): config.prompt_rows}),
        options=dict(source.options),
        labels=labels,
        notes=[*_notes(config, grid), *notes],
    )


def _config(checkpoint: LightningCheckpoint, source: Source) -> tuple[Config, int]:
    """The config, and the side of the position grid that the file holds."""
    path, task, options, found = source.files["checkpoint"], source.task, source.options, checkpoint.weights
    shape = shapes_in(found, path, "APT-METER")
    head_dim, classes = head_sizes(found, path, task, shape)
    first = f"{TEXT}_layers.0"
    dim = shape(f"{TEXT}_transform.weight", 2)[0]
    tower, grid = _tower(found, shape, source)
    config = Config(
        task=task,
        tower=tower,
        text=_text(checkpoint, shape, source),
        dim=dim,
        layers=count_numbered(found, f"{TEXT}_layers."),
        heads=attention_heads(checkpoint, path, options["heads"], dim),
        ffn_dim=shape(f"{first}.intermediate.dense.weight", 2)[0],
        token_types=shape("token_type_embeddings.weight", 2)[0],
        prompt_rows=shape(f"{first}.attention.output.APT.mm_tokens", 2)[0],
        head_dim=head_dim,
        classes=classes,
        max_batch=options["max_batch"],
    )
    return config, grid


def _tower(found: Mapping[str, LazyTensor], shape: Shape, source: Source) -> tuple[TowerConfig, int]:
    path, size = source.files["checkpoint"], source.options["image_size"]
    width, channels, patch, patch_width = shape(f"{_TOWER}visual.conv1.weight", 4)
    places = shape(f"{_TOWER}{_POSITIONS}", 2)[0] - 1
    grid = round(places**0.5)
    if grid**2 != places or not grid or channels != 3 or patch != patch_width or width % TOWER_HEAD:
        raise InputError(
            f"{path}: its image tower is no CLIP ViT, with square RGB patches in a square and heads of {TOWER_HEAD}."
        )
    if size % patch:
        raise InputError(f"option image_size is {size}; it must be a multiple of the patch, {patch}.")
    # METER is trained without CLIP's last block, which the tower skips.
    blocks = 1 + count_numbered(found, f"{_TOWER}visual.transformer.resblocks.")
    return TowerConfig(width, blocks, patch, size // patch or grid, 0, 0.0), grid


def _text(checkpoint: LightningCheckpoint, shape: Shape, source: Source) -> RobertaConfig:
    (vocab, width), (positions, _) = (shape(name, 2) for name in _TABLES[:2])
    most = positions - PAD - 1
    length = source.options["text_length"] or min(trained(checkpoint, "max_text_len", TEXT_LENGTHS[source.task]), most)
    if not 2 <= length <= most:
        raise InputError(f"option text_length is {length}; this RoBERTa takes 2 to {most} tokens.")
    if width % HEAD_WIDTH:
        raise InputError(f"{source.files['checkpoint']}: a RoBERTa of width {width} has no heads of {HEAD_WIDTH}.")
    return RobertaConfig(
        dim=width,
        layers=count_numbered(checkpoint.weights, f"{NAME}.encoder.layer."),
        heads=width // HEAD_WIDTH,
        ffn_dim=shape(f"{NAME}.encoder.layer.0.intermediate.dense.weight", 2)[0],
        vocab=vocab,
        positions=positions,
        length=length,
    )


def official_shapes(config: Config, found: Mapping[str, LazyTensor], grid: int) -> apt.Shapes:
    """Every official tensor that the forward pass reads; grid is the side of the file's position grid. The rank of a
    prompt is its own, as `found` has it."""
    d, text = config.dim, config.text
    shapes: apt.Shapes = {
        name if not name.startswith("visual.") else f"{_TOWER}{name}": shape
        for name, shape in shapes_of(shared_weights(config)).items()
    }
    shapes |= {
        f"{_TOWER}{_POSITIONS}": (1 + grid**2, config.tower.width),
        _TABLES[1]: (text.positions, text.dim),
        _TABLES[2]: (1, text.dim),
        f"{TEXT}_transform.bias": (d,),
        f"{IMAGE}_transform.bias": (d,),
        "token4classifier": (1, 1, d),
        "token_type_embeddings.weight": (config.token_types, d),
    }
    for site in sites(config):
        shapes |= site_shapes(found, site, PROJECTION, config.prompt_rows, d)
    return shapes


def interpolated(positions: LazyTensor, before: int, after: int) -> LazyTensor:
    """Image positions [1+before^2,d] for a grid of `after` x `after`, as the official code makes them on load: bicubic,
    the class token's row kept (spec 5.3). Those of the same grid are the tensor itself."""
    if before == after:
        return positions

    def change(rows: Tensor) -> Tensor:
        square = rows[1:].T.reshape(1, -1, before, before)
        new = F.interpolate(square, size=(after, after), mode="bicubic", align_corners=False)
        return torch.cat([rows[:1], new[0].flatten(1).T])

    return apt.derived((positions,), change, (1 + after**2, positions.shape[1]))


def folded(official: Mapping[str, LazyTensor], config: Config) -> dict[str, LazyTensor]:
    """The tensors of the graph (spec 8.1): prompts, and static rows of the embeddings, are sums made here."""
    n, d = config.images, config.dim
    types = official["token_type_embeddings.weight"]
    static = {
        roberta.TABLE: apt.derived((official[_TABLES[1]], official[_TABLES[2]]), lambda rows, kinds: rows + kinds[0]),
        TEXT_SHIFT: apt.derived((official[f"{TEXT}_transform.bias"], types), lambda bias, rows: bias + rows[0]),
        TEXT_START: apt.derived((official["token4classifier"], types), lambda start, rows: start + rows[0]),
        IMAGE_SHIFTS: apt.derived(
            (official[f"{IMAGE}_transform.bias"], types), lambda bias, rows: bias + rows[1 : 1 + n], (n, d)
        ),
    }
    prompts: dict[str, LazyTensor] = {}
    for site in sites(config):
        prompts |= apt.fold(official, site, PROJECTION)
    return {**{name: official[name] for name in shared_weights(config)}, **static, **prompts}


def _notes(config: Config, grid: int) -> list[str]:
    if config.tower.grid == grid:
        return []
    side = grid * config.tower.patch
    return [
        f"image positions are interpolated from {grid} x {grid} to {config.tower.grid} x {config.tower.grid}: the "
        f"checkpoint was trained with images of {side} x {side} pixels"
    ]
