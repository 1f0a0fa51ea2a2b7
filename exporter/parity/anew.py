"""The PyTorch reference run again at check time: on the source, or on the bundle's own weights."""

from collections.abc import Iterator, Sequence

import numpy as np

from ..bundle import Bundle
from ..checkpoints.lazy import LazyTensor
from ..checkpoints.source import Source
from ..errors import InputError
from ..graphs.stored import stored_weights
from ..models.component import Component
from ..models.family import components_of, load
from ..models.reference import TorchReference
from ..session import Arrays, Session
from .golden import Case, complete

# Batch and columns beyond what the golden samples hold: one token alone, a wide call and a long one.
_SHAPES = ((1, 1), (8, 5), (2, 192))


def reference_of(bundle: Bundle, source: Source | None) -> tuple[TorchReference, tuple[Component, ...]]:
    """The reference of a bundle: on `source`, which must be what the bundle was made from, or on its own weights."""
    components = components_of(bundle.manifest["family"], bundle.manifest["config"])
    if source is None:
        tensors: dict[str, LazyTensor] = {}
        for component in components:
            tensors |= stored_weights(bundle.graph(component.name), component)
        return TorchReference(components, tensors), components
    model = load(source)
    if model.family != bundle.manifest["family"] or model.config.to_dict() != bundle.manifest["config"]:
        raise InputError(f"{bundle.root} was not made from this source: their configs differ.")
    return TorchReference(components, model.weights), components


def rerun(reference: Session, case: Case) -> Case:
    """The case with outputs computed now."""
    return Case(case.component, case.name, case.inputs, reference.run(case.component, case.inputs, list(case.outputs)))


def random_cases(reference: Session, components: Sequence[Component]) -> Iterator[Case]:
    """Every component on random inputs of several shapes, with padding on both sides and rows without an image."""
    for batch, columns in _SHAPES:
        random = np.random.default_rng([batch, columns])
        known: Arrays = {}
        for component in components:
            batch = min(batch, component.ranges["batch"][1])
            columns = min(columns, component.ranges.get("sequence", (1, columns))[1])
            inputs = complete(component, {**_random(component, random, batch, columns), **known})
            outputs = reference.run(component.name, inputs, [port.name for port in component.outputs[:1]])
            known |= outputs
            yield Case(component.name, f"random, batch {batch}, {columns} columns", inputs, outputs)


def _random(component: Component, random: np.random.Generator, batch: int, columns: int) -> Arrays:
    names = {port.name: port for port in component.inputs}
    made: Arrays = {}
    if "pixel_values" in names:
        size = [dim for dim in names["pixel_values"].dims if isinstance(dim, int)]
        made["pixel_values"] = random.standard_normal((batch, *size)).astype(np.float32)
        made["image_indicator"] = (np.arange(batch) % 3 != 1).astype(np.float32)
    if "input_ids" in names:
        vocab = component.outputs[0].dims[-1]
        assert isinstance(vocab, int)
        mask = np.ones((batch, columns), np.int64)
        mask[1::2, : columns // 3] = 0
        mask[2::3, columns - columns // 4 :] = 0
        # Logits are asked for where every row has a token.
        asked = np.unique([columns // 3, columns // 2, max(columns // 3, columns - columns // 4 - 1)])
        made |= {
            "input_ids": random.integers(0, vocab, (batch, columns)),
            "attention_mask": mask,
            "position_ids": np.maximum(mask.cumsum(1) - 1, 0),
            "logits_positions": np.tile(asked, (batch, 1)),
        }
    return made
