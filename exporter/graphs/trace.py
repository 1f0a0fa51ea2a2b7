"""A component's forward pass -> an ONNX graph whose weights are names and shapes only.

The pass is traced with fake tensors: no weight is read and none is allocated. `weights.py` writes the values.
"""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import onnxscript.optimizer
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from ..dims import length
from ..errors import InputError
from ..keep_fp32 import METADATA, is_kept
from ..models.component import Component, Port
from .operators import add_functions, own_schemas, translation_table
from .passes import fold_weight_transposes, name_dynamic_dims, name_nodes

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
DEFAULT_OPSET = 20
# Conv takes bfloat16 from opset 22 only.
BF16_OPSET = 22
OPSETS = range(20, 24)


def default_opset(precision: str) -> int:
    """The opset a graph is published in when none is asked for."""
    return BF16_OPSET if precision == "bf16" else DEFAULT_OPSET


def check_opset(opset: int, precision: str) -> None:
    """Raise InputError for an opset that this exporter cannot write."""
    lowest = BF16_OPSET if precision == "bf16" else 20
    if opset not in OPSETS or opset < lowest:
        raise InputError(f"opset {opset} cannot be exported in {precision}; choose {lowest} to {OPSETS[-1]}")


class _Traced(nn.Module):
    """Official names may hold dots, which modules forbid: parameters are registered by index."""

    def __init__(self, component: Component, weights: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
        super().__init__()
        self.component, self.dtype = component, dtype
        self.names = list(weights)
        for i, tensor in enumerate(weights.values()):
            self.register_parameter(f"weight_{i}", nn.Parameter(tensor, requires_grad=False))

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        weights = {name: getattr(self, f"weight_{i}") for i, name in enumerate(self.names)}
        ports = (port.name for port in self.component.inputs)
        results = self.component.forward(weights, dict(zip(ports, inputs, strict=True)))
        # Modules that are kept in float32 do not change the graph's interface.
        ports_out = self.component.outputs
        return tuple(r.to(self.dtype) if p.dtype == "graph" else r for p, r in zip(ports_out, results, strict=True))


def trace(component: Component, precision: str, opset: int, keep_fp32: Sequence[str] = ()) -> ir.Model:
    """The component's graph in `precision`; initializers carry official names, dtypes and shapes, but no values.

    Modules that match a pattern of `keep_fp32` have float32 weights and compute in float32 (`exporter/keep_fp32.py`).

    Weights that only ever enter transposed are listed in the initializer's metadata ("transposed") with their shape
    swapped: the writer stores them that way.
    """
    dtype = PRECISIONS[precision]
    fake = FakeTensorMode(shape_env=ShapeEnv())
    with fake, torch.no_grad():
        wide = {name for name, weight in component.weights.items() if weight.float32 or is_kept(name, keep_fp32)}
        weights = {
            name: torch.empty(weight.shape, dtype=torch.float32 if name in wide else dtype)
            for name, weight in component.weights.items()
        }
        weights |= {name: torch.empty(value.shape) for name, value in component.constants.items()}
        module = _Traced(component, weights, dtype).eval()
        inputs = tuple(_example(port, dtype) for port in component.inputs)
        with _quiet(), own_schemas():
            program = torch.onnx.export(
                module,
                inputs,
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=opset,
                input_names=[port.name for port in component.inputs],
                output_names=[port.name for port in component.outputs],
                dynamic_shapes=(tuple(_dynamic(port) for port in component.inputs),),
                custom_translation_table=translation_table(opset),
            )
    assert program is not None
    model = program.model
    fake_weights = _rename_weights(model, module.names)
    with _quiet():
        onnxscript.optimizer.optimize_ir(model, inline=False)
    fold_weight_transposes(model, fake_weights)
    name_dynamic_dims(model, component)
    _describe(model, component, precision, keep_fp32)
    name_nodes(model, fake_weights)
    add_functions(model, opset)
    return model


_SIZES = {"batch": 2, "sequence": 3, "past_sequence": 7, "positions": 5}


def _example(port: Port, dtype: torch.dtype) -> torch.Tensor:
    """An input of a size at which no two dimensions agree by accident and none is 0 or 1."""
    shape = [length(dim, _SIZES) for dim in port.dims]
    kind = {"int64": torch.int64, "float32": torch.float32, "graph": dtype}[port.dtype]
    return torch.zeros(shape, dtype=kind)


def _dynamic(port: Port) -> dict[int, Any]:
    return {axis: torch.export.Dim.DYNAMIC for axis, dim in enumerate(port.dims) if isinstance(dim, str)}


def _rename_weights(model: ir.Model, names: list[str]) -> set[str]:
    """Give initializers their official names and hide the fake values from the optimizer."""
    initializers = model.graph.initializers
    found = set()
    for index, name in enumerate(names):
        value = initializers.get(f"weight_{index}")
        assert value is not None, f"the forward pass never reads {name}"
        raw = getattr(value.const_value, "raw", None)
        assert isinstance(raw, FakeTensor), f"{name} has a value while tracing"
        value.const_value = None
        value.name = name
        found.add(name)
    return found


def _describe(model: ir.Model, component: Component, precision: str, keep_fp32: Sequence[str]) -> None:
    model.producer_name = "memvp-export"
    model.producer_version = ""
    model.graph.name = component.name
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props["precision"] = precision
    if keep_fp32:
        model.metadata_props[METADATA] = json.dumps([*keep_fp32])


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the tracer's notes about missing constant values and its own deprecations: none is about the model."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
