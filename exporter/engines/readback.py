"""What an engine holds against what was asked for: a request that TensorRT did not follow is a failure."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from ..cache import is_past, is_present
from ..call_shapes import lengths_of
from ..dims import known_length
from ..precisions import DTYPES
from .engine_contents import hides_nodes, of_profile

# Some products stay float32 in a half graph (a score that is quadratic in activations): few, and none of the large.
LEAST_BYTES, LEAST_LAYERS = 0.9, 0.75
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "float8e4m3fn": 1, "int4": 0.5}
_SHOWN = 3
# The profile of single new columns, whose speed the cache decides.
DECODE = "decode"

Recipe = Mapping[str, Any]
Record = Mapping[str, Any]
Layer = Mapping[str, Any]


def verdict(recipe: Recipe, record: Record) -> list[str]:
    """Everything in which an engine is not what its recipe asks for; empty where it is.

    recipe and record are those of build_engine. Checked: the types of matrix products and plugins, the number of
    plugin layers, names, types and dims of inputs and outputs, the profiles' shapes, and copies of the cache that
    nobody asked for. What TensorRT 8 hides in one layer is left out: for its types stand those that the network was
    pinned to, which a build obeys or fails; that it joins attention with the past nobody has seen, and copies are no
    failure there.
    """
    if not record["layers"]:
        return ["the layers of the engine could not be read: whether it is what was asked for is not known."]
    return [
        *_precision_failures(recipe, record),
        *_plugin_failures(recipe, record),
        *_port_failures(recipe, record),
        *_profile_failures(recipe, record),
        *_cache_failures(recipe, record),
    ]


@dataclass(frozen=True)
class Share:
    """How much of an engine's matrix products and convolutions is of one type: layers, and bytes of their weights."""

    layers: float
    bytes: float
    others: list[str]


def precision_share(record: Record, dtype: str, kept: Collection[str] = ()) -> Share:
    """The share that is of `dtype`, and the names of the layers that are not; 0 of nothing. Layers of the ONNX nodes
    `kept` are left out: they are in float32 by request."""
    matrices = [layer for layer in record["layers"] if layer["matrix"] and not _is_of(layer, kept)]
    met = [layer for layer in matrices if matrix_type(layer) == dtype]
    weights = {id(layer): weight_bytes(layer) for layer in matrices}
    known = sum(weights.values())
    layers = len(met) / len(matrices) if matrices else 0.0
    return Share(
        layers,
        sum(weights[id(layer)] for layer in met) / known if known else layers,
        [layer["name"] for layer in matrices if matrix_type(layer) != dtype],
    )


def _is_of(layer: Layer, nodes: Collection[str]) -> bool:
    return any(node in nodes for node in layer["onnx"])


def matrix_type(layer: Layer) -> str:
    """The type a product computes in: that of its weights, else of the narrowest operand, since what is fused with it,
    such as a mask that is added, may come in float32."""
    if weights := _weights(layer):
        return str(weights["dtype"])
    operands = [part["dtype"] for part in layer["inputs"] if part["dtype"] in BYTES]
    return min(operands, key=BYTES.__getitem__, default="unknown")


def _weights(layer: Layer) -> Mapping[str, Any] | None:
    """The largest constant of a layer; scalars such as a product's factor are none."""
    held = [part for part in layer["constants"] if part["dtype"] in BYTES and prod(part["dims"]) > 1]
    return max(held, key=_tensor_bytes, default=None)


def weight_bytes(layer: Layer) -> float:
    """Bytes of the weights of a product; 0 where both operands are activations."""
    weights = _weights(layer)
    return _tensor_bytes(weights) if weights else 0.0


def _tensor_bytes(part: Mapping[str, Any]) -> float:
    return abs(prod(part["dims"])) * BYTES[part["dtype"]]


