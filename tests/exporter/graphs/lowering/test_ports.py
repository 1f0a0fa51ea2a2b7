"""What is said of a lowered graph before it is made is what the made one has."""

from collections.abc import Callable
from pathlib import Path

import pytest
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.graphs.lowering import Lowered
from memvp_export.exporter.graphs.lowering.ports import ports_of

WAYS = ({}, {"cache": "concat"}, {"cache": "in_place"}, {"cache": "in_place", "capacity": 40}, {"single_pass": True})


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("component", ["vision", "decoder"])
def test_ports_are_those_of_the_lowered_graph(
    component: str, way: dict, lowered_of: Callable[..., Lowered], bundle_of: Callable[[str], Path]
) -> None:
    lowered = lowered_of(component, "fp32", **way)
    entry = Bundle.open(bundle_of("fp32")).manifest["components"][component]
    planned = ports_of(entry, way.get("cache", "delta"), way.get("capacity"), way.get("single_pass", False))
    assert [(port["name"], port["dims"]) for port in planned.inputs] == [
        (port["name"], port["dims"]) for port in lowered.inputs
    ]
    dims = {
        term for port in lowered.inputs for dim in port["dims"] if isinstance(dim, str) for term in dim.split(" + ")
    }
    assert planned.ranges == lowered.ranges and planned.ranges.keys() == dims
    assert planned.cache == lowered.cache


def test_a_buffer_bounds_the_columns(bundle_of: Callable[[str], Path]) -> None:
    entry = Bundle.open(bundle_of("fp32")).manifest["components"]["decoder"]
    planned = ports_of(entry, "in_place", 40, False)
    assert (planned.ranges["sequence"], planned.ranges["past_sequence"]) == ([1, 40], [0, 39])
    (past,) = (port for port in planned.inputs if port["name"] == "past_key_values.1.key")
    assert past["dims"] == ["batch", 6, 40, 16]
    for capacity in (0, 513):
        with pytest.raises(InputError, match=f"a cache of {capacity} columns was asked for .* takes 1 to 512"):
            ports_of(entry, "in_place", capacity, False)
