"""Small rewrites of a traced graph before it is published."""

import re
from collections import Counter
from collections.abc import Collection, Mapping

import onnx_ir as ir

from ..keep_fp32 import module_of
from ..models.component import Component, Port

TRANSPOSED = "transposed"


def fold_weight_transposes(model: ir.Model, weights: Collection[str]) -> None:
    """Where a weight enters only through Transpose(perm=[1,0]), mark it transposed and drop the nodes.

    The writer stores such a weight already transposed: ONNX Runtime would otherwise hold both forms.
    """
    for name in weights:
        value = model.graph.initializers[name]
        users = list(value.uses())
        if not users or not all(_swaps_two_axes(node) for node, _ in users):
            continue
        assert value.shape is not None
        value.shape = ir.Shape(list(reversed(value.shape)))
        value.metadata_props[TRANSPOSED] = "1"
        for node, _ in users:
            node.outputs[0].replace_all_uses_with(value)
            model.graph.remove(node, safe=True)


def _swaps_two_axes(node: ir.Node) -> bool:
    permutation = node.attributes.get("perm")
    return (
        node.op_type == "Transpose"
        and node.domain == ""
        and permutation is not None
        and (list(permutation.as_ints()) == [1, 0])
    )


def name_symbols(model: ir.Model, names: Mapping[str, str]) -> None:
    """Write names in place of the tracer's symbols everywhere but in the graph's inputs and outputs."""
    for node in model.graph:
        for value in node.outputs:
            if value.shape is not None and value not in model.graph.outputs:
                value.shape = ir.Shape([dim if isinstance(dim, int) else _renamed(dim, names) for dim in value.shape])


def name_dynamic_dims(model: ir.Model, component: Component) -> None:
    """Write the component's dimension names into the graph's inputs and outputs, and in place of the tracer's symbols
    everywhere else."""
    names: dict[str, str] = {}
    for values, ports in ((model.graph.inputs, component.inputs), (model.graph.outputs, component.outputs)):
        for value, port in zip(values, ports, strict=True):
            _check(value, port)
            assert value.shape is not None
            for traced, declared in zip(value.shape, port.dims, strict=True):
                if isinstance(declared, str):
                    names.setdefault(_symbol(traced), declared)
            value.shape = ir.Shape(list(port.dims))
    name_symbols(model, names)


def _symbol(dim: int | ir.SymbolicDim) -> str:
    return str(dim.value) if isinstance(dim, ir.SymbolicDim) else str(dim)


def _renamed(dim: ir.SymbolicDim, names: Mapping[str, str]) -> ir.SymbolicDim:
    """A symbol, or an expression of symbols such as "s15 + s24"; what has no name keeps none."""
    if dim.value is None:
        return dim
    symbol = _symbol(dim)
    return ir.SymbolicDim(names.get(symbol) or re.sub(r"\w+", lambda part: names.get(part[0], part[0]), symbol))


def _check(value: ir.Value, port: Port) -> None:
    """A dimension that the trace fixed to a number would silently make the graph static."""
    assert value.name == port.name and value.shape is not None, (value.name, port.name)
    for traced, declared in zip(value.shape, port.dims, strict=True):
        if isinstance(declared, str) == isinstance(traced, int):
            raise AssertionError(f"{port.name}: traced as {value.shape}, declared as {port.dims}")


def name_constants(model: ir.Model, weights: Collection[str]) -> None:
    """Name the initializers that are no weights by the order in which they are first read: they differ from trace to
    trace otherwise."""
    initializers = model.graph.initializers
    read = dict.fromkeys(value for node in model.graph for value in node.inputs if value is not None)
    constants = [value for value in read if value.is_initializer() and value.name not in weights]
    for value in constants:
        assert value.name is not None
        del initializers[value.name]
    for index, value in enumerate(constants):
        value.name = f"constant_{index}"
        initializers.add(value)


def name_nodes(model: ir.Model, weights: Collection[str]) -> None:
    """Name nodes and their results after the modules they belong to, and drop the tracer's metadata.

    A node that reads the weight `a.b.weight` is `a.b/MatMul`; others carry the module of the weight before them. Casts
    are counted apart, so that the graphs of one model in different precisions share all other names.
    """
    scope = model.graph.name or "graph"
    counts: Counter[str] = Counter()
    for node in model.graph:
        own = next((value.name for value in node.inputs if value is not None and value.name in weights), None)
        # A table of the memory that is cast for one site belongs to that site.
        if own is not None and node.domain == "" and node.op_type != "Cast":
            scope = module_of(own)
        base = f"{scope}/{node.op_type}"
        counts[base] += 1
        node.name = base if counts[base] == 1 else f"{base}_{counts[base]}"
        node.metadata_props.clear()
        for index, output in enumerate(node.outputs):
            if output not in model.graph.outputs:
                output.name = node.name if len(node.outputs) == 1 else f"{node.name}.{index}"
            output.metadata_props.clear()
    for value in (*model.graph.initializers.values(), *model.graph.inputs, *model.graph.outputs):
        for key in [key for key in value.metadata_props if key != TRANSPOSED]:
            del value.metadata_props[key]
