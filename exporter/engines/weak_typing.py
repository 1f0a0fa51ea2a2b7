"""Weakly typed networks: TensorRT 8 takes the types of a graph for hints, unless each layer is pinned to its own.

A recipe's `pinned` says what a half graph computes in which type: "float32" are the nodes that stay float32, and
"constants" its float32 weights; "float16" are products, convolutions and plugins. In between TensorRT may choose. With
OBEY_PRECISION_CONSTRAINTS, which `configure_weakly_typed` sets, a build fails where a pinned layer has no kernel of its
type.
"""

from __future__ import annotations

from typing import Any

from .engine_error import EngineError

# Neither library need be there, and engines that use them would want the same versions where they run.
_EXTERNAL = ("CUBLAS", "CUBLAS_LT", "CUDNN")


def configure_weakly_typed(trt: Any, config: Any, half: bool) -> None:
    """Set what a weakly typed build needs: kernels of TensorRT's own alone, and, where half precision is allowed at
    all, obedience to the layers' types."""
    sources = config.get_tactic_sources()
    for name in _EXTERNAL:
        sources &= ~(1 << int(getattr(trt.TacticSource, name)))
    if not config.set_tactic_sources(sources):
        raise EngineError("TensorRT has no kernels of its own: it wants cuBLAS or cuDNN.", "environment")
    if half:
        config.set_flag(trt.BuilderFlag.FP16)
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)


def pin_layers(trt: Any, network: Any, pinned: dict[str, list[str]]) -> dict[str, int]:
    """Pin precision and output types of the layers of a parsed network; returns how many of the nodes `pinned` the
    network then says it keeps, by type.

    The parser names a layer after its node, and leaves those that it adds (a reshape before a sum, say) without a name:
    what they read that is float32 they keep. Raises EngineError where a node has no layer, and so could not be pinned.
    """
    kinds = {"float32": trt.float32, "float16": trt.float16}
    dtype_of = {name: dtype for dtype in kinds for name in pinned[dtype]}
    dtype_of.update(dict.fromkeys(pinned["constants"], "float32"))
    missing = {name for dtype in kinds for name in pinned[dtype]}
    wide: set[str] = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        read = {layer.get_input(i).name for i in range(layer.num_inputs) if layer.get_input(i) is not None}
        dtype = dtype_of.get(layer.name)
        if dtype is None and layer.name.startswith("(Unnamed") and not wide.isdisjoint(read) and _is_float(trt, layer):
            dtype = "float32"
        if dtype is None:
            continue
        missing.discard(layer.name)
        layer.precision = kinds[dtype]
        for i in range(layer.num_outputs):
            layer.set_output_type(i, kinds[dtype])
            if dtype == "float32":
                wide.add(layer.get_output(i).name)
    if missing:
        some = ", ".join(sorted(missing)[:3])
        message = f"TensorRT made no layer of {len(missing)} nodes whose types were to be kept: {some}."
        raise EngineError(message, "verdict")
    return {dtype: _count_kept(network, set(pinned[dtype]), kind) for dtype, kind in kinds.items()}


def _count_kept(network: Any, nodes: set[str], kind: Any) -> int:
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return len(nodes.difference(layer.name for layer in layers if not _is_kept(layer, kind)))


def _is_kept(layer: Any, kind: Any) -> bool:
    """Whether a layer says that it computes and gives a type because it was told to."""
    told = layer.precision_is_set and all(layer.output_type_is_set(i) for i in range(layer.num_outputs))
    types = [layer.precision, *(layer.get_output_type(i) for i in range(layer.num_outputs))]
    return bool(told) and all(found == kind for found in types)


def _is_float(trt: Any, layer: Any) -> bool:
    """Whether a layer makes floating numbers: of what nobody pinned, TensorRT 8 says float32, of lengths int32."""
    return all(layer.get_output_type(i) in (trt.float32, trt.float16) for i in range(layer.num_outputs))
