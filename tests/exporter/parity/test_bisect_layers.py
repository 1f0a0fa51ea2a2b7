"""Which layers of a graph are looked into, and how much is compared for that."""

from collections.abc import Sequence

import pytest
from memvp_export.exporter.parity.bisect_layers import LOOKED_INTO, Layer, by_layers

# Each of two nodes, of which the second hands its result on.
LAYERS = [Layer(f"layer.{i}", [f"{i}.in", f"{i}.end"], [f"{i}.end"]) for i in range(32)]


@pytest.mark.parametrize(
    ("spoilt", "looked_into", "left"),
    [
        ([], [], []),
        ([0], [0], []),
        (range(7, 32), [7], []),
        ([3, 4, 9, 10], [3, 9], []),
        ([0, 2, 4, 6, 8], [0, 2, 4], ["layer.6", "layer.8"]),
    ],
)
def test_only_layers_that_an_error_enters_at_are_looked_into(
    spoilt: Sequence[int], looked_into: list[int], left: list[str]
) -> None:
    asked: list[tuple[str, list[str]]] = []

    def compare(layer: Layer | None, values: Sequence[str]) -> dict[str, float]:
        asked.append((layer.name if layer else "all", [*values]))
        return {value: float(int(value.split(".")[0]) in spoilt) for value in values}

    found = by_layers(LAYERS, 0.5, compare)
    assert asked[0] == ("all", [f"{i}.end" for i in range(32)])
    assert asked[1:] == [(f"layer.{i}", [f"{i}.in"]) for i in looked_into] and len(asked) <= 1 + LOOKED_INTO
    assert found.errors.keys() == {f"{i}.end" for i in range(32)} | {f"{i}.in" for i in looked_into}
    assert found.assumed == {f"{i}.in" for i in spoilt if i not in looked_into} and found.left == left
