"""True half arithmetic of a graph, function bodies included."""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import onnx_ir
import pytest
import torch
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.graphs import trace as tracer
from memvp_export.exporter.models.component import Component, Port
from memvp_export.exporter.models.memory import visual_memory_ffn
from memvp_export.exporter.parity.golden import Case
from memvp_export.exporter.parity.half import true_half
from torch import Tensor

PORTS = tuple(Port(name, "graph", ("batch", rows, 8)) for name, rows in (("hidden", 3), ("ffn", 3), ("visual", 2)))


def component(activation: str) -> Component:
    """One lookup of a memory, whose tables are no weights."""

    def forward(
        weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], wanted: Collection[str] | None = None
    ) -> tuple[Tensor]:
        tables = torch.sin(torch.arange(64.0)).reshape(2, 4, 8).to(inputs["hidden"].dtype)
        rows = (inputs[port.name] for port in PORTS)
        return (visual_memory_ffn(*rows, tables[0], tables[1], 1.0, activation).float(),)

    output = Port("last_hidden_state", "float32", ("batch", 3, 8))
    return Component("encoder", PORTS, (output,), {}, forward, {"batch": (1, 4)})


@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_a_function_is_run_in_the_types_of_its_call(tmp_path: Path, activation: str) -> None:
    part, path = component(activation), tmp_path / "encoder.onnx"
    onnx_ir.save(tracer.trace(part, "fp16", 20), path)
    path.with_suffix(".onnx.data").touch()
    manifest = {"components": {"encoder": {"inputs": [vars(port) for port in PORTS]}}}
    bundle = cast(Bundle, SimpleNamespace(manifest=manifest, graph=lambda name, precision: path))
    random = np.random.default_rng(0)
    inputs = {port.name: random.standard_normal((2, *port.dims[1:])).astype(np.float32) for port in PORTS}

    def error(factor: float) -> float:
        given = {**inputs, "hidden": factor * inputs["hidden"]}
        (expected,) = part.forward({}, {name: torch.from_numpy(array) for name, array in given.items()})
        case = Case("encoder", "rows", given, {"last_hidden_state": expected.numpy()})
        pairs, not_run = true_half(bundle, [case])
        (pair,) = pairs
        assert not not_run and pair.actual.shape == (1, 3, 8)
        return float(np.linalg.norm(pair.actual - pair.expected) / np.linalg.norm(pair.expected))

    assert 1e-5 < error(1) < 1e-2
    # Beyond the range of float16, which ONNX Runtime's CPU does not see.
    assert not error(5e4) < 1e-2
