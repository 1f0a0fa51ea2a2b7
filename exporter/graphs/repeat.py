"""A graph traced with three of its layers -> the graph of all of them.

Tracing takes seconds a layer, and the layers between the first and the last differ in nothing but their weights. The
middle one of three is copied, where the first shows that it may be: the same nodes in the same order, with the same
attributes, on the same operands, one layer on. Otherwise nothing is changed, and the caller traces all layers.

A node belongs to the highest layer whose weights, or whose caches, it depends on. So what a layer does before it meets
its first weight belongs to the layer before: the cut lies elsewhere than in the source, but once in every layer.
"""

import re
from collections.abc import Mapping, Sequence

import onnx_ir as ir

TRACED = 3
_FIRST, _MIDDLE, _LAST = range(TRACED)
_NONE = -1


def repeat_middle(model: ir.Model, stems: Sequence[str], count: int) -> bool:
    """Copy the middle one of three layers until there are `count`, more than three, and say whether that could be done.

    Weights, inputs and outputs of layer i are named `<stem>.<i>.<rest>` with any of `stems`. The new weights are added
    after all others; inputs and outputs too: `put_in_order` has the last word.
    """
    layers = _Layers(model, stems)
    carried = layers.carried()
    if carried is None:
        return False
    layers.repeat(carried, count)
    return True


