"""What a family makes of its source files: a config, the weights under official names, and how to use the model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch

from ..checkpoints.lazy import LazyTensor
from ..checkpoints.options import FAMILIES
from ..checkpoints.source import Source
from ..errors import InputError
from .component import Component


class Config(Protocol):
    """A family's config: frozen data that its graphs follow from."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        ...


@dataclass(frozen=True)
class Model:
    """A model read from its official files; weights stay in the files until they are asked for.

    preprocessing, tokenizer, generation and memory go into the manifest as they are; tokenizer_files, by their key in
    its entry `tokenizer` (of which "file" is always one), are copied.
    generation is None where an answer is no text of the model's own. files lists every file that was read, by its key
    in model.toml. precision is the checkpoint's own. weights are those of the graphs; unfolded, where some of these
    were folded, what the reference runs on in their place: the checkpoint's own tensors. similarity is what a family
    that compares images with labels says of it in the manifest; None elsewhere, which leaves that entry out. scheduler
    is the file that says how one which makes images goes on from step to step; it is copied, None elsewhere.
    """

    family: str
    task: str
    config: Config
    components: tuple[Component, ...]
    weights: Mapping[str, LazyTensor]
    files: Mapping[str, list[Path]]
    precision: str
    preprocessing: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    tokenizer_files: Mapping[str, Path]
    generation: Mapping[str, Any] | None
    memory: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    labels: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    unfolded: Mapping[str, LazyTensor] | None = None
    similarity: Mapping[str, Any] | None = None
    scheduler: Path | None = None

    @property
    def reference_weights(self) -> Mapping[str, LazyTensor]:
        """What the reference runs on: the checkpoint's own tensors, never folded ones."""
        return self.weights if self.unfolded is None else self.unfolded


def precision_of(dtype: torch.dtype) -> str:
    """The name of a checkpoint's own precision."""
    return {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(dtype, "fp32")


def load(source: Source) -> Model:
    """Read the official files of a source with its family's `<family>_files.load`."""
    read: Callable[[Source], Model] = _module(source.family, "_files").load
    return read(source)


def _module(family: str, suffix: str = "") -> ModuleType:
    if family not in FAMILIES:
        raise InputError(f"family {family!r} cannot be exported by this version; it knows {', '.join(FAMILIES)}")
    return import_module(f".{family.replace('-', '_')}{suffix}", __package__)


def components_of(family: str, config: Mapping[str, Any]) -> tuple[Component, ...]:
    """The components of a family from a manifest's config."""
    module = _module(family)
    make: Callable[[Any], tuple[Component, ...]] = module.components
    try:
        parsed = module.Config.from_dict(config)
    except (KeyError, TypeError) as error:
        raise InputError(f"the manifest's config does not fit family {family}: {error}") from error
    return make(parsed)
