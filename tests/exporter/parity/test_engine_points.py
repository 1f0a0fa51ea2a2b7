"""Profiles of an encoder-decoder's engines beside the reference: what an engine is given, and what is compared."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from memvp_export.exporter.cache import is_present
from memvp_export.exporter.engines.profiles import make_profiles
from memvp_export.exporter.engines.session import TensorRTSession
from memvp_export.exporter.export import _port
from memvp_export.exporter.models.component import Component
from memvp_export.exporter.models.family import components_of
from memvp_export.exporter.models.reference import TorchReference
from memvp_export.exporter.parity.engine_points import engine_points
from memvp_export.exporter.session import Arrays

from ..models.test_bart import CONFIG

COMPONENTS = components_of("memvp-bart", replace(CONFIG, max_batch=2).to_dict())


def entry(part: Component) -> dict[str, Any]:
    inputs = [_port(port) for port in part.inputs]
    profiles = make_profiles(inputs, part.ranges)
    cache = {"kind": "delta", "axis": 2, "layers": part.cache.layers, "capacity": 20} if part.cache else None
    return {
        "component": part.name,
        "precision": "fp32",
        "inputs": inputs,
        "outputs": [_port(port) for port in part.outputs],
        "cache": cache,
        "profiles": [vars(profile) for profile in profiles],
    }


class Engines:
    """The reference in the place of engines, whose decoder gives new columns alone; it checks shapes as they do."""

    def __init__(self, reference: TorchReference, scale: float = 1.0) -> None:
        self.entries = {part.name: entry(part) for part in COMPONENTS}
        self.calls: list[tuple[str, str]] = []
        self._reference, self._scale = reference, scale

    def run(self, component: str, inputs: Mapping[str, np.ndarray], outputs: None, profile: str) -> Arrays:
        (limits,) = (p["shapes"] for p in self.entries[component]["profiles"] if p["name"] == profile)
        assert limits.keys() == inputs.keys()
        for name, array in inputs.items():
            assert np.all(np.array(limits[name]["min"]) <= array.shape), (name, array.shape)
            assert np.all(array.shape <= np.array(limits[name]["max"])), (name, array.shape)
        self.calls.append((component, profile))
        found = self._reference.run(component, inputs)
        new = slice(-inputs["input_ids"].shape[1], None) if component == "decoder" else slice(None)
        cut = {name: array[:, :, new] if is_present(name) else array for name, array in found.items()}
        return {name: self._scale * array for name, array in cut.items()}


@pytest.fixture(scope="module")
def reference() -> TorchReference:
    from memvp_export.exporter.checkpoints.lazy import from_array

    random = np.random.default_rng(0)
    shapes = {name: weight.shape for part in COMPONENTS for name, weight in part.weights.items()}
    tensors = {name: 0.3 * random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return TorchReference(COMPONENTS, {name: from_array(array, name) for name, array in tensors.items()})


@pytest.mark.parametrize("scale", [1.0, 1.1])
def test_every_profile_is_compared_at_its_ends(reference: TorchReference, scale: float) -> None:
    engines = Engines(reference, scale)
    notes: list[str] = []
    pairs = list(engine_points(cast(TensorRTSession, engines), reference, COMPONENTS, 1 << 30, notes.append))
    assert {*engines.calls} == {
        ("vision", "default"),
        ("encoder", "default"),
        ("decoder", "prefill"),
        ("decoder", "decode"),
    }
    assert {(pair.component, pair.output) for pair in pairs} == {
        ("vision", "visual_memory"),
        ("encoder", "last_hidden_state"),
        *((part, f"present.*.{kind}") for part in ("encoder", "decoder") for kind in ("key", "value")),
        ("decoder", "logits"),
    }
    assert not notes and all(np.abs(pair.expected).max() > 1e-3 for pair in pairs)
    assert all(np.allclose(pair.actual, scale * pair.expected, atol=1e-4) for pair in pairs)
