"""What each patch of a drawing shows: a second thing to learn while the questions are learnt."""

import numpy as np

from .questions import plural
from .scenes import COLOURS, GRID, HEIGHT, KINDS, PLACES, WIDTH, Scene, Shape

# What a patch can show, in words: the kind, the colour and the place of the shape whose centre it holds.
SHOWN: tuple[tuple[tuple[str, ...], ...], ...] = (
    tuple((kind, plural(kind)) for kind in KINDS),
    tuple((colour,) for colour in COLOURS),
    tuple((place,) for place in PLACES),
)


def shown_in(scene: Scene, rows: int, columns: int) -> np.ndarray:
    """For rows x columns patches, int64 [3, rows * columns]: an index into SHOWN plus 1, or 0 for nothing."""
    shown = np.zeros((len(SHOWN), rows * columns), np.int64)
    for shape in scene.shapes:
        place = _cell(shape.y, HEIGHT, GRID) * GRID + _cell(shape.x, WIDTH, GRID)
        held = 1 + KINDS.index(shape.kind), 1 + list(COLOURS).index(shape.colour), 1 + place
        shown[:, patch_of(shape, rows, columns)] = held
    return shown


def patch_of(shape: Shape, rows: int, columns: int) -> int:
    """The patch that holds the shape's centre, in raster order."""
    return _cell(shape.y, HEIGHT, rows) * columns + _cell(shape.x, WIDTH, columns)


def _cell(at: float, length: int, cells: int) -> int:
    return min(cells - 1, max(0, int(at * cells / length)))
