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

from ..dims import ENCODER_SEQUENCE, length, terms
from ..errors import InputError
from ..keep_fp32 import METADATA, is_kept
from ..models.component import Component, Port
from .operators import add_functions, own_schemas, translation_table
from .passes import fold_weight_transposes, name_constants, name_dynamic_dims, name_nodes, name_symbols
from .repeat import TRACED, numbered, put_in_order, repeat_middle

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
    wide = {name for name, weight in component.weights.items() if weight.float32 or is_kept(name, keep_fp32)}
    model = _deepened(component, precision, opset, wide) or _traced(component, precision, opset, wide)
    weights = {*component.weights, *component.constants}
    fold_weight_transposes(model, weights)
    name_dynamic_dims(model, component)
    _describe(model, component, precision, keep_fp32)
    name_constants(model, weights)
    name_nodes(model, weights)
    add_functions(model, opset)
    return model


def _traced(component: Component, precision: str, opset: int, wide: set[str]) -> ir.Model:
    """The optimized graph of all that `component` has, as the tracer names it but for the weights; `wide` are in
    float32."""
    dtype = PRECISIONS[precision]
    fake = FakeTensorMode(shape_env=ShapeEnv())
    with fake, torch.no_grad():
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
    _rename_weights(program.model, module.names)
    name_symbols(program.model, _symbols(program, component))
    with _quiet():
        onnxscript.optimizer.optimize_ir(program.model, inline=False)
    return program.model


def _deepened(component: Component, precision: str, opset: int, wide: set[str]) -> ir.Model | None:
    """The same as `_traced`, of which TRACED layers are traced; None where that spares nothing, or where one of the
    layers has other weights than the rest."""
    series = {stems: _layers(component, stems, wide) for stems in component.depth.stems} if component.depth else {}
    unlike = any(layer != layers[0] for layers in series.values() for layer in layers)
    counts = {stems: len(layers) for stems, layers in series.items() if len(layers) > TRACED}
    if component.depth is None or unlike or not counts:
        return None
    model = _traced(component.depth.at(TRACED), precision, opset, wide)
    if not all(repeat_middle(model, stems, count) for stems, count in counts.items()):
        return None
    ports = ([port.name for port in side] for side in (component.inputs, component.outputs))
    put_in_order(model, [*component.weights, *component.constants], *ports)
    return model


def _layers(component: Component, stems: Sequence[str], wide: set[str]) -> list[dict[str, tuple[Any, bool]]]:
    """What each layer of a component holds: weights by stem and name, with shape and whether they are float32."""
    layers: list[dict[str, tuple[Any, bool]]] = []
    for name, weight in component.weights.items():
        if found := numbered(stems).fullmatch(name):
            stem, index, rest = found[1], int(found[2]), found[3]
            layers += [{} for _ in range(len(layers), index + 1)]
            layers[index][f"{stem}.{rest}"] = weight.shape, name in wide
    return layers


_SIZES = {
    "batch": 2,
    "sequence": 3,
    "past_sequence": 7,
    "positions": 5,
    "height": 9,
    "width": 11,
    ENCODER_SEQUENCE: 13,
}


def _example(port: Port, dtype: torch.dtype) -> torch.Tensor:
    """An input of a size at which no two dimensions agree by accident and none is 0 or 1."""
    shape = [length(dim, _SIZES) for dim in port.dims]
    kind = {"int64": torch.int64, "float32": torch.float32, "graph": dtype}[port.dtype]
    return torch.zeros(shape, dtype=kind)


def _dynamic(port: Port) -> dict[int, Any]:
    return {axis: _symbol(dim) for axis, dim in enumerate(port.dims) if isinstance(dim, str)}


def _symbol(dim: str) -> Any:
    """A multiple of a name is said to be one: half of it needs no rounding then."""
    names = terms(dim)
    once = len(names) == 1 or len({*names}) > 1
    return torch.export.Dim.DYNAMIC if once else len(names) * torch.export.Dim(names[0], min=1)


def _symbols(program: Any, component: Component) -> dict[str, str]:
    """The tracer's symbols by which it knows the names that ports have multiples of."""
    placeholders = [node for node in program.exported_program.graph.nodes if node.op == "placeholder"]
    found = {}
    for node, port in zip(placeholders[-len(component.inputs) :], component.inputs, strict=True):
        for traced, dim in zip(node.meta["val"].shape, port.dims, strict=True):
            if isinstance(dim, str) and len(names := terms(dim)) > len({*names}) == 1:
                (symbol,) = traced.node.expr.free_symbols
                found[str(symbol)] = names[0]
    return found


def _rename_weights(model: ir.Model, names: list[str]) -> None:
    """Give initializers their official names and hide the fake values from the optimizer."""
    initializers = model.graph.initializers
    for index, name in enumerate(names):
        value = initializers.get(f"weight_{index}")
        assert value is not None, f"the forward pass never reads {name}"
        raw = getattr(value.const_value, "raw", None)
        assert isinstance(raw, FakeTensor), f"{name} has a value while tracing"
        value.const_value = None
        value.name = name


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
