"""Golden samples: inputs and the float32 reference's outputs, stored in the bundle at export.

Tensors are stored under `<component>/<case>/<inputs|outputs>/<port>`. Case "rows" records a decoder as one pass over
whole sequences with logits at every column: a check replays the same columns as prefill, chunks and single steps. Its
rows cover left padding, right padding, a hole in the mask, no image, and every column used, and images of several sizes
where a graph takes their masks; a graph that takes fewer rows at once runs them in several calls. Case "long" is one
long row with a few logits. An encoder has the same two, and its "rows" is what a decoder reads. Latents are the
smallest that are no square.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from ..cache import is_present, past_of
from ..dims import ENCODER_SEQUENCE, length
from ..session import Arrays, Session
from .batches import InBatches, limits_of
from .image_points import image_inputs, sides

if TYPE_CHECKING:
    from ..models.component import Component, Port

# The caches of these columns, of all layers, are held in float32 and stored: 100 MB at 7B.
COLUMNS = 24
ROWS = 4
LONG_COLUMNS = 128
LONG_LOGITS = 8
_SEED = 20240607


@dataclass(frozen=True)
class Case:
    """Inputs of one component and what the reference answered, by port name."""

    component: str
    name: str
    inputs: Arrays
    outputs: Arrays


def record_golden(
    session: Session, components: Sequence["Component"], pixels: Sequence[np.ndarray], ids: Sequence[Sequence[int]]
) -> list[Case]:
    """Run the reference on every case. pixels are preprocessed images [3,S,S] float32 or their features [v,f], ids
    token ids of texts; both are repeated where there are too few."""
    session = InBatches(session, limits_of(components))
    known: Arrays = {}
    cases = []
    for component in components:
        made = image_inputs(component, np.random.default_rng(_SEED), _sides(component), known, ids)
        seen = {**known, **_images(component, pixels), **made}
        if _has_tokens(component):
            vocab = component.vocab
            assert vocab is not None
            columns, long_columns = _columns(component)
            short = complete(component, {**seen, **_rows(ids, vocab, columns)})
            long = complete(component, {**_first_row(seen), **_long_row(vocab, long_columns)})
            case = _run(session, component, "rows", short)
            # Past and present of a long row are the same as of a short one, only larger: they are not stored.
            cases += [case, _run(session, component, "long", long, [component.outputs[0].name])]
        else:
            case = _run(session, component, "rows", complete(component, seen))
            cases.append(case)
        known |= left_by(component, case.inputs, case.outputs)
    return cases


def left_by(component: "Component", inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> Arrays:
    """What a component's call leaves for those after it: its outputs, of an encoder under the names by which a decoder
    knows them. The third row has no memory of an image where the graph is not told which rows have an image."""
    if component.cache is not None:
        return {}
    left = {past_of(name) if is_present(name) else name: array for name, array in outputs.items()}
    if any(map(is_present, outputs)):
        left["encoder_attention_mask"] = inputs["attention_mask"]
    if "visual_memory" in outputs and "image_indicator" not in inputs:
        left["visual_memory"] = outputs["visual_memory"].copy()
        left["visual_memory"][2:3] = 0
    return left


def golden_bytes(components: Sequence["Component"]) -> int:
    """Bytes of the tensors that `record_golden` will store."""
    return sum(_stored_bytes(component) for component in components)


def _stored_bytes(component: "Component") -> int:
    # A past is empty.
    rows, ports = {"past_sequence": 0, **_sides(component)}, (*component.inputs, *component.outputs)
    if ENCODER_SEQUENCE in component.ranges:
        rows[ENCODER_SEQUENCE] = min(COLUMNS, component.ranges[ENCODER_SEQUENCE][1])
    if not _has_tokens(component):
        return sum(_port_bytes(port, rows) for port in ports)
    columns, long = _columns(component)
    rows |= {"positions": columns, columns_of(component): columns}
    one = {**rows, "batch": 1, "positions": min(LONG_LOGITS, long), columns_of(component): long}
    logits = component.outputs[:1]
    return sum(_port_bytes(port, rows) for port in ports) + sum(
        _port_bytes(port, one) for port in chain(component.inputs, logits)
    )


def _port_bytes(port: "Port", sizes: Mapping[str, int]) -> int:
    """Bytes of a port as the float32 reference has it."""
    return prod(length(dim, sizes) for dim in port.dims) * (8 if port.dtype == "int64" else 4)


def columns_of(component: "Component") -> str:
    """The dimension of a component's tokens; "" where it has none, or always as many."""
    ids = (port.dims[1] for port in component.inputs if port.name == "input_ids")
    return next((dim for dim in ids if isinstance(dim, str)), "")


