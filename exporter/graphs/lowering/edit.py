"""Small edits of an ONNX graph that the lowerings share."""

from collections.abc import Mapping

import onnx


def weights(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The graph's initializers by name."""
    return {tensor.name: tensor for tensor in graph.initializer}


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The node behind every value that a node makes."""
    return {name: node for node in graph.node for name in node.output if name}


def readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read a value, once for each time; a value that nobody reads is missing."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give values other names wherever nodes make or read them; the graph's own ports keep theirs."""
    for node in graph.node:
        for values in (node.input, node.output):
            for i, name in enumerate(values):
                if name in names:
                    values[i] = names[name]


def read_instead(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Let nodes read other values than they did; who makes them stays."""
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in names:
                node.input[i] = names[name]


def set_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Make `nodes` the graph's nodes, moved only where a node would come before one that it reads from."""
    behind = {name: node for node in nodes for name in node.output if name}
    ordered: list[onnx.NodeProto] = []
    placed: set[int] = set()
    for node in nodes:
        pending = [node]
        while pending:
            last = pending[-1]
            missing = [behind[name] for name in last.input if name in behind and id(behind[name]) not in placed]
            if missing:
                if any(id(one) == id(other) for one in missing for other in pending):
                    raise AssertionError(f"{last.name} would read its own result")
                pending.extend(missing[:1])
                continue
            pending.pop()
            if id(last) not in placed:
                placed.add(id(last))
                ordered.append(last)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(copies)


def drop_unread(graph: onnx.GraphProto) -> None:
    """Remove the nodes and weights that no output of the graph follows from."""
    behind = producers(graph)
    read: set[str] = set()
    pending = [value.name for value in graph.output]
    while pending:
        name = pending.pop()
        if name not in read:
            read.add(name)
            pending.extend(behind[name].input if name in behind else ())
    set_nodes(graph, [node for node in graph.node if any(name in read for name in node.output)])
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    if len(kept) < len(graph.initializer):
        kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del graph.initializer[:]
        graph.initializer.extend(kept)
