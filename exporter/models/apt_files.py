"""What the files of APT's models have in common, official ones and this project's own (spec 3, 4.4, 5.5 and 6)."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoints.lazy import LazyTensor
from ..checkpoints.lightning import LightningCheckpoint, read_lightning
from ..checkpoints.matching import Shape
from ..checkpoints.safetensors_folder import read_safetensors_file
from ..checkpoints.source import Source
from ..checkpoints.torch_file import flatten_module, read_torch_file
from ..errors import InputError
from ..labels import read_labels
from . import apt
from .apt_heads import HEADS

NLVR2_LABELS = ["False", "True"]
# Width of one head in the models that ViLT and METER start from, where the checkpoint does not say how many there are.
HEAD_WIDTH = 64
# What a checkpoint may hold beside the model of one task: other heads.
OTHER_HEADS = (
    *("mlm_score.*", "itm_score.*", "mpp_score.*", "snli_classifier.*", "vgqa_classifier.*"),
    *(f"{head}.*" for head in HEADS.values()),
)


def read_apt(path: Path, site: str, host: str) -> LightningCheckpoint:
    """The checkpoint, see `with_prompts`."""
    checkpoint = read_lightning(path)
    return replace(checkpoint, weights=with_prompts(checkpoint.weights, path, site, host))


def read_trained(path: Path, site: str, host: str) -> dict[str, LazyTensor]:
    """All tensors of a checkpoint in this project's own format, see `with_prompts`: a safetensors file, or one of
    torch.save with a state dict, alone or under `state_dict` or `model`, with or without DDP's `module.`."""
    if path.suffix == ".safetensors":
        found = read_safetensors_file(path)
    else:
        content = read_torch_file(path)
        found = flatten_module(content.get("model", content) if isinstance(content, dict) else content, str(path))
    return with_prompts({name.removeprefix("module."): tensor for name, tensor in found.items()}, path, site, host)


def with_prompts(found: Mapping[str, LazyTensor], path: Path, site: str, host: str) -> dict[str, LazyTensor]:
    """All tensors, with every site's scalar under one name: `_draw` modules call it `weight` (spec 3). InputError for a
    `host` without prompts; site is where they would be."""
    if not any(".APT." in name for name in found):
        raise InputError(
            f"{path} holds no prompts of APT ({site}.APT.mm_tokens). Give the checkpoint that APT's training wrote, "
            f"not the {host} it started from."
        )
    old, new = ".APT.weight", ".APT.scale"
    return {
        name.removesuffix(old) + new
        if name.endswith(old) and name.removesuffix(old) + new not in found
        else name: tensor
        for name, tensor in found.items()
    }


def head_sizes(found: Mapping[str, LazyTensor], path: Path, task: str, shape: Shape) -> tuple[int, int]:
    """Hidden width (0 for the one linear layer of irtr) and classes of the task's head. InputError where there is none,
    or where nlvr2 has no token type for its second image."""
    head = HEADS[task]
    first, last = (f"{head}.weight",) * 2 if task == "irtr" else (f"{head}.0.weight", f"{head}.3.weight")
    if first not in found:
        there = [name for name, prefix in HEADS.items() if any(key.startswith(f"{prefix}.") for key in found)]
        has = f"it has those of {', '.join(there)}" if there else "it has none of any task"
        raise InputError(f"{path} lacks the head of the task {task}: {has}.")
    token_types = shape("token_type_embeddings.weight", 2)[0]
    if task == "nlvr2" and token_types < 3:
        raise InputError(f"{path}: nlvr2 needs a third token type for the second image, there are {token_types}.")
    return 0 if task == "irtr" else shape(first, 2)[0], shape(last, 2)[0]


def attention_heads(checkpoint: LightningCheckpoint, path: Path, option: int, width: int) -> int:
    """How many heads divide `width`: the option, or what the checkpoint says, or as many as are HEAD_WIDTH wide."""
    given = option or checkpoint.config.get("num_heads") or max(1, width // HEAD_WIDTH)
    if not isinstance(given, int) or given < 1 or width % given:
        raise InputError(f"{path}: {given!r} heads do not divide a width of {width}. Set heads.")
    return given


def trained(checkpoint: LightningCheckpoint, key: str, otherwise: int) -> int:
    """A size that the checkpoint was trained with, `otherwise` where it does not say."""
    value = checkpoint.config.get(key)
    return value if type(value) is int and 0 < value < 1 << 13 else otherwise


def site_shapes(found: Mapping[str, LazyTensor], site: str, projection: str, rows: int, width: int) -> apt.Shapes:
    """The official tensors of a site. The rank is its own, as `found` has it."""
    first = found.get(f"{site}.APT.mm.0.weight")
    rank = first.shape[0] if first is not None and first.shape else 4
    linear = {f"{site}.{projection}.weight": (width, width), f"{site}.{projection}.bias": (width,)}
    return linear | apt.official_shapes(site, rows, rank, width)


def prompt_rows(found: Mapping[str, LazyTensor], sites: Iterable[str]) -> list[int]:
    """The p of every site, as the tensors have it: 0 where there is no prompt, 1 where its rows are lost, which will be
    missed by their name."""

    def rows_at(site: str) -> int:
        tokens = found.get(f"{site}.APT.mm_tokens")
        rows = tokens.shape[0] if tokens is not None and tokens.shape else 0
        return max(rows, int(any(name.startswith(f"{site}.APT.") for name in found)))

    return [rows_at(site) for site in sites]


def labels_of(source: Source, classes: int) -> tuple[list[str] | None, list[str]]:
    """The names of the classes, and notes on them."""
    if "labels" in source.files:
        if source.task != "vqa":
            raise InputError(f"labels name the answers of vqa; {source.task} has none.")
        return read_labels(source.files["labels"], classes), []
    if source.task == "vqa":
        return None, ["no labels were given: answers are the numbers of their classes; files.labels names them"]
    return NLVR2_LABELS if source.task == "nlvr2" else None, []


def memory_of(official: Mapping[str, LazyTensor], rows: Mapping[str, int]) -> dict[str, Any]:
    """The manifest's `memory` of sites with the p of each: p and the rank r, lists in the order of the sites where
    these differ."""
    ranks = [official[f"{site}.APT.mm.0.weight"].shape[0] for site in rows]
    p, r = (values[0] if len(set(values)) == 1 else values for values in ([*rows.values()], ranks))
    return {
        "activation": "relu",
        "visual_rows": None,
        "table_rows": p,
        "rank": r,
        "folded": {"keys": "M + (M A1^T) A2^T", "scale": "exp(scale) in values and output projection"},
    }