def _precision_failures(recipe: Recipe, record: Record) -> list[str]:
    if quantized := recipe.get("quantized"):
        return _quantization_failures(recipe["precision"], quantized, record)
    # Of a quantized precision a component may have nothing quantized.
    plain = recipe.get("plain") or recipe["precision"]
    asked, kept = DTYPES[plain], _kept(recipe)
    share = precision_share(record, asked, kept["nodes"])
    failures = [*_kept_failures(record, kept["stored"]), *_pin_failures(recipe, record)]
    # Where all products are kept, or TensorRT 8 shows none, none is left to be of the asked type.
    none_left = bool(kept["nodes"]) or bool(recipe.get("pinned"))
    if (share.others or not none_left) and (share.bytes < LEAST_BYTES or share.layers < LEAST_LAYERS):
        failures.append(
            f"{plain} was asked for, and {share.bytes:.0%} of the weights and {share.layers:.0%} of the "
            f"matrix products are {asked}; others: {_some(share.others)}."
        )
    foreign = [
        layer["name"]
        for layer in record["layers"]
        if layer["plugin"]
        and not _is_of(layer, kept["nodes"])
        and any(part["dtype"] in BYTES and part["dtype"] != asked for part in layer["inputs"])
    ]
    if foreign:
        failures.append(f"{plain} was asked for, and plugin layers take another type: {_some(foreign)}.")
    return failures


def _pin_failures(recipe: Recipe, record: Record) -> list[str]:
    """A weakly typed network must have kept all the types that its recipe lists."""
    if not recipe.get("pinned"):
        return []
    asked, found = {dtype: len(recipe["pinned"][dtype]) for dtype in ("float32", "float16")}, record.get("pinned")
    return [] if found == asked else [f"types were to be kept in {asked} nodes, and the network kept them in {found}."]


def _kept(recipe: Recipe) -> Mapping[str, Collection[str]]:
    """What a half engine is to compute in float32, by ONNX node: products, and those of them with stored operands."""
    return recipe.get("keep_fp32") or {"nodes": (), "stored": ()}


def _kept_failures(record: Record, stored: Collection[str]) -> list[str]:
    """A layer that was to stay float32 has float32 weights; a product of two activations is fused with others, and
    does not tell its type."""
    layers = [layer for layer in record["layers"] if layer["matrix"] or layer["plugin"]]
    nodes = [node for layer in layers if "float32" not in _large_types(layer) for node in layer["onnx"]]
    narrow = [node for node in dict.fromkeys(nodes) if node in stored]
    return [f"float32 was to be kept, and these are of another type: {_some(narrow)}."] if narrow else []


def _large_types(layer: Layer) -> set[str]:
    """The types of a layer's operands, scalars apart."""
    constants = [part for part in layer["constants"] if prod(part["dims"]) > 1]
    return {part["dtype"] for part in (constants or layer["inputs"])}


def _quantization_failures(precision: str, quantized: Mapping[str, Any], record: Record) -> list[str]:
    """Nearly all bytes of the matrices that the graph holds quantized must be in the engine in that type, in each
    profile whose layers are listed; matrices of other types were left so by choice. A layer that lays a matrix out anew
    for a product holds it in that one's place."""
    held = sum(
        _tensor_bytes(part)
        for layer in record["layers"]
        for part in layer["constants"]
        if part["dtype"] == quantized["dtype"] and sum(dim > 1 for dim in part["dims"]) > 1
    )
    written = [part["name"] for layer in record["layers"] for part in layer["outputs"]]
    profiles = 1 + max((of_profile(name)[1] for name in written), default=0)
    share = held / (quantized["bytes"] * profiles)
    if share >= LEAST_BYTES:
        return []
    return [
        f"{precision} was asked for, and {share:.0%} of the bytes of its {quantized['layers']} quantized matrices are "
        f"{quantized['dtype']}."
    ]


def _plugin_failures(recipe: Recipe, record: Record) -> list[str]:
    asked = recipe["memory_sites"] if recipe["lowering"] == "plugin" else 0
    found = {"network": record["network_plugin_layers"], "engine": record["plugin_layers"]}
    failures = [
        f"{recipe['lowering']} lowering was asked for, which has {asked} plugin layers: the {where} has {count}."
        for where, count in found.items()
        if count != asked
    ]
    if recipe["plugin"] and recipe["plugin"]["embed"] and not record["plugin"]["embedded"]:
        failures.append("the plugin was to be embedded, and the engine does not hold it.")
    return failures


