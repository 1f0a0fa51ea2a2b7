"""What `inspect` shows of an engine, from the record of what it holds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..engines.engine_contents import of_profile
from ..engines.readback import BYTES, Layer, Record, cache_copies, matrix_type, weight_bytes
from .memory_sites import APPROXIMATED_PROMPT, VISUAL_MEMORY


def summary(record: Record, cache: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Plain JSON data: where the engine was built, its size, memory sites, copies of the cache, ports and profiles.

    An engine has its layers once for each profile, and its weights once. by_profile counts for each profile by name its
    layers, those by type and precision, products by precision, the bytes of their weights, and plugin layers.
    """
    layers = by_profile(record)
    return {
        **{key: record[key] for key in ("engine", "tensorrt", "flavor", "gpu", "seconds", "read_from", "plugin")},
        "by_profile": {name: _counts(part) for name, part in layers.items()},
        "memory_sites": _memory_sites(record),
        "cache_copies": cache_copies(cache, record),
        **{key: record[key] for key in ("inputs", "outputs", "profiles")},
    }


def by_profile(record: Record) -> dict[str, list[Layer]]:
    """The layers of each profile by its name. They are listed profile by profile, and TensorRT marks names from the
    second one on, but not those of all layers: such a layer is of the profile of those before it."""
    names = [profile["name"] for profile in record["profiles"]] or ["default"]
    found: dict[str, list[Layer]] = {name: [] for name in names}
    current = 0
    for layer in record["layers"]:
        tensors = [part["name"] for part in (*layer["inputs"], *layer["outputs"])]
        current = max(current, *(of_profile(name)[1] for name in (layer["name"], *tensors)))
        found[names[min(current, len(names) - 1)]].append(layer)
    return found


def _counts(layers: Sequence[Layer]) -> dict[str, Any]:
    matrices = [layer for layer in layers if layer["matrix"]]
    weights: Counter[str] = Counter()
    for layer in matrices:
        weights[matrix_type(layer)] += int(weight_bytes(layer))
    by_type: dict[str, Counter[str]] = {}
    for layer in layers:
        by_type.setdefault(layer["type"], Counter())[_layer_type(layer)] += 1
    return {
        "layers": len(layers),
        "layers_by_type": {kind: dict(types.most_common()) for kind, types in by_type.items()},
        "products_by_precision": dict(Counter(map(matrix_type, matrices)).most_common()),
        "product_weight_bytes": dict(weights.most_common()),
        "plugin_layers": [layer["name"] for layer in layers if layer["plugin"]],
    }


def _layer_type(layer: Layer) -> str:
    """The type a layer computes in; layers of shapes and masks have the type they write."""
    if layer["matrix"]:
        return matrix_type(layer)
    written = [part["dtype"] for part in layer["outputs"]]
    return next((dtype for dtype in written if dtype in BYTES), written[0] if written else "none")


def _memory_sites(record: Record) -> list[str]:
    """The memory lookups whose nodes are among the layers: a plugin's, or those of an operator that was written out."""
    found: dict[str, None] = {}
    for name in (name for layer in record["layers"] for name in layer["onnx"]):
        for operator in (VISUAL_MEMORY, APPROXIMATED_PROMPT):
            before, separator, _ = name.rpartition(operator)
            if separator:
                found[before + operator] = None
    return list(found)
