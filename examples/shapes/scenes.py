"""Scenes of coloured shapes, laid out and drawn from a seed with nothing but Pillow.

A scene is laid out around one question of each type, so that no answer can be guessed from its question: the answer
comes first, all of them in turn, and independently of what is asked about.
"""

import math
import random
import zlib
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageDraw

Split = Literal["train", "held-out"]

WIDTH, HEIGHT = 160, 120  # not square: the model squashes its input
GRID = 3
KINDS = ("circle", "square", "triangle", "star", "cross", "diamond")
COLOURS = {
    "red": (208, 44, 40),
    "orange": (234, 134, 36),
    "yellow": (232, 214, 48),
    "green": (52, 158, 64),
    "cyan": (60, 190, 204),
    "blue": (46, 74, 200),
    "purple": (132, 56, 170),
    "pink": (236, 120, 176),
}
PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
MOST = 4  # the highest answer to a count question

_HELD_OUT_SHARE = 8


@dataclass(frozen=True)
class Look:
    """How hard pictures are to read: half widths of shapes in pixels, how far their centres wander from the middle of
    their cells in x and y, and how far each part of their colour does from that of its name."""

    radius: tuple[float, float]
    wander: tuple[float, float]
    tint: int


# Training is drawn harder than what is asked later, and covers it: every range of the one lies in that of the other.
LOOKS: dict[Split, Look] = {
    "train": Look(radius=(6.0, 10.5), wander=(15.0, 11.0), tint=48),
    "held-out": Look(radius=(7.0, 10.5), wander=(13.0, 9.0), tint=36),
}


@dataclass(frozen=True)
class Shape:
    """One shape: its centre and radius in pixels, its angle in radians, the colour it is drawn in."""

    kind: str
    colour: str
    x: float
    y: float
    radius: float
    angle: float
    rgb: tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """Shapes, and what they were laid out for: `unique` is the only one of its kind and answers the colour and the
    position question; `counted_kind` and `counted_colour` occur `count_of_kind` and `count_of_colour` times."""

    shapes: tuple[Shape, ...]
    unique: Shape
    place: str
    counted_kind: str
    count_of_kind: int
    counted_colour: str
    count_of_colour: int
    background: int

    def key(self) -> tuple[tuple[str, str, int, int], ...]:
        """What the picture shows, whatever its background: kind, colour and rounded centre of each shape, sorted."""
        return tuple(sorted((s.kind, s.colour, round(s.x), round(s.y)) for s in self.shapes))


def split_of(scene: Scene) -> Split:
    """The split a scene may occur in. It follows from what the picture shows, so the two splits share no scene."""
    return "held-out" if zlib.crc32(repr(scene.key()).encode()) % _HELD_OUT_SHARE == 0 else "train"


def make_scene(split: Split, seed: int, index: int) -> Scene:
    """Scene number `index` of a seed: the first layout of its random stream that belongs to the split."""
    # A string seeds Random through SHA-512: the same stream in every process and Python version.
    stream = random.Random(f"shapes/{split}/{seed}/{index}")
    while True:
        scene = _lay_out(stream, index, LOOKS[split])
        if split_of(scene) == split:
            return scene


def _lay_out(stream: random.Random, turn: int, look: Look) -> Scene:
    # The answers take turns, with periods that make every combination of them equally frequent.
    colour, first = list(COLOURS)[turn % len(COLOURS)], turn % GRID**2
    of_kind, of_colour = turn % (MOST + 1), turn // (MOST + 1) % (MOST + 1)
    kind, counted_kind = stream.sample(KINDS, 2)
    counted_colour = _other(stream, COLOURS, colour)
    wanted = [(kind, colour)]
    wanted += [(counted_kind, _other(stream, COLOURS, counted_colour)) for _ in range(of_kind)]
    wanted += [(_other(stream, KINDS, kind, counted_kind), counted_colour) for _ in range(of_colour)]
    if len(wanted) < 4:
        wanted.append((_other(stream, KINDS, kind, counted_kind), _other(stream, COLOURS, counted_colour)))
    cells = [first, *stream.sample([cell for cell in range(GRID**2) if cell != first], len(wanted) - 1)]
    shapes = [_shape(stream, look, *what, cell) for what, cell in zip(wanted, cells, strict=True)]
    unique, place = shapes[0], PLACES[cells[0]]
    stream.shuffle(shapes)  # the order of drawing, where shapes overlap
    background = stream.getrandbits(32)
    return Scene(tuple(shapes), unique, place, counted_kind, of_kind, counted_colour, of_colour, background)


