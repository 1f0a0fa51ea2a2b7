"""TensorRT and a GPU that are not there: engines whose results come from ONNX Runtime or NumPy, over device memory that
is a dict of host buffers. What a session does to either is checked as strictly as a crash of the real ones would be."""

import ctypes
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
from memvp_export.exporter.engines.engine_error import EngineError
from memvp_export.exporter.engines.preflight import Environment, Gpu, InstalledPlugin

VERSION = "11.4.0.106"
HERE = Environment(
    VERSION,
    "tensorrt",
    Gpu("NVIDIA H200", "90", "13.0", "13.0", 140 << 30, 139 << 30),
    plugin=InstalledPlugin("a1b2c3", "d" * 64, ["VisualMemoryFFN"]),
)
DTYPES = {
    "float32": "FLOAT",
    "float16": "HALF",
    "bfloat16": "BF16",
    "int64": "INT64",
    "int32": "INT32",
    "bool": "BOOL",
}
_POISON = 0xA5

trt = SimpleNamespace(
    __version__=VERSION,
    TensorIOMode=SimpleNamespace(INPUT="input", OUTPUT="output"),
    ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
)


class FakeGpu:
    """The methods of Cuda that a session uses. capacity is the memory in bytes; `live` are buffers and handles; moved
    are the bytes that were uploaded and downloaded, `copies` the number of copies that did neither; graphs counts what
    was captured and launched. graph_fault is why nothing can be captured, graph_fault_kind the kind of that."""

    def __init__(self, capacity: int = 1 << 40) -> None:
        self.capacity = capacity
        self.live: dict[int, np.ndarray | str | list[Callable[[], None]]] = {}
        self.mallocs = self.copies = 0
        self.moved: Counter[str] = Counter()
        self.graphs: Counter[str] = Counter()
        self.graph_fault, self.graph_fault_kind = "", "input"
        self.capturing: list[Callable[[], None]] | None = None
        self._next = 0x7000

    def _enter(self, what: np.ndarray | str | list[Callable[[], None]], size: int = 256) -> int:
        # Gaps between buffers: an address and a length that leave one hit nothing.
        address = self._next
        self._next += -(-size // 256) * 256 + 4096
        self.live[address] = what
        return address

    def put(self, stream: int, work: Callable[[], None]) -> None:
        """Work on a stream: done at once, or when the graph is launched that it becomes a part of."""
        assert self.live[stream] == "stream"
        if self.capturing is None:
            work()
        else:
            self.capturing.append(work)

    def malloc(self, size: int) -> int:
        held = sum(buffer.nbytes for buffer in self.live.values() if isinstance(buffer, np.ndarray))
        if held + size > self.capacity:
            raise EngineError("the GPU has too little free memory: cudaMalloc failed.", "environment")
        self.mallocs += 1
        return self._enter(np.full(size, _POISON, np.uint8), size)

    def free(self, pointer: int) -> None:
        assert isinstance(self.live.pop(pointer), np.ndarray)

    def stream(self) -> int:
        return self._enter("stream")

    def destroy_stream(self, stream: int) -> None:
        assert self.live.pop(stream) == "stream"

    def event(self) -> int:
        return self._enter("event")

    def destroy_event(self, event: int) -> None:
        assert self.live.pop(event) == "event"

    def record(self, event: int, stream: int) -> None:
        assert (self.live[event], self.live[stream]) == ("event", "stream") and self.capturing is None

    def elapsed_ms(self, start: int, end: int) -> float:
        assert start != end and self.live[start] == self.live[end] == "event"
        return 0.001

    def synchronize(self, stream: int) -> None:
        assert self.live[stream] == "stream" and self.capturing is None

    def buffer(self, pointer: int, size: int) -> np.ndarray:
        for start, found in self.live.items():
            if isinstance(found, np.ndarray) and start <= pointer < start + found.nbytes:
                assert pointer + size <= start + found.nbytes, "beyond the end of a buffer"
                return found[pointer - start : pointer - start + size]
        raise AssertionError("outside of all buffers")

    def upload(self, pointer: int, host: int, size: int, stream: int) -> None:
        assert self.capturing is None, "host memory must not be a part of a graph"
        self.moved["up"] += size
        if size:
            ctypes.memmove(self.buffer(pointer, size).ctypes.data, host, size)

    def download(self, host: int, pointer: int, size: int, stream: int) -> None:
        assert self.capturing is None, "host memory must not be a part of a graph"
        self.moved["down"] += size
        if size:
            ctypes.memmove(host, self.buffer(pointer, size).ctypes.data, size)

    def copy_rows(
        self, to: int, to_pitch: int, source: int, source_pitch: int, width: int, rows: int, stream: int
    ) -> None:
        assert 0 < width <= min(to_pitch, source_pitch) and rows > 0

        def work() -> None:
            self.copies += 1
            target = self.buffer(to, (rows - 1) * to_pitch + width)
            origin = self.buffer(source, (rows - 1) * source_pitch + width)
            assert not np.shares_memory(target, origin)
            for row in range(rows):
                begin = row * source_pitch
                target[row * to_pitch : row * to_pitch + width] = origin[begin : begin + width]

        self.put(stream, work)

    def zero(self, pointer: int, size: int, stream: int) -> None:
        def work() -> None:
            self.buffer(pointer, size)[:] = 0

        self.put(stream, work)

    def captured(self, stream: int, work: Callable[[], None]) -> int:
        assert self.capturing is None
        self.capturing = found = []
        try:
            work()
        finally:
            self.capturing = None
        if self.graph_fault:
            raise EngineError(self.graph_fault, self.graph_fault_kind)
        self.graphs["captured"] += 1
        return self._enter(found)

    def launch(self, graph: int, stream: int) -> None:
        found = self.live[graph]
        assert isinstance(found, list) and self.live[stream] == "stream"
        self.graphs["launched"] += 1
        for work in found:
            work()

    def destroy_graph(self, graph: int) -> None:
        assert isinstance(self.live.pop(graph), list)


Compute = Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]


