"""Questions about a scene, with their answers."""

import random
from dataclasses import dataclass
from typing import Literal

from .scenes import COLOURS, KINDS, MOST, PLACES, Scene, Split, make_scene

Type = Literal["colour", "count", "position"]
TYPES: tuple[Type, ...] = ("colour", "count", "position")
NUMBERS = ("none", "one", "two", "three", "four")
ANSWERS: dict[Type, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "count": NUMBERS[: MOST + 1],
    "position": PLACES,
}
_WORDINGS = {
    "colour": ("what colour is the {}?", "name the colour of the {}."),
    "count": ("how many {} are there?", "count the {}."),
    "position": ("where is the {}?", "find the {}."),
}


@dataclass(frozen=True)
class Question:
    """One question about one scene."""

    type: Type
    text: str
    answer: str


def questions(scene: Scene, stream: random.Random) -> list[Question]:
    """The four questions a scene was laid out for, in wordings drawn from `stream`: colour, two counts, position."""

    def ask(type_: Type, about: str, answer: str) -> Question:
        return Question(type_, stream.choice(_WORDINGS[type_]).format(about), answer)

    return [
        ask("colour", scene.unique.kind, scene.unique.colour),
        ask("count", plural(scene.counted_kind), NUMBERS[scene.count_of_kind]),
        ask("count", f"{scene.counted_colour} shapes", NUMBERS[scene.count_of_colour]),
        ask("position", scene.unique.kind, scene.place),
    ]


def question(split: Split, seed: int, index: int) -> tuple[Scene, Question]:
    """Question number `index` of a seed, about a scene of its own; the types take turns, and so do the two counts."""
    turn, type_ = divmod(index, len(TYPES))
    # A stream of scenes for each type: so every type gets every answer equally often.
    scene = make_scene(split, seed * len(TYPES) + type_, turn)
    four = questions(scene, random.Random(f"question/{split}/{seed}/{index}"))
    fitting = [q for q in four if q.type == TYPES[type_]]
    return scene, fitting[turn % len(fitting)]


def plural(kind: str) -> str:
    """The plural of a kind of shape."""
    return f"{kind}es" if kind.endswith("s") else f"{kind}s"


def corpus() -> list[str]:
    """Every question in every wording, and every answer: what the tokenizer learns from."""
    kinds = list(KINDS)
    about: dict[Type, list[str]] = {
        "colour": kinds,
        "count": [plural(k) for k in kinds] + [f"{c} shapes" for c in COLOURS],
        "position": kinds,
    }
    asked = [wording.format(a) for type_ in TYPES for wording in _WORDINGS[type_] for a in about[type_]]
    return asked + [answer for type_ in TYPES for answer in ANSWERS[type_]]