def put_in_order(model: ir.Model, weights: Sequence[str], inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Sort initializers, inputs and outputs by name; initializers that are in no list come last, as they stand."""
    graph = model.graph
    values = dict(graph.initializers)
    named = {name: values[name] for name in weights}
    graph.initializers.clear()
    graph.initializers.update(named | values)
    for ports, names in ((graph.inputs, inputs), (graph.outputs, outputs)):
        found = {value.name: value for value in ports}
        ports.clear()
        ports.extend(found[name] for name in names)


def numbered(stems: Sequence[str]) -> re.Pattern[str]:
    """Matches `<stem>.<i>.<rest>` with any of the stems: stem, i and rest."""
    return re.compile(rf"({'|'.join(map(re.escape, stems))})\.(\d+)\.(.+)")


class _Layers:
    """The nodes of a graph with three layers, by layer."""

    def __init__(self, model: ir.Model, stems: Sequence[str]) -> None:
        self._graph = model.graph
        self._named = numbered(stems)
        # Values without an entry belong to no layer.
        self._layer: dict[ir.Value, int] = {}
        for value in (*self._graph.initializers.values(), *self._graph.inputs):
            if found := self._named.fullmatch(value.name or ""):
                self._layer[value] = int(found[2])
        self._nodes: list[list[ir.Node]] = [[] for _ in range(TRACED)]
        for node in self._graph:
            layer = max((self._of(value) for value in node.inputs), default=_NONE)
            # Lengths are those of all layers, though the tracer asks one of them.
            if layer != _NONE and node.op_type != "Shape":
                self._nodes[layer].append(node)
                self._layer.update(dict.fromkeys(node.outputs, layer))

    def carried(self) -> dict[ir.Value, ir.Value] | None:
        """What the middle layer takes of the first, each with what of itself the next layer takes in its place; None
        where the three are not the same, or more is taken of the middle layer than the next one takes."""
        first, middle, last = self._nodes
        if len(first) != len(middle) or not self._in_one_piece():
            return None
        ahead = self._renamed(_FIRST, _MIDDLE)
        entering = self._entering(_FIRST, first, middle, ahead)
        # Behind its weights the last layer goes on with what follows all layers, in place of the next one.
        own = set(self._own(_MIDDLE))
        end = 1 + max(i for i, node in enumerate(middle) if not own.isdisjoint(node.inputs))
        following = self._entering(_MIDDLE, middle[:end], last[:end], self._renamed(_MIDDLE, _LAST))
        if not entering or following is None:
            return None
        carried = {value: ahead[value] for value in entering}
        taken = {value for node in last for value in node.inputs if self._of(value) in (_FIRST, _MIDDLE)}
        outputs = [value for value in self._graph.outputs if self._of(value) == _MIDDLE]
        if (
            any(carried.get(before) is not value for value, before in following.items())
            or not taken <= {*carried.values()}
            or not all(self._named.fullmatch(value.name or "") for value in outputs)
        ):
            return None
        return carried

    def _entering(
        self, layer: int, nodes: Sequence[ir.Node], others: Sequence[ir.Node], ahead: dict[ir.Value, ir.Value]
    ) -> dict[ir.Value, ir.Value] | None:
        """What `others`, of the next layer, take of this one, each with what `nodes` take of the layer before in its
        place; None where the two differ. ahead has the weights and inputs of this layer with those of the next, and
        gets their results."""
        found: dict[ir.Value, ir.Value] = {}
        if len(nodes) != len(others):
            return None
        for node, other in zip(nodes, others, strict=True):
            if not _alike(node, other):
                return None
            for value, next_value in zip(node.inputs, other.inputs, strict=True):
                if value is None or next_value is None:
                    if value is not next_value:
                        return None
                elif self._of(value) == layer - 1 and self._of(next_value) == layer:
                    if found.setdefault(next_value, value) is not value:
                        return None
                elif ahead.get(value) is not next_value and not self._same(value, next_value):
                    return None
            ahead.update(zip(node.outputs, other.outputs, strict=True))
        return found

    def repeat(self, carried: Mapping[ir.Value, ir.Value], count: int) -> None:
        """Copy the middle layer, and make the last one number `count` - 1."""
        last = count - 1
        for value, layer in self._layer.items():
            if layer == _LAST and self._named.fullmatch(value.name or ""):
                value.name = self._name(value, last)
        # What stands in a copy for each value of the middle layer, and for what that takes of the first.
        before: dict[ir.Value, ir.Value] = dict(carried)
        place = self._nodes[_MIDDLE][-1]
        made: dict[ir.Value, ir.Value] = {}
        for layer in range(_LAST, last):
            made = before | {value: self._numbered(value, layer) for value in self._own(_MIDDLE)}
            copies = [_copied(node, made) for node in self._nodes[_MIDDLE]]
            self._graph.insert_after(place, copies)
            place = copies[-1]
            for output in self._graph.outputs[:]:
                if self._of(output) == _MIDDLE:
                    made[output].name = self._name(output, layer)
                    self._graph.outputs.append(made[output])
            before = {value: made[after] for value, after in carried.items()}
        for node in self._nodes[_LAST]:
            for index, taken in enumerate(node.inputs):
                if taken is not None and self._of(taken) == _MIDDLE:
                    node.replace_input_with(index, made[taken])

    def _of(self, value: ir.Value | None) -> int:
        return _NONE if value is None else self._layer.get(value, _NONE)

    def _in_one_piece(self) -> bool:
        """Whether the middle layer's nodes stand together, behind the first's and before the last's."""
        order = [max((self._of(output) for output in node.outputs), default=_NONE) for node in self._graph]
        start = order.index(_MIDDLE) if _MIDDLE in order else 0
        size = len(self._nodes[_MIDDLE])
        return (
            size > 0
            and order[start : start + size] == [_MIDDLE] * size
            and _LAST not in order[:start]
            and _FIRST not in order[start:]
        )

    def _own(self, layer: int) -> list[ir.Value]:
        """Weights and inputs of a layer."""
        return [value for value, of in self._layer.items() if of == layer and value.producer() is None]

    def _renamed(self, layer: int, other: int) -> dict[ir.Value, ir.Value]:
        """Weights and inputs of one layer, each with that of another."""
        names = {value.name: value for value in self._own(other)}
        return {value: names[name] for value in self._own(layer) if (name := self._name(value, other)) in names}

    def _name(self, value: ir.Value, layer: int) -> str:
        found = self._named.fullmatch(value.name or "")
        assert found is not None
        return f"{found[1]}.{layer}.{found[3]}"

    def _numbered(self, value: ir.Value, layer: int) -> ir.Value:
        """A weight or an input like `value`, of another layer, added to the graph."""
        new = ir.Value(name=self._name(value, layer), shape=value.shape, type=value.type)
        if value.is_initializer():
            self._graph.initializers.add(new)
        else:
            self._graph.inputs.append(new)
        return new

    def _same(self, value: ir.Value, other: ir.Value) -> bool:
        """Whether two values that belong to no layer are the same, or equal constants."""
        if value is other:
            return self._of(value) == _NONE
        constants = [each.const_value for each in (value, other)]
        if self._of(value) != _NONE or self._of(other) != _NONE or None in constants:
            return False
        one, two = (constant.numpy() for constant in constants if constant is not None)
        return bool(one.dtype == two.dtype and one.shape == two.shape and (one == two).all())


def _alike(node: ir.Node, other: ir.Node) -> bool:
    return (
        node.op_identifier() == other.op_identifier()
        and len(node.inputs) == len(other.inputs)
        and len(node.outputs) == len(other.outputs)
        and _attributes(node) == _attributes(other)
        and [_form(value) for value in node.outputs] == [_form(value) for value in other.outputs]
    )


def _attributes(node: ir.Node) -> dict[str, bytes]:
    return {
        name: ir.serde.serialize_attribute(attribute).SerializeToString(deterministic=True)
        for name, attribute in node.attributes.items()
    }


def _form(value: ir.Value) -> tuple[str, list[int | None] | None]:
    """Type and shape; the tracer may have another symbol for the same length in every layer."""
    dims = None if value.shape is None else [dim if isinstance(dim, int) else None for dim in value.shape]
    return str(value.type), dims


def _copied(node: ir.Node, made: dict[ir.Value, ir.Value]) -> ir.Node:
    """A node on what stands in `made` for its inputs; its outputs are added there."""
    copy = ir.Node(
        node.domain,
        node.op_type,
        [None if value is None else made.get(value, value) for value in node.inputs],
        node.attributes.values(),
        overload=node.overload,
        num_outputs=len(node.outputs),
    )
    for value, new in zip(node.outputs, copy.outputs, strict=True):
        new.shape, new.type = value.shape, value.type
        made[value] = new
    return copy