def _other(stream: random.Random, of: dict[str, tuple[int, int, int]] | tuple[str, ...], *barred: str) -> str:
    return stream.choice([name for name in of if name not in barred])


def _shape(stream: random.Random, look: Look, kind: str, colour: str, cell: int) -> Shape:
    row, column = divmod(cell, GRID)
    x = WIDTH * (column + 0.5) / GRID + stream.uniform(-look.wander[0], look.wander[0])
    y = HEIGHT * (row + 0.5) / GRID + stream.uniform(-look.wander[1], look.wander[1])
    red, green, blue = (min(255, max(0, part + stream.randint(-look.tint, look.tint))) for part in COLOURS[colour])
    return Shape(kind, colour, x, y, stream.uniform(*look.radius), stream.uniform(-0.2, 0.2), (red, green, blue))


def draw(scene: Scene) -> Image.Image:
    """The picture of a scene, RGB, WIDTH x HEIGHT pixels."""
    stream = random.Random(scene.background)
    image = _background(stream)
    pen = ImageDraw.Draw(image)
    for _ in range(4):
        ends = [(stream.uniform(0, WIDTH), stream.uniform(0, HEIGHT)) for _ in range(2)]
        grey = stream.randint(60, 200)
        pen.line(ends, fill=(grey, grey, grey), width=stream.randint(1, 2))
    for shape in scene.shapes:
        if shape.kind == "circle":
            r = shape.radius * 0.92
            pen.ellipse((shape.x - r, shape.y - r, shape.x + r, shape.y + r), fill=shape.rgb)
        else:
            pen.polygon(_corners(shape), fill=shape.rgb)
    return image


def _background(stream: random.Random) -> Image.Image:
    """Grey of a random brightness and tinge in tiles of 8 pixels that differ a little: noise that PNG can compress."""
    base = stream.randint(70, 180)
    tinge = [base + stream.randint(-18, 18) for _ in range(3)]
    tiles = Image.new("RGB", (WIDTH // 8, HEIGHT // 8))
    noise = [stream.randint(-14, 14) for _ in range(tiles.width * tiles.height)]
    tiles.putdata([(tinge[0] + n, tinge[1] + n, tinge[2] + n) for n in noise])
    return tiles.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)


def _corners(shape: Shape) -> list[tuple[float, float]]:
    cos, sin = math.cos(shape.angle), math.sin(shape.angle)
    return [
        (shape.x + shape.radius * (u * cos - v * sin), shape.y + shape.radius * (u * sin + v * cos))
        for u, v in _OUTLINES[shape.kind]
    ]


def _star() -> list[tuple[float, float]]:
    turns = [(i * math.pi / 5, 1.1 if i % 2 == 0 else 0.45) for i in range(10)]
    return [(length * math.sin(turn), -length * math.cos(turn)) for turn, length in turns]


_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "diamond": [(0, -1.15), (0.8, 0), (0, 1.15), (-0.8, 0)],
    "triangle": [(0, -1.05), (1.0, 0.8), (-1.0, 0.8)],
    "star": _star(),
    "cross": [
        *((-0.32, -1.0), (0.32, -1.0), (0.32, -0.32), (1.0, -0.32), (1.0, 0.32), (0.32, 0.32)),
        *((0.32, 1.0), (-0.32, 1.0), (-0.32, 0.32), (-1.0, 0.32), (-1.0, -0.32), (-0.32, -0.32)),
    ],
}
