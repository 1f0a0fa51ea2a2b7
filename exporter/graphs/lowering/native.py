"""Lowering to a target's own operators: the memory's static halves become neurons of the layer's feed-forward block.

With x the hidden states, Z the visual rows, Pk and Pv the position tables, h the block's inner activations and W2 its
down projection:

    S = x Pk^T + pad(x Z^T);   a = act(S);   out = [h | a] [W2 ; scale Pv] + scale * a[..., :v] Z

which is docs/operators.md with `scale * a Pv` moved into the product that is made anyway. v and p are rounded up to
multiples of 8 by rows of zeros, because TensorRT copies operands of other widths; that is exact, since act(0) = 0.
"""

from dataclasses import dataclass

import numpy as np
import onnx

from ...errors import InputError
from ...inspection.memory_sites import DOMAIN, VISUAL_MEMORY
from ...inspection.values import dims_of, dtype_name
from .additions import Additions
from .edit import producers, readers, weights
from .stored import DTYPES, NewWeights

_MULTIPLE = 8


@dataclass(frozen=True)
class _Site:
    """One VisualMemoryFFN node; rows is v and table_rows is p, both rounded up. data_type is what it computes in: that
    of its tables, or float32 where they are cast for a site that is kept in it."""

    name: str
    hidden: str
    ffn: str
    visual: str
    output: str
    keys: onnx.TensorProto
    values: onnx.TensorProto
    data_type: int
    scale: float
    missing_rows: int
    rows: int
    table_rows: int

    @property
    def cast(self) -> bool:
        """Whether the site reads the tables in another type than they are stored in."""
        return self.keys.data_type != self.data_type or self.values.data_type != self.data_type

    def shared(self, name: str) -> str:
        """The name of a value that sites of the same type share."""
        return f"memory/{name}/{dtype_name(self.data_type)}" if self.cast else f"memory/{name}"


@dataclass(frozen=True)
class _Product:
    """A MatMul whose second operand is a stored weight."""

    node: onnx.NodeProto
    weight: onnx.TensorProto


def merge_memory(model: onnx.ModelProto, new: NewWeights) -> int:
    """Write every VisualMemoryFFN of `model` out as above, new weights into `new`; returns how many there were.

    Where a block's output is no product with a stored weight that nothing else uses, `scale * a Pv` stays a product of
    its own. Raises InputError where a number of rows is not static.
    """
    graph = model.graph
    sites = [_site(node, graph) for node in graph.node if (node.domain, node.op_type) == (DOMAIN, VISUAL_MEMORY)]
    if sites:
        added = Additions(graph)
        down = _down_projections(graph, sites)
        activation = _activation(model)
        for site in sites:
            _write(site, down.get(site.name), activation, new, added)
        added.apply({site.output for site in sites})
    return len(sites)


def merged_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the weights that `merge_memory` would write for `model`."""
    graph = model.graph
    sites = [_site(node, graph) for node in graph.node if (node.domain, node.op_type) == (DOMAIN, VISUAL_MEMORY)]
    down = _down_projections(graph, sites)
    own = [site.table_rows + (down[site.name].weight.dims[0] if site.name in down else 0) for site in sites]
    keys = {site.shared(site.keys.name): site for site in sites if _new_keys(site)}
    made = [*zip(sites, own, strict=True), *((site, site.table_rows) for site in keys.values())]
    return sum(rows * site.values.dims[1] * DTYPES[site.data_type].itemsize for site, rows in made)


def _site(node: onnx.NodeProto, graph: onnx.GraphProto) -> _Site:
    hidden, ffn, visual, *tables = node.input
    shapes = {value.name: dims_of(value) for value in (*graph.input, *graph.value_info)}
    rows = shapes.get(visual, [None, None])[1]
    stored, casts = weights(graph), {each.output[0]: each for each in graph.node if each.op_type == "Cast"}
    read = [casts[name].input[0] if name in casts else name for name in tables]
    if not isinstance(rows, int) or not all(name in stored for name in read):
        raise InputError(f"{node.name} in {graph.name!r} has no static number of rows: export the bundle again.")
    keys, values = (stored[name] for name in read)
    cast = casts.get(tables[0])
    data_type = cast.attribute[0].i if cast else keys.data_type
    scale = next(a.f for a in node.attribute if a.name == "scale")
    padded = _rounded(rows), _rounded(keys.dims[0])
    operands = (node.name, hidden, ffn, visual, node.output[0], keys, values, data_type)
    return _Site(*operands, scale, padded[0] - rows, *padded)


def _new_keys(site: _Site) -> bool:
    """Whether the keys must be written anew for a site: longer, or in another type."""
    return site.keys.dims[0] < site.table_rows or site.keys.data_type != site.data_type


def _rounded(rows: int) -> int:
    return -(-rows // _MULTIPLE) * _MULTIPLE


def _down_projections(graph: onnx.GraphProto, sites: list[_Site]) -> dict[str, _Product]:
    """The product that makes each site's `ffn`, a bias passed over, where merging changes no other value."""
    made, read, stored = producers(graph), readers(graph), weights(graph)
    shared = {value.name for value in graph.output} | {name for name, nodes in read.items() if len(nodes) > 1}

    def behind(value: str) -> _Product | None:
        node = made.get(value)
        if node is None or value in shared:
            return None
        if node.op_type == "Add":
            summands = [name for name in node.input if name not in stored]
            return behind(summands[0]) if len(summands) == 1 else None
        weight = stored.get(node.input[1]) if node.op_type == "MatMul" and node.input[1] not in shared else None
        # Weights of other types are quantized: their scales do not fit the tables.
        return _Product(node, weight) if weight and weight.data_type in DTYPES else None

    return {site.name: product for site in sites if (product := behind(site.ffn))}


