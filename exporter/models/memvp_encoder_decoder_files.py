"""The files of MemVP on an encoder-decoder -> its config, weights and use, around a host that its family reads."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.clip import ClipCheckpoint, read_clip_tower
from ..checkpoints.huggingface_folder import HostFolder
from ..checkpoints.lazy import LazyTensor
from ..checkpoints.matching import match, require_pieces
from ..checkpoints.memvp_adapter import EncoderDecoderAdapter, read_encoder_decoder_adapter
from ..checkpoints.source import Source
from ..errors import InputError
from ..image_features import features_preprocessing
from ..images import clip_preprocessing
from .clip_tower import TowerConfig
from .component import shapes_of
from .family import Model, precision_of
from .memvp_encoder_decoder import PLACES, EncoderDecoderConfig, Host, MemoryConfig, components, memory_entry


@dataclass(frozen=True)
class Task:
    """What the host's pipeline does for a task (spec 2.1): its prefix, the most ids that it reads and writes, and the
    beams that it searches with."""

    prefix: str
    text_length: int
    max_new_tokens: int
    beams: int = 1


# "gpa" is what was trained. The token that an answer starts with counts among 20 and 40.
TASKS = {"vqa": Task("vqa: ", 20, 19), "gqa": Task("gpa: ", 20, 19), "caption": Task("caption: ", 40, 39, 5)}


@dataclass(frozen=True)
class HostFiles:
    """A host and its tensors under the names of its graphs, some of which an adapter may have replaced.

    ignored are patterns of names that may be there; generation are the rules that the host writes by, under
    transformers' names; files all that was read of the base; dtype the base's own.
    """

    host: Host
    weights: Mapping[str, LazyTensor]
    ignored: tuple[str, ...]
    generation: Mapping[str, Any]
    files: list[Path]
    dtype: torch.dtype


@dataclass(frozen=True)
class Trained:
    """What is beside the host: what MemVP trained, and the tower, None where features of an image are the input."""

    adapter: EncoderDecoderAdapter
    clip: ClipCheckpoint | None


def read_trained(source: Source) -> Trained:
    """The adapter of a source and its tower, where it has one. InputError where they do not fit together."""
    clip = read_clip_tower(source.files["vision"]) if "vision" in source.files else None
    adapter = read_encoder_decoder_adapter(source.files["adapter"], clip.blocks if clip else 0)
    if clip and clip.width != adapter.vision_width:
        raise InputError(
            f"the adapter was trained with features of {adapter.vision_width}; the CLIP tower gives {clip.width}. "
            "Wrong pair?"
        )
    return Trained(adapter, clip)


def with_trained(
    base: HostFolder,
    own: Mapping[str, LazyTensor],
    adapter: EncoderDecoderAdapter,
    words: str,
    ignored: Sequence[str],
) -> dict[str, LazyTensor]:
    """The base's tensors, in place of some the adapter's `own`: a state dict of the whole model has them, with more
    rows in the matrix `words` where some were added. InputError names those that the base has not, or of another
    shape."""
    expected = {name: base.weights[name].shape for name in own if name in base.weights}
    if words in expected:
        expected[words] = (*own[words].shape[:1], *expected[words][1:])
    match(own, expected, f"{adapter.files[0]}, beside the base {base.path.parent},", ignored)
    return {**base.weights, **own}


def assembled(
    source: Source,
    config_type: type[EncoderDecoderConfig],
    files: HostFiles,
    trained: Trained,
    tokenizer: Mapping[str, Any],
    tokenizer_files: Mapping[str, Path],
) -> Model:
    """The model of a source. tokenizer describes the files, with eos and how many ids it may write as pieces; prefix
    and maximum are added. InputError names what does not fit together."""
    adapter, clip, options = trained.adapter, trained.clip, source.options
    if adapter.dim != files.host.dim:
        raise InputError(
            f"the adapter was trained with a hidden width of {adapter.dim}; {source.files['base']} has "
            f"{files.host.dim}. Wrong pair?"
        )
    words = source.files["tokenizer"], files.host.vocab, source.files["base"]
    require_pieces(tokenizer["pieces"], *words, fewer=True)
    used = _used(options, TASKS[source.task])
    config = config_type(
        files.host, _memory(trained, options), used.text_length, options["max_sequence"], options["max_batch"]
    )
    parts = components(config)
    found = {**files.weights, **adapter.weights, **(clip.weights if clip else {})}
    ignored = [*files.ignored]
    if clip:
        ignored.append(f"visual.transformer.resblocks.{clip.blocks - 1}.*")
    expected = {name: shape for part in parts for name, shape in shapes_of(part.weights).items()}
    memory = config.memory
    return Model(
        family=source.family,
        task=source.task,
        config=config,
        components=parts,
        weights=match(found, expected, f"the {source.family} source", ignored),
        files={
            "base": files.files,
            **({"vision": clip.files} if clip else {}),
            "adapter": adapter.files,
            "tokenizer": list(tokenizer_files.values()),
        },
        precision=precision_of(files.dtype),
        preprocessing=clip_preprocessing(memory.tower.image_size)
        if memory.tower
        else features_preprocessing(memory.rows, memory.width),
        tokenizer={**tokenizer, "prefix": used.prefix, "maximum": used.text_length},
        tokenizer_files=tokenizer_files,
        generation={
            **_rules(files, tokenizer),
            "max_new_tokens": used.max_new_tokens,
            "num_beams": used.beams,
            "max_sequence": config.max_sequence,
        },
        memory=memory_entry(config),
        options=dict(options),
        notes=_notes(memory),
    )


def _used(options: Mapping[str, Any], task: Task) -> Task:
    """The task as the options change it. InputError where its tokens or beams do not fit into the graphs."""
    used = Task(
        task.prefix if options["text_prefix"] == "auto" else options["text_prefix"],
        options["text_length"] or task.text_length,
        options["max_new_tokens"] or task.max_new_tokens,
        options["num_beams"] or task.beams,
    )
    if used.max_new_tokens > options["max_sequence"]:
        raise InputError(
            f"max_sequence is {options['max_sequence']}: {used.max_new_tokens} new tokens do not fit into it."
        )
    if used.beams > options["max_batch"]:
        raise InputError(f"max_batch is {options['max_batch']}: the rows of {used.beams} beams do not fit into it.")
    return used


def _notes(memory: MemoryConfig) -> list[str]:
    if memory.tower or math.isqrt(memory.rows) ** 2 == memory.rows:
        return []
    return [
        f"{memory.rows} visual rows make no square grid: image features of exactly {memory.rows} rows are taken, and "
        "none are pooled; another number is the option visual_rows"
    ]


def _memory(trained: Trained, options: Mapping[str, Any]) -> MemoryConfig:
    adapter, clip, places = trained.adapter, trained.clip, options["memory_places"]
    if places not in PLACES:
        raise InputError(f"option memory_places is {places!r}; it is one of {', '.join(PLACES)}.")
    tower = None
    # Without a tower nothing says how many rows there are but that the tables hold one for each (spec 2.3).
    rows = options["visual_rows"] or adapter.memory_rows
    if clip:
        scale = float(options["clip_adapter_scale"])
        tower = TowerConfig(clip.width, clip.blocks, clip.patch, clip.grid, adapter.adapter_dim, scale)
        if options["visual_rows"] not in (0, tower.rows):
            raise InputError(f"option visual_rows is {rows}; the CLIP tower gives {tower.rows}.")
        rows = tower.rows
    if rows > adapter.memory_rows:
        raise InputError(f"an image has {rows} visual rows, the adapter's tables hold {adapter.memory_rows}.")
    return MemoryConfig(
        rows,
        adapter.vision_width,
        tower,
        adapter.projector_dim,
        adapter.memory_rows,
        float(options["adapter_scale"]),
        float(options["visual_scale"]),
        places,
    )


def _rules(files: HostFiles, tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    rules = dict(files.generation)
    ends, known = rules.pop("eos_token_id", tokenizer["eos"]), tokenizer["pieces"]
    if ends != tokenizer["eos"]:
        raise InputError(f"answers end with the token {ends}, the tokenizer ends with {tokenizer['eos']}: wrong pair?")
    if "decoder_start_token_id" not in rules:
        raise InputError("the base does not say which token answers start with: decoder_start_token_id is missing.")
    for key, value in rules.items():
        if key.endswith("_token_id") and value >= known:
            raise InputError(f"the base's {key} is {value}, beyond the {known} ids of the tokenizer.")
    return rules
