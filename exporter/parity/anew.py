"""The PyTorch reference run again at check time: on the source, or on the bundle's own weights."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..bundle import Bundle, sha256_file
from ..cache import is_present
from ..checkpoints.lazy import LazyTensor
from ..checkpoints.source import Source
from ..errors import InputError
from ..graphs.stored import stored_weights
from ..models.component import Component
from ..models.family import Model, components_of, load
from ..models.reference import TorchReference
from ..session import Arrays, Session
from .golden import Case, columns_of, complete, left_by
from .image_points import image_inputs, sides

# Batch and columns beyond what the golden samples hold: one token alone, a wide call and a long one.
_SHAPES = ((1, 1), (8, 5), (2, 192))


def reference_of(bundle: Bundle, source: Source | None) -> tuple[TorchReference, tuple[Component, ...]]:
    """The reference of a bundle: on `source`, which must be what the bundle was made from, or on its own weights.

    Raises InputError where the source's config, preprocessing or tokenizer is another one: pixels and ids would differ
    before any graph runs. So does it where answers are made by other rules."""
    components = components_of(bundle.manifest["family"], bundle.manifest["config"])
    if source is None:
        tensors: dict[str, LazyTensor] = {}
        for component in components:
            tensors |= stored_weights(bundle.graph(component.name), component)
        return TorchReference(components, tensors), components
    model = load(source)
    if differing := _differing(model, bundle):
        raise InputError(f"{bundle.root} was not made from this source: they differ in {', '.join(differing)}.")
    return TorchReference(components, model.reference_weights), components


def _differing(model: Model, bundle: Bundle) -> list[str]:
    manifest = bundle.manifest
    tokenizer = {key: value for key, value in manifest["tokenizer"].items() if key not in model.tokenizer_files}
    stored = {key: manifest["tokenizer"].get(key) for key in model.tokenizer_files}
    pairs: dict[str, tuple[Any, Any]] = {
        "family": (model.family, manifest["family"]),
        "config": (model.config.to_dict(), manifest["config"]),
        "preprocessing": (dict(model.preprocessing), manifest["preprocessing"]),
        "generation": (model.generation, manifest["generation"]),
        "similarity": (model.similarity, manifest.get("similarity")),
        "tokenizer": (dict(model.tokenizer), tokenizer),
        "the tokenizer's files": (
            {key: sha256_file(path) for key, path in model.tokenizer_files.items()},
            {key: sha256_file(bundle.path(name)) for key, name in stored.items() if isinstance(name, str)},
        ),
    }
    if model.scheduler is not None:
        own = manifest.get("scheduler")
        pairs["the scheduler"] = sha256_file(model.scheduler), own and sha256_file(bundle.path(own))
    return [name for name, (given, own) in pairs.items() if given != own]


def other_files(
    bundle: Bundle, source: Source, advance: Callable[[int], None] = lambda size: None
) -> tuple[list[str], int]:
    """The names of the source's files that are, by their SHA-256, not among those the bundle was made from; and how
    many files the source has. advance is told the bytes read."""
    own = {(entry["key"], entry["sha256"]) for entry in bundle.manifest["sources"]}
    files = [(key, path) for key, paths in load(source).files.items() for path in paths]
    return [path.name for key, path in files if (key, sha256_file(path, advance)) not in own], len(files)


def rerun(reference: Session, case: Case) -> Case:
    """The case with outputs computed now."""
    return Case(case.component, case.name, case.inputs, reference.run(case.component, case.inputs, list(case.outputs)))


def random_cases(reference: Session, components: Sequence[Component]) -> Iterator[Case]:
    """Every component on random inputs of several shapes, with padding on both sides and rows without an image."""
    for batch, columns in _SHAPES:
        random = np.random.default_rng([batch, columns])
        known: Arrays = {}
        # What one component leaves is another's input.
        rows = min(batch, *(component.ranges["batch"][1] for component in components))
        for component in components:
            lowest, highest = component.ranges.get(columns_of(component), (1, columns))
            length = max(lowest, min(columns, highest))
            made = random_inputs(component, random, rows, length)
            drawn = sides(component, 2, 1 + length % 3)
            made |= image_inputs(component, random, {"batch": rows, **drawn}, known)
            inputs = complete(component, {**made, **known})
            outputs = reference.run(component.name, inputs, wanted(component))
            known |= left_by(component, inputs, outputs)
            sizes = [f"{length} columns"] * bool(columns_of(component))
            sizes += [f"{side} {size}" for side, size in drawn.items()]
            yield Case(component.name, ", ".join(["random", f"batch {rows}", *sizes]), inputs, outputs)


def wanted(component: Component) -> list[str]:
    """The output that is compared, and what a decoder takes of an encoder's."""
    names = [port.name for port in component.outputs]
    return names[:1] if component.cache else [name for name in names if name == names[0] or is_present(name)]


def random_inputs(
    component: Component, random: np.random.Generator, batch: int, columns: int, right_padding: bool = True
) -> Arrays:
    """The inputs of a component that are not another's outputs: odd rows padded on the left, every third one on the
    right too, and logits asked for where every row has a token."""
    names = {port.name: port for port in component.inputs}
    made: Arrays = {}
    for suffix in ("", "_2"):
        if f"pixel_values{suffix}" in names:
            size = [dim for dim in names[f"pixel_values{suffix}"].dims if isinstance(dim, int)]
            made[f"pixel_values{suffix}"] = random.standard_normal((batch, *size)).astype(np.float32)
        if f"pixel_mask{suffix}" in names:
            made[f"pixel_mask{suffix}"] = _random_masks(random, batch, *size[-2:])
    if "image_features" in names:
        size = [dim for dim in names["image_features"].dims if isinstance(dim, int)]
        made["image_features"] = random.standard_normal((batch, *size)).astype(np.float32)
    if "image_indicator" in names:
        made["image_indicator"] = (np.arange(batch) % 3 != 1).astype(np.float32)
    if columns_of(component):
        vocab = component.vocab
        assert vocab is not None
        mask = np.ones((batch, columns), np.int64)
        mask[1::2, : columns // 3] = 0
        if right_padding:
            mask[2::3, columns - columns // 4 :] = 0
        asked = np.unique([columns // 3, columns // 2, max(columns // 3, columns - columns // 4 - 1)])
        made |= {
            "input_ids": random.integers(0, vocab, (batch, columns)),
            "attention_mask": mask,
            "position_ids": np.maximum(mask.cumsum(1) - 1, 0),
            "logits_positions": np.tile(asked, (batch, 1)),
        }
    return made


def _random_masks(random: np.random.Generator, batch: int, height: int, width: int) -> np.ndarray:
    """Images of random sizes in the upper left corner, int64 [B,H,W]."""
    mask = np.zeros((batch, height, width), np.int64)
    for row in mask:
        row[: random.integers(1, height + 1), : random.integers(1, width + 1)] = 1
    return mask