def _write(
    site: _Site, down: _Product | None, activation: list[onnx.NodeProto], new: NewWeights, added: Additions
) -> None:
    def named(name: str) -> str:
        return f"{site.name}/{name}"

    visual = site.visual
    if site.missing_rows:
        ends = added.constant(np.array([0, 0, 0, 0, site.missing_rows, 0]), "memory/missing_rows")
        visual = added.node("Pad", [visual, ends], f"memory/{visual}")
    columns = added.node("Transpose", [visual], f"memory/{site.visual}/columns", perm=[0, 2, 1])
    keys = site.keys.name
    if _new_keys(site):
        parts = [(site.keys, 1.0)]
        keys = added.weight(site.shared(keys), lambda name: new.add(name, parts, site.table_rows, site.data_type))
    table = added.node("Transpose", [keys], f"{site.shared(site.keys.name)}/columns", perm=[1, 0])

    visual_scores = added.node("MatMul", [site.hidden, columns], named("visual_scores"))
    if site.rows < site.table_rows:
        ends = added.constant(np.array([0, 0, 0, 0, 0, site.table_rows - site.rows]), "memory/rows_of_tables_only")
        visual_scores = added.node("Pad", [visual_scores, ends], named("padded_scores"))
    table_scores = added.node("MatMul", [site.hidden, table], named("table_scores"))
    added.node("Add", [table_scores, visual_scores], named("scores"))
    for node in activation:
        added.copy(node, named)

    base = _with_table_values(site, down, named("activations"), new, added)
    activations = named("activations")
    if site.rows < site.table_rows:
        cut = [added.constant(np.array([i]), f"memory/{i}") for i in (0, site.rows, 2)]
        activations = added.node("Slice", [activations, *cut], named("visual_activations"))
    looked_up = added.node("MatMul", [activations, visual], named("visual_values"))
    scale = added.constant(np.array(site.scale, DTYPES[site.data_type]), site.shared(f"scale_{site.scale:.7g}"))
    added.node("Add", [base, added.node("Mul", [looked_up, scale], named("scaled"))], site.output)


def _with_table_values(site: _Site, down: _Product | None, activations: str, new: NewWeights, added: Additions) -> str:
    """`ffn + scale * a Pv`, merged into the down projection where there is one to merge it into."""
    if down is None:
        name, own = site.shared(f"{site.values.name}/scaled_{site.scale:.7g}"), [(site.values, site.scale)]
        table = added.weight(name, lambda name: new.add(name, own, site.table_rows, site.data_type))
        table_values = added.node("MatMul", [activations, table], f"{site.name}/table_values")
        return added.node("Add", [site.ffn, table_values], f"{site.name}/with_table")
    inner, weight = down.node.input
    rows = down.weight.dims[0] + site.table_rows
    parts = [(down.weight, 1.0), (site.values, site.scale)]
    down.node.input[0] = added.node("Concat", [inner, activations], f"{site.name}/merged", axis=-1)
    down.node.input[1] = added.weight(f"{weight}/with_memory", lambda name: new.add(name, parts, rows))
    return site.ffn


def _activation(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes of the operator's body that make `activations` of `scores`: the file says itself what act is."""
    body = next((f for f in model.functions if (f.domain, f.name) == (DOMAIN, VISUAL_MEMORY)), None)
    if body is None:
        raise InputError(f"graph {model.graph.name!r} has no body of {VISUAL_MEMORY}: it is not a published graph.")
    made = {name: node for node in body.node for name in node.output}
    found: dict[str, onnx.NodeProto] = {}
    pending = ["activations"]
    while pending:
        name = pending.pop()
        if name != "scores" and name not in found:
            found[name] = made[name]
            pending.extend(made[name].input)
    return list(found.values())
