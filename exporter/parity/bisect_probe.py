"""Every tensor inside a graph beside its counterpart in a float32 graph of the same model, in bounded memory.

The tensors are made outputs of the graph a chunk at a time, and the nodes that a chunk does not need are left out. Its
weights stay in their file, which a link brings beside the probing graph.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from ..dims import ENCODER_SEQUENCE, Dim
from ..inspection.values import ValueType, dims_of, load_graph, type_graph
from ..onnx_session import OnnxSession
from ..progress import Advance
from ..session import Arrays

CHUNK_TENSORS = 32
CHUNK_BYTES = 256 << 20
# Attention masks fill with values of this size: an error beside them, or in them, says nothing.
_FILL = 1e30
# What a difference from nothing but zeros is measured by: very large, but finite.
_TINY = float(np.finfo(np.float32).tiny)
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)


@dataclass(frozen=True)
class GraphPair:
    """A graph and its float32 counterpart. `partners` gives for a value of the first its name in the second; through
    Casts it is the same value. `path` and `twin_path` are files with their weights beside them."""

    path: Path
    graph: onnx.ModelProto
    twin_path: Path
    twin: onnx.ModelProto
    partners: Mapping[str, str]

    @classmethod
    def read(cls, path: Path, twin_path: Path) -> "GraphPair":
        """Read both files without weights; InputError where one is no graph."""
        graph, twin = load_graph(path), load_graph(twin_path)
        return cls(path, graph, twin_path, twin, partners(graph, twin))

    @property
    def unpaired(self) -> list[str]:
        """Nodes without a counterpart: the graph was edited, or made by something else."""
        return [
            node.name or node.output[0]
            for node in self.graph.graph.node
            if node.op_type != "Cast" and not any(output in self.partners for output in node.output)
        ]


def partners(graph: onnx.ModelProto, twin: onnx.ModelProto) -> dict[str, str]:
    """For each value of `graph` the value of `twin` that it should equal: results of nodes pair by the node's name,
    inputs by their own, and the result of a Cast has the partner of what is cast."""
    results = {
        (node.name, index): output
        for node in twin.graph.node
        if node.op_type != "Cast"
        for index, output in enumerate(node.output)
    }
    inputs = {value.name for value in twin.graph.input}
    found = {value.name: value.name for value in graph.graph.input if value.name in inputs}
    for node in graph.graph.node:
        for index, output in enumerate(node.output):
            passes = node.op_type == "Cast" and node.attribute[0].i in _FLOATS
            partner = found.get(node.input[0]) if passes else results.get((node.name, index))
            if partner is not None:
                found[output] = partner
    return found


def run_graph(model: onnx.ModelProto, path: Path, outputs: Sequence[str], inputs: Arrays, precision: str) -> Arrays:
    """The values `outputs` of a graph in ONNX Runtime; the probing graph is written to `path`, beside its weights."""
    if not outputs:
        return {}
    path.write_bytes(probe(model, outputs).SerializeToString())
    # Without optimization nodes stay what they are, and weights stay mapped.
    session = OnnxSession({model.graph.name: path}, precision, optimize=False)
    return session.run(model.graph.name, inputs, list(outputs))


# How a probing graph is run: as run_graph.
Run = Callable[[onnx.ModelProto, Path, Sequence[str], Arrays, str], Arrays]


def errors(
    pair: GraphPair,
    inputs: Arrays,
    precision: str,
    advance: Advance,
    folder: Path,
    run: Run = run_graph,
    only: Sequence[str] | None = None,
    most: int | None = None,
) -> dict[str, float]:
    """The relative L2 of every paired value of the graph, or of `only` some, by name, and of its inputs, which are
    first cast to the graph's types.

    Both graphs get the same inputs, the float32 one in ONNX Runtime. Columns that no token uses are left out. `folder`
    takes the probing graphs, see `chunks` for `most`; advance is told the bytes compared. Raises InputError where a
    graph cannot be run.
    """
    link = _beside(pair.path, folder / "graph")
    twin_link = _beside(pair.twin_path, folder / "twin")
    columns = used_columns(inputs)
    dims = {v.name: dims_of(v) for v in (*pair.twin.graph.value_info, *pair.twin.graph.input, *pair.twin.graph.output)}
    found = {
        value.name: relative_l2(_cast(inputs[value.name], value), inputs[value.name], None)
        for value in pair.graph.graph.input
    }
    for chunk, size in chunks(pair, inputs, only, most):
        wanted = sorted({pair.partners[name] for name in chunk} - set(inputs))
        expected = {**inputs, **run_graph(pair.twin, twin_link, wanted, inputs, "fp32")}
        actual = run(pair.graph, link, chunk, inputs, precision)
        for name in chunk:
            partner = pair.partners[name]
            kept = used_elements(dims.get(partner, []), columns)
            found[name] = relative_l2(actual[name], expected[partner], kept)
        advance(size)
    return found


def chunks(
    pair: GraphPair, inputs: Arrays, only: Sequence[str] | None = None, most: int | None = None
) -> Iterator[tuple[list[str], int]]:
    """The graph's paired results, or `only` some, in order, at most `most` (CHUNK_TENSORS unless given) or CHUNK_BYTES
    of them and their partners (or a single larger one) at a time, and how many bytes that is."""
    asked, most = None if only is None else {*only}, most or CHUNK_TENSORS
    sizes, twin_sizes = _sizes(pair.path, inputs), _sizes(pair.twin_path, inputs)
    chunk: list[str] = []
    total = 0
    for node in pair.graph.graph.node:
        for name in node.output:
            if name not in pair.partners or (asked is not None and name not in asked):
                continue
            # What cannot be inferred is taken to be of a middling size.
            unknown = CHUNK_BYTES // CHUNK_TENSORS // 2
            size = sizes.get(name, unknown) + twin_sizes.get(pair.partners[name], unknown)
            if chunk and (len(chunk) == most or total + size > CHUNK_BYTES):
                yield chunk, total
                chunk, total = [], 0
            chunk.append(name)
            total += size
    if chunk:
        yield chunk, total


def _sizes(path: Path, inputs: Arrays) -> dict[str, int]:
    """Bytes of every value whose type is known."""
    # Typing drops inline values, which a probing graph needs: it gets a copy of its own.
    model = load_graph(path)
    lengths = {
        dim: length
        for value in model.graph.input
        for dim, length in zip(dims_of(value), inputs[value.name].shape, strict=True)
        if isinstance(dim, str)
    }
    types = type_graph(model, lengths).types
    return {name: _bytes(kind) for name, kind in types.items() if kind.known}


def _bytes(kind: ValueType) -> int:
    count = 1
    for dim in kind.dims or ():
        count *= dim or 0
    width = {"float16": 2, "bfloat16": 2, "bool": 1, "int64": 8, "float64": 8}.get(kind.dtype, 4)
    return count * width


def used_columns(inputs: Arrays) -> dict[str, np.ndarray]:
    """For each named dimension that counts columns of tokens, which are used [B,columns]; empty for other inputs."""
    if "encoder_attention_mask" in inputs:
        return {ENCODER_SEQUENCE: inputs["encoder_attention_mask"] != 0}
    if "attention_mask" not in inputs or "input_ids" not in inputs:
        return {}
    used = inputs["attention_mask"] != 0
    new = used[:, used.shape[1] - inputs["input_ids"].shape[1] :]
    found = {"past_sequence + sequence": used, "sequence": new, ENCODER_SEQUENCE: new}
    if "logits_positions" in inputs:
        found["positions"] = np.take_along_axis(new, inputs["logits_positions"], 1)
    return found


def used_elements(dims: Sequence[Dim], columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Which elements of a tensor with these dimensions belong to used columns, to be broadcast; None for all."""
    kept = None
    if list(dims[:1]) != ["batch"]:
        return None
    for axis, dim in enumerate(dims):
        if isinstance(dim, str) and dim in columns:
            used = columns[dim]
            shape = [1] * len(dims)
            shape[0], shape[axis] = used.shape
            kept = used.reshape(shape) if kept is None else kept & used.reshape(shape)
    return kept


