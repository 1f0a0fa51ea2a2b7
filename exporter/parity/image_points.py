"""Inputs of components that make an image of a text: latents, a step, rows of a text, and ids of one fixed length."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..dims import length
from ..session import Arrays

if TYPE_CHECKING:
    from ..models.component import Component

# About the middle of the thousand that these models are trained with.
_STEP = 501
_LATENTS = ("sample", "latent_sample")
_IDS, _STEPS, _ROWS, _TEXT = "input_ids", "timestep", "encoder_hidden_states", "last_hidden_state"


def image_inputs(
    component: "Component",
    random: np.random.Generator,
    sizes: Mapping[str, int],
    known: Mapping[str, np.ndarray],
    ids: Sequence[Sequence[int]] = (),
) -> Arrays:
    """What a component takes of these, none of another one's. sizes are lengths of dimensions, known the results of
    components before it; ids are texts for the first rows, continued with their last id, the others are random."""
    made: Arrays = {}
    for port in component.inputs:
        fixed = port.name == _IDS and all(isinstance(dim, int) for dim in port.dims[1:])
        if port.name in _LATENTS or (port.name == _ROWS and _TEXT not in known):
            made[port.name] = random.standard_normal([length(dim, sizes) for dim in port.dims]).astype(np.float32)
        elif port.name == _ROWS:
            made[port.name] = known[_TEXT]
        elif port.name == _STEPS:
            made[port.name] = np.array([_STEP], np.int64)
        elif fixed:
            assert component.vocab is not None
            made[port.name] = random.integers(0, component.vocab, [length(dim, sizes) for dim in port.dims])
            for row, text in zip(made[port.name], ids, strict=False):
                fitted = list(text)[: len(row)]
                row[:] = [*fitted, *fitted[-1:] * (len(row) - len(fitted))]
    return made


def sides(component: "Component", height: int, width: int) -> dict[str, int]:
    """Lengths of a component's height and width, as near to these as it takes."""
    return {
        name: min(max(side, component.ranges[name][0]), component.ranges[name][1])
        for name, side in (("height", height), ("width", width))
        if name in component.ranges
    }
