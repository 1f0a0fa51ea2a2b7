"""A session that runs a model's float32 graphs and watches the tensors that enter its products.

Whatever drives it, such as the pipeline, asks for the graph's own outputs and gets them; the watched tensors are
outputs beside those, in as many runs as memory wants, and are gone when the call returns.
"""

import zlib
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path

import numpy as np

from ..exporter.call_shapes import lengths_of
from ..exporter.dims import Dim, known_length
from ..exporter.inspection.values import dims_of, load_graph
from ..exporter.onnx_session import OnnxSession
from ..exporter.parity.bisect_probe import used_columns, used_elements
from ..exporter.session import Arrays
from .links import link_weights
from .observers import Observer

# What is watched at once may take as much, or this share of the component's weights up to _MOST_BYTES.
CHUNK_BYTES, _MOST_BYTES = 256 << 20, 1 << 30
_SHARE = 8
# Taken for a tensor whose shape the graph does not say.
_UNKNOWN_BYTES = 32 << 20

Observers = dict[str, dict[str, Observer]]


class ObservingSession:
    """Implements Session over float32 graphs by component.

    watched gives, by component, the tensors and their observers. Columns that no token uses (padding) and rows without
    an image are not observed: what a model computes there reaches no answer. Rows to keep are drawn by `seed`.
    """

    def __init__(self, graphs: Mapping[str, Path], watched: Observers, folder: Path, seed: int = 0) -> None:
        """folder takes graphs with more outputs, and links to their weights."""
        self.watched, self._seed = watched, seed
        self._calls = 0
        self._dims: dict[str, dict[str, list[Dim]]] = {}
        self._inputs: dict[str, dict[str, list[Dim]]] = {}
        self._outputs: dict[str, dict[str, list[Dim]]] = {}
        self._most: dict[str, int] = {}
        probing = {name: self._with_outputs(name, path, folder) for name, path in graphs.items()}
        self._session = OnnxSession(probing, "fp32")

    def _with_outputs(self, component: str, path: Path, folder: Path) -> Path:
        model = load_graph(path)
        graph = model.graph
        self._inputs[component] = {value.name: dims_of(value) for value in graph.input}
        self._outputs[component] = {value.name: dims_of(value) for value in graph.output}
        known = {value.name: dims_of(value) for value in (*graph.value_info, *graph.input, *graph.output)}
        data = path.with_name(f"{path.name}.data")
        share = data.stat().st_size // _SHARE if data.exists() else 0
        self._most[component] = max(CHUNK_BYTES, min(_MOST_BYTES, share))
        self._dims[component] = {name: known.get(name, []) for name in self.watched.get(component, {})}
        present = {value.name for value in (*graph.output, *graph.input)}
        graph.output.extend(
            value
            for name in self._dims[component]
            if name not in present
            for value in [type(graph.output[0])(name=name)]
        )
        target = folder / path.name
        link_weights(graph, path, folder)
        target.write_bytes(model.SerializeToString())
        return target

    def begin(self, number: int) -> None:
        """Say how many samples were observed before: which rows are kept does not depend on where a run was resumed."""
        self._calls = number << 16

    def run(self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None) -> Arrays:
        """See Session.run."""
        if not self._takes(component, inputs):
            # Which says what is wrong with them.
            return self._session.run(component, inputs, outputs)
        asked = list(outputs or self._outputs[component])
        parts = [self._observed(component, part, asked) for part in self._parts(component, inputs)]
        return {name: np.concatenate([part[name] for part in parts]) for name in asked} if len(parts) > 1 else parts[0]

    def _observed(self, component: str, inputs: Mapping[str, np.ndarray], asked: list[str]) -> Arrays:
        results: Arrays = {}
        for chunk in self._chunks(component, inputs):
            wanted = [*(asked if not results else []), *(name for name in chunk if name not in inputs)]
            made = self._session.run(component, inputs, list(dict.fromkeys(wanted))) if wanted else {}
            # A layer may read an input of the graph as it is.
            found = {**inputs, **made}
            results = results or {name: found[name] for name in asked}
            for name in chunk:
                rows, priorities = self._rows(component, name, found[name], inputs)
                self.watched[component][name].update(rows, priorities, f"{component} {name}")
        self._calls += 1
        return results

    def _parts(self, component: str, inputs: Mapping[str, np.ndarray]) -> Iterator[Mapping[str, np.ndarray]]:
        """The call as it is, or where what is watched needs more memory than it may, with fewer of the batch at a time:
        that costs little, while one chunk more costs another run of the whole model."""
        lengths = self._lengths(component, inputs)
        batched = {name for name, dims in self._inputs[component].items() if "batch" in dims}
        ports = (*(self._inputs[component][name] for name in batched), *self._outputs[component].values())
        rows = lengths.get("batch", 1) if all(dims[:1] == ["batch"] for dims in ports) else 1
        total = sum(_bytes(dims, lengths) for dims in self._dims[component].values())
        pieces = min(rows, -(-total // self._most[component]))
        if pieces < 2:
            yield inputs
            return
        for kept in np.array_split(np.arange(rows), pieces):
            part = slice(kept[0], kept[-1] + 1)
            yield {name: array[part] if name in batched else array for name, array in inputs.items()}

    def _rows(
        self, component: str, name: str, values: np.ndarray, inputs: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rows [n, width] that count, and their priorities."""
        rows = values.reshape(-1, values.shape[-1])
        # Tensors of one shape keep the same rows, those of the same tokens.
        generator = np.random.default_rng([self._seed, zlib.crc32(component.encode()), self._calls])
        priorities = generator.random(len(rows))
        used = _used(self._dims[component][name], values.shape, inputs)
        return (rows, priorities) if used is None else (rows[used], priorities[used])

    def _chunks(self, component: str, inputs: Mapping[str, np.ndarray]) -> Iterator[list[str]]:
        lengths = self._lengths(component, inputs)
        chunk: list[str] = []
        total = 0
        for name, dims in self._dims[component].items():
            size = _bytes(dims, lengths)
            if chunk and total + size > self._most[component]:
                yield chunk
                chunk, total = [], 0
            chunk.append(name)
            total += size
        yield chunk

    def _takes(self, component: str, inputs: Mapping[str, np.ndarray]) -> bool:
        ports = self._inputs.get(component, {})
        return ports.keys() == inputs.keys() and all(inputs[name].ndim == len(dims) for name, dims in ports.items())

    def _lengths(self, component: str, inputs: Mapping[str, np.ndarray]) -> dict[str, int]:
        ports = [{"name": name, "dims": dims} for name, dims in self._inputs[component].items()]
        return lengths_of(ports, {name: array.shape for name, array in inputs.items()})


def _used(dims: list[Dim], shape: tuple[int, ...], inputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Which rows of a tensor count; bool [rows], None for all."""
    kept = used_elements(dims, used_columns(dict(inputs)))
    if kept is None and "image_indicator" in inputs and dims[:1] == ["batch"]:
        kept = (inputs["image_indicator"] != 0).reshape(-1, *[1] * (len(shape) - 1))
    return None if kept is None else np.broadcast_to(kept, (*shape[:-1], 1)).ravel()


def _bytes(dims: list[Dim], lengths: Mapping[str, int]) -> int:
    known = [length for dim in dims if (length := known_length(dim, lengths)) is not None]
    return 4 * prod(known) if dims and len(known) == len(dims) else _UNKNOWN_BYTES