def relative_l2(actual: np.ndarray, expected: np.ndarray, kept: np.ndarray | None) -> float:
    """`|actual - expected| / |expected|` in float32 over the kept elements; infinite where the shapes differ or one
    side alone is not finite, and only there. A mask's fill that both sides have is left out."""
    if actual.shape != expected.shape:
        return np.inf
    with np.errstate(over="ignore"):
        a, e = actual.astype(np.float32), expected.astype(np.float32)
    with np.errstate(invalid="ignore"):
        filled = (np.abs(e) >= _FILL) & (np.abs(a) >= _FILL) & (np.sign(a) == np.sign(e)) | np.isnan(a) & np.isnan(e)
        left_out = filled if kept is None else filled | ~kept
        a[left_out], e[left_out] = 0, 0
        a -= e
    gap, norm = _norm(a), _norm(e)
    if not np.isfinite(gap):
        return np.inf
    return gap / max(norm, _TINY)


def _norm(values: np.ndarray) -> float:
    flat = values.ravel()
    # Summed in float64 without a copy in float64.
    return float(np.sqrt(np.einsum("i,i->", flat, flat, dtype=np.float64)))


def _cast(array: np.ndarray, value: onnx.ValueInfoProto) -> np.ndarray:
    return array.astype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def _beside(graph: Path, folder: Path) -> Path:
    """Bring the weights of `graph` into a new folder and return where a probing graph is to lie."""
    folder.mkdir(parents=True)
    data = graph.with_name(graph.name + ".data").resolve()
    try:
        os.link(data, folder / f"{graph.name}.data")
    except OSError:
        # Another disk, or a file of another user.
        (folder / f"{graph.name}.data").symlink_to(data)
    return folder / graph.name


def probe(model: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """A copy that computes `outputs` and nothing else, from the same inputs."""
    needed = set(outputs)
    nodes = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    for field in ("node", "output", "value_info", "initializer"):
        graph.ClearField(field)
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    # ONNX Runtime infers the types of outputs that are names only.
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return copy