def _port_failures(recipe: Recipe, record: Record) -> list[str]:
    failures = []
    lengths = _lengths(recipe)
    for kind in ("inputs", "outputs"):
        asked = {port["name"]: port for port in recipe[kind]}
        found = {port["name"]: port for port in record[kind]}
        if set(asked) != set(found):
            failures.append(f"the {kind} of graph and engine differ: {_some(sorted(set(asked) ^ set(found)))}.")
        for name in sorted(asked.keys() & found.keys()):
            wanted, port = asked[name], found[name]
            if wanted["dtype"] != port["dtype"]:
                failures.append(f"{name} is {port['dtype']} in the engine, {wanted['dtype']} was asked for.")
            if not _same_dims(wanted["dims"], port["dims"]):
                failures.append(f"{name} has dims {port['dims']} in the engine, {wanted['dims']} were asked for.")
            shape = [known_length(dim, lengths) for dim in wanted["dims"]]
            if "opt" in port and None not in shape and shape != port["opt"]:
                failures.append(
                    f"{name} comes back as {port['opt']} at the first profile's opt shapes, not as {shape}."
                )
    return failures


def _same_dims(asked: Sequence[Any], found: Sequence[int]) -> bool:
    fixed = [(dim, found[i]) for i, dim in enumerate(asked[: len(found)]) if isinstance(dim, int)]
    return len(asked) == len(found) and all(dim == other for dim, other in fixed)


def _lengths(recipe: Recipe) -> dict[str, int]:
    """The named dimensions at the first profile's opt shapes."""
    shapes = [profile["shapes"] for profile in recipe["profiles"][:1]]
    return lengths_of(recipe["inputs"], {name: limits["opt"] for held in shapes for name, limits in held.items()})


def _profile_failures(recipe: Recipe, record: Record) -> list[str]:
    asked = {profile["name"]: profile["shapes"] for profile in recipe["profiles"]}
    found = {profile["name"]: profile["shapes"] for profile in record["profiles"]}
    if list(asked) != list(found):
        return [f"the profiles {', '.join(asked)} were asked for, the engine has {', '.join(found) or 'none'}."]
    return [
        f"profile {name} of the engine takes {given.get(tensor)} for {tensor}, {shapes} were asked for."
        for name, given in found.items()
        for tensor, shapes in asked[name].items()
        if given.get(tensor) != shapes
    ]


def _cache_failures(recipe: Recipe, record: Record) -> list[str]:
    copies = cache_copies(recipe["cache"], record).get(DECODE)
    # With concat the whole cache is written at every step by request; how is TensorRT's choice.
    if not copies or recipe["cache"]["kind"] == "concat" or recipe.get("pinned"):
        return []
    return [
        f"in the profile {DECODE}, {len(copies)} layers write copies of the cache that were not asked for, at every "
        f"step: {_some(copies)}. TensorRT {record['tensorrt']} does not read the past where it lies"
        f"{' with weights that are quantized alone' if recipe['precision'].endswith('-weights') else ''}: build with "
        "--cache concat, which writes the whole cache at every step by definition, or with --single-pass."
    ]


def cache_copies(cache: Mapping[str, Any] | None, record: Record) -> dict[str, list[str]]:
    """For each profile, the layers that move the past without multiplying it, other than into the declared outputs of
    a concat cache, or the buffers of one in place. Lengths are not needed: what reads the past and is no product can
    only pass it on. In place, new columns are written by a layer that reads the buffer; a copy has its length.

    Attention over many rows wants past and new columns in one piece, so that prefill may have some, once a call.
    """
    names = [profile["name"] for profile in record["profiles"]]
    if cache is None:
        return {}
    past = {port["name"] for port in record["inputs"] if is_past(port["name"])}
    present = {port["name"] for port in record["outputs"] if is_present(port["name"])}
    widths = {port["dims"][-1] for port in record["inputs"] if port["name"] in past}
    declared = set() if cache["kind"] == "delta" else present
    length = [cache["capacity"]] if cache["kind"] == "in_place" else []
    holding = past | declared

    def moved(dims: Sequence[int]) -> bool:
        return any(Counter([width, *length]) <= Counter(dims) for width in widths)

    copies: dict[str, list[str]] = {name: [] for name in names}
    for layer in record["layers"]:
        read = [of_profile(part["name"]) for part in layer["inputs"]]
        profiles = {profile for name, profile in read if name in holding}
        moves = {part["name"] for part in layer["outputs"] if part["dtype"] in BYTES and moved(part["dims"])}
        undeclared = {name for name in moves if of_profile(name)[0] not in declared}
        seen = not (layer["matrix"] or layer["plugin"] or hides_nodes(layer["name"]))
        if undeclared and profiles and seen:
            holding |= {of_profile(name)[0] for name in undeclared} - present
            for profile in profiles:
                copies[names[profile]].append(layer["name"])
    return copies


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "none"