class FakeEngine:
    """An ICudaEngine with the ports and profiles of a manifest's entry, which computes with `compute`."""

    def __init__(self, gpu: FakeGpu, entry: Mapping[str, Any], compute: Compute, activation: int = 1000) -> None:
        self.gpu, self.compute = gpu, compute
        self.ports = {port["name"]: port for port in (*entry["inputs"], *entry["outputs"])}
        self.inputs = [port["name"] for port in entry["inputs"]]
        self.profiles = entry["profiles"]
        self.in_place = bool(entry["cache"] and entry["cache"]["kind"] == "in_place")
        self.num_io_tensors = len(self.ports)
        self.num_optimization_profiles = len(self.profiles)
        self.device_memory_size_v2 = activation
        self.contexts: list[FakeContext] = []

    def get_tensor_name(self, index: int) -> str:
        return list(self.ports)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name in self.inputs else "output"

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=DTYPES[self.ports[name]["dtype"]])

    def create_execution_context(self, strategy: str) -> "FakeContext":
        assert strategy == "user managed"
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]


class FakeContext:
    """An IExecutionContext. `runs` are the shapes it was executed with. As TensorRT asks it of its users, a call is
    captured only as one that ran before, and its graph launched only while nothing of the context was changed."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.profile = engine, -1
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.memory: tuple[int, int] = (0, 0)
        self.runs: list[dict[str, tuple[int, ...]]] = []
        self.changes = 0
        self.settled = -1

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        assert self.engine.gpu.live[stream] == "stream"
        assert all(other.profile != profile for other in self.engine.contexts), "a profile serves one context"
        self.profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        limits = self.engine.profiles[self.profile]["shapes"][name]
        self.changes += 1
        self.shapes[name] = tuple(shape)
        return all(a <= d <= b for a, d, b in zip(limits["min"], shape, limits["max"], strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert set(self.shapes) == set(self.engine.inputs)
        lengths: dict[str, int] = {}
        for port in self.engine.inputs:
            for dim, length in zip(self.engine.ports[port]["dims"], self.shapes[port], strict=True):
                lengths[str(dim)] = length
        terms = [[d] if isinstance(d, int) else d.split(" + ") for d in self.engine.ports[name]["dims"]]
        if {term for sums in terms for term in sums if isinstance(term, str)} <= set(lengths):
            return tuple(sum(lengths.get(str(term), term) for term in sums) for sums in terms)
        # A probe's value may have dimensions that none of the probe's inputs has.
        zeros = {port: np.zeros(self.shapes[port], self._dtype(port)) for port in self.engine.inputs}
        return tuple(self.engine.compute(zeros)[name].shape)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.changes += 1
        self.addresses[name] = address
        return address != 0 and address % 256 == 0 and name in self.engine.ports

    def set_device_memory(self, pointer: int, size: int) -> None:
        self.changes += 1
        self.memory = pointer, size

    def execute_async_v3(self, stream: int) -> bool:
        gpu, changes = self.engine.gpu, self.changes

        def work() -> None:
            assert changes == self.changes, "the context of a graph was changed"
            self._compute()

        assert not gpu.capturing or self.settled == changes, "what was not run before is captured"
        gpu.put(stream, work)
        self.settled = changes
        return True

    def _compute(self) -> None:
        gpu, pointer, size = self.engine.gpu, *self.memory
        assert size >= self.engine.device_memory_size_v2
        gpu.buffer(pointer, size)[:] = _POISON
        for name in self.engine.ports if self.engine.in_place else ():
            if name.startswith("present."):
                past = name.replace("present.", "past_key_values.")
                assert self.addresses[name] == self.addresses[past], "a cache in place has one address"
        feed = {}
        for name in self.engine.inputs:
            dtype, shape = np.dtype(self._dtype(name)), self.shapes[name]
            data = gpu.buffer(self.addresses[name], int(np.prod(shape)) * dtype.itemsize)
            feed[name] = np.frombuffer(data.tobytes(), dtype).reshape(shape)
        self.runs.append(dict(self.shapes))
        for name, array in self.engine.compute(feed).items():
            assert array.dtype == self._dtype(name), (name, array.dtype)
            data = np.frombuffer(array.tobytes(), np.uint8)
            gpu.buffer(self.addresses[name], data.nbytes)[:] = data

    def _dtype(self, name: str) -> Any:
        dtype = self.engine.ports[name]["dtype"]
        return ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)


class FakeRuntime:
    """Stands in for a Runtime. An engine's file is JSON that names the ONNX graph which it computes, unless `compute`
    does. `engines` are those that were loaded, by component; `code` is what is found of the host code in one."""

    code = True

    def __init__(self, here: Environment = HERE, compute: Compute | None = None, capacity: int = 1 << 40) -> None:
        self.here, self.compute, self.cuda = here, compute, FakeGpu(capacity)
        self.engines: dict[str, FakeEngine] = {}

    def environment(self, entry: Mapping[str, Any]) -> Environment:
        return replace(self.here, flavor=entry["target"])

    def known_code(self, entry: Mapping[str, Any], path: Path) -> bool | None:
        return self.code if entry["plugin"] and entry["plugin"]["embedded"] else None

    def said(self, target: str) -> str:
        return "TensorRT's own words"

    def load(self, entry: Mapping[str, Any], path: Path) -> tuple[Any, FakeEngine]:
        compute = self.compute or onnx_compute(Path(json.loads(path.read_text())["onnx"]))
        self.engines[entry["component"]] = FakeEngine(self.cuda, entry, compute)
        return trt, self.engines[entry["component"]]


def onnx_compute(path: Path) -> Compute:
    """What ONNX Runtime computes from the graph; it is opened at once."""
    options = onnxruntime.SessionOptions()
    # It warns of every cache in place that it copies.
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(names, feed), strict=True))