def _has_tokens(component: "Component") -> bool:
    return bool(columns_of(component))


def _sides(component: "Component") -> dict[str, int]:
    """The lengths of what has no columns: rows, and what latents are made of."""
    return {"batch": ROWS, **sides(component, 1, 2)}


def _columns(component: "Component") -> tuple[int, int]:
    """The columns of the cases "rows" and "long"."""
    limit = component.ranges[columns_of(component)][1]
    return min(COLUMNS, limit), min(LONG_COLUMNS, limit)


def to_arrays(cases: Sequence[Case]) -> Arrays:
    """The stored form of the cases."""
    return {
        f"{case.component}/{case.name}/{kind}/{name}": array
        for case in cases
        for kind, arrays in (("inputs", case.inputs), ("outputs", case.outputs))
        for name, array in arrays.items()
    }


def from_arrays(arrays: Mapping[str, np.ndarray]) -> list[Case]:
    """The inverse of `to_arrays`."""
    cases: dict[tuple[str, str], Case] = {}
    for key in arrays:
        component, name, kind, port = key.split("/", 3)
        case = cases.setdefault((component, name), Case(component, name, {}, {}))
        (case.inputs if kind == "inputs" else case.outputs)[port] = arrays[key]
    return list(cases.values())


def _run(session: Session, component: "Component", name: str, inputs: Arrays, outputs: list[str] | None = None) -> Case:
    return Case(component.name, name, inputs, session.run(component.name, inputs, outputs))


def complete(component: "Component", known: Arrays) -> Arrays:
    """The component's inputs out of `known`; caches start empty."""
    batch = next(array.shape[0] for array in known.values())
    return {port.name: known[port.name] if port.name in known else _empty(port, batch) for port in component.inputs}


def _empty(port: "Port", batch: int) -> np.ndarray:
    return np.zeros([dim if isinstance(dim, int) else {"batch": batch}.get(dim, 0) for dim in port.dims], np.float32)


def _first_row(arrays: Arrays) -> Arrays:
    return {name: array[:1] for name, array in arrays.items()}


def _rows(ids: Sequence[Sequence[int]], vocab: int, columns: int) -> Arrays:
    tokens = np.random.default_rng(_SEED).integers(0, vocab, (ROWS, columns))
    mask = np.ones((ROWS, columns), np.int64)
    # Room for padding, but never a row without any token.
    left, right, holed = (list(ids[i % len(ids)])[: max(1, columns - 2)] for i in range(3))
    mask[0, : columns - len(left)] = 0
    tokens[0, columns - len(left) :] = left
    mask[1, len(right) :] = 0
    tokens[1, : len(right)] = right
    mask[2, 1 : min(3, columns - 1)] = 0
    tokens[2, columns - len(holed) :] = holed
    return {
        "input_ids": tokens,
        "attention_mask": mask,
        "position_ids": np.maximum(mask.cumsum(1) - 1, 0),
        "logits_positions": np.tile(np.arange(columns), (ROWS, 1)),
    }


def _long_row(vocab: int, columns: int) -> Arrays:
    return {
        "input_ids": np.random.default_rng(_SEED + 1).integers(0, vocab, (1, columns)),
        "attention_mask": np.ones((1, columns), np.int64),
        "position_ids": np.arange(columns)[None],
        "logits_positions": np.linspace(0, columns - 1, min(LONG_LOGITS, columns)).astype(np.int64)[None],
    }


def _images(component: "Component", pixels: Sequence[np.ndarray]) -> Arrays:
    """What a component takes of images: a second one is another row's first."""
    names = {port.name for port in component.inputs}
    made: Arrays = {}
    for number, suffix in enumerate(("", "_2")):
        if f"pixel_values{suffix}" in names:
            rows = [pixels[(i + number) % len(pixels)] for i in range(ROWS)]
            rows[2] = np.zeros_like(rows[2])
            made[f"pixel_values{suffix}"] = np.stack(rows)
        if f"pixel_mask{suffix}" in names:
            made[f"pixel_mask{suffix}"] = np.roll(_masks(*pixels[0].shape[1:]), number, 0)
    if "image_features" in names:
        made["image_features"] = np.stack([pixels[i % len(pixels)] for i in range(ROWS)])
    if "image_indicator" in names:
        made["image_indicator"] = np.array([1, 1, 0, 1], np.float32)
    return made


def _masks(height: int, width: int) -> np.ndarray:
    """Where the images of the rows lie, int64: the whole input, an upright and a flat part, a corner."""
    mask = np.zeros((ROWS, height, width), np.int64)
    for row, (part, other) in enumerate(((1, 1), (1, 2), (2, 1), (2, 3))):
        mask[row, : -(-height // part), : -(-width // other)] = 1
    return mask
