"""A Session over a bundle's TensorRT engines.

Arrays come from and go to host memory in every call. A cache that the session makes stays on the device, and so do
inputs that it is told to keep: what crosses the bus at a decode step is then a token's ids, the mask and the logits.
"""

import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from ..bundle import Bundle, sha256_file
from ..call_shapes import Shapes, check_dims
from ..dims import terms
from ..errors import InputError
from ..kv_cache import KVCache
from ..session import Timing, cast_input
from .choice import choose_engines, described
from .device_cache import DeviceCache, RowCopy, Workspace
from .device_memory import Buffers, memory_said
from .engine_error import EngineError
from .execution import Execution
from .on_device import Constants, Memory, OnDevice
from .preflight import EngineFile, require
from .profiles import SEQUENCE
from .runtime import Runtime, process_runtime
from .shapes import POSITION_IDS, built_ranges, check_columns, choose_profile
from .tensorrt_module import activation_bytes

# By the name of TensorRT's type: its modules of several targets are several sets of objects.
_DTYPES = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "INT64": np.dtype(np.int64),
    "INT32": np.dtype(np.int32),
    "INT8": np.dtype(np.int8),
    "BOOL": np.dtype(np.bool_),
}
_ACTIVATIONS = "activations"
# Of how many shapes an engine knows the profile without looking.
_REMEMBERED = 4096
# An array, or what stays on the device in its place.
Tensor = np.ndarray | OnDevice


class TensorRTSession:
    """Loads each component's engine when it is first run, after the preflight; one call at a time.

    The engines have one runtime; each profile of an engine has an execution context, and all contexts share one buffer
    for activations. Attributes: precision; entries, the manifest's entry of the engine of each component; manifest, the
    bundle's with the ports, ranges and caches that those engines have; facts, TensorRT's version, the GPU and the
    engines that were chosen; replayed, how many calls of each component were launches of a CUDA graph. `close()` or the
    end of a `with` gives engines and memory of the device back, that of caches too; nothing can be run after that.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: str | None = None,
        *,
        trust_bundle: bool = False,
        lowering: str | None = None,
        runtime: Runtime | None = None,
        cuda_graphs: bool = False,
    ) -> None:
        """precision is the bundle's own unless another is named. trust_bundle loads engines that carry other host code
        than the installed plugin's. lowering, "plugin" or "native", takes only engines of that kind. cuda_graphs
        captures a call whose shapes and buffers are those of the call before in the same profile, and launches the
        graph from then on. See `choose_engines` for the errors."""
        self.precision = precision or bundle.manifest["precision"]
        self._bundle, self._trusted, self._graphs = bundle, trust_bundle, cuda_graphs
        self._runtime = runtime or process_runtime()
        self.entries = choose_engines(bundle, self.precision, self._runtime.environment, trust_bundle, lowering)
        self.manifest = _as_run(bundle.manifest, self.entries)
        here = self._runtime.environment(next(iter(self.entries.values())))
        gpu = here.gpu.name if here.gpu else ""
        self.facts = {"tensorrt": str(here.tensorrt), "gpu": gpu, "engines": described(self.entries)}
        self.replayed: Counter[str] = Counter()
        self._cuda = self._runtime.cuda
        self._buffers = Buffers(self._cuda)
        self._stream = self._cuda.stream()
        self._events = [self._cuda.event() for _ in range(4)]
        self._engines: dict[str, _Engine] = {}
        self._lock = threading.Lock()
        # What its users hold of the device.
        self._lent: weakref.WeakSet[Memory] = weakref.WeakSet()
        held = (self._cuda, self._engines, self._lent, self._buffers, self._stream, self._events)
        # A session that is dropped must not keep the device's memory until the process ends.
        self.close = weakref.finalize(self, _give_back, *held)

    def __enter__(self) -> "TensorRTSession":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def cache(self, component: str, batch: int) -> DeviceCache:
        """An empty cache for calls of a component on so many rows, which stays on the device. Its memory is given back
        when nothing refers to it or to what it gave.

        Where a call takes its inputs, the present that the call returns stays there too, for `update`. With kind delta
        such a call ends with the copies that join past and new columns, if any present is among the outputs asked for.
        """
        with self._lock:
            self._require_open()
            cache = DeviceCache(self._entry(component), batch, Workspace(self._cuda, self._stream, self._lock))
            self._lent.add(cache)
            return cache

    def keep(self, component: str, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Some inputs of a component, copied to the device in the engine's types, for any number of calls. Their memory
        is given back, all of it at once, when nothing refers to any of them. Raises as `run` does."""
        with self._lock, memory_said(component, _batch(inputs)):
            self._require_open()
            engine = self._engine(component)
            if POSITION_IDS in inputs:
                raise InputError(f"{POSITION_IDS} are looked at before each call: give them as an array.")
            given = engine.cast(inputs)
            arrays = {name: tensor for name, tensor in given.items() if isinstance(tensor, np.ndarray)}
            constants = Constants(self._cuda, self._stream, arrays)
            self._lent.add(constants)
            return given | {name: OnDevice(constants, name, array.shape, array.dtype) for name, array in arrays.items()}

    def run(
        self,
        component: str,
        inputs: Mapping[str, Any],
        outputs: list[str] | None = None,
        profile: str | None = None,
    ) -> dict[str, Any]:
        """See Session.run. Inputs of another integer or floating type than the engine's are cast to it; what `keep` and
        the inputs of a `cache` gave takes the place of arrays.

        profile names the one to use; without it the narrowest that holds the shapes is taken. Raises NoProfile where
        none does, EnvironmentLack where the GPU has too little memory, InputError where the session is closed, or
        something on the device is another session's or of another time.
        """
        return self.timed_run(component, inputs, outputs, profile)[0]

    def timed_run(
        self,
        component: str,
        inputs: Mapping[str, Any],
        outputs: list[str] | None = None,
        profile: str | None = None,
    ) -> tuple[dict[str, Any], Timing]:
        """As `run`, with where the time went."""
        started = time.perf_counter()
        with self._lock:
            self._require_open()
            engine = self._engine(component)
            feed = engine.feed(inputs)
            cache = self._cache_of(component, feed)
            names = engine.wanted(outputs)
            shapes = {name: tuple(tensor.shape) for name, tensor in feed.items()}
            lengths = check_dims(engine.entry["inputs"], shapes)
            check_columns(engine.entry, lengths, inputs.get(POSITION_IDS))
            index = engine.profile(shapes, lengths, profile)
            with memory_said(component, _batch(feed)):
                execution = self._execution(engine, index)
                outs = execution.shape(shapes)
                found, seconds = self._execute(engine, execution, feed, outs, names, cache, lengths.get(SEQUENCE, 0))
        host = time.perf_counter() - started - sum(seconds)
        return found, Timing(max(host, 0.0), *seconds)

    def _execute(
        self,
        engine: "_Engine",
        execution: Execution,
        feed: Mapping[str, Tensor],
        shapes: Mapping[str, tuple[int, ...]],
        names: list[str],
        cache: DeviceCache | None,
        columns: int,
    ) -> tuple[dict[str, Any], tuple[float, float, float]]:
        cuda, stream, component = self._cuda, self._stream, engine.entry["component"]
        start, copied, executed, returned = self._events
        arrays = {name: tensor for name, tensor in feed.items() if isinstance(tensor, np.ndarray)}
        there = {name: tensor for name, tensor in feed.items() if isinstance(tensor, OnDevice)}
        held = {memory: memory.addresses() for memory in {tensor.memory for tensor in there.values()}}
        addresses = {name: held[tensor.memory][tensor.name] for name, tensor in there.items()}
        addresses |= {name: self._buffers.address((component, name), array.nbytes) for name, array in arrays.items()}
        stay: dict[str, OnDevice] = {}
        copies: Sequence[RowCopy] = ()
        if cache:
            written, copies = cache.bind(shapes, columns, wanted=not set(cache.present).isdisjoint(names))
            addresses |= written
            stay = cache.outputs(shapes)
        for name, dtype in engine.outputs.items():
            if name not in stay:
                buffer = component, engine.in_place.get(name, name)
                addresses[name] = self._buffers.address(buffer, prod(shapes[name]) * dtype.itemsize)
        size = engine.activation_bytes
        execution.bind(addresses, self._buffers.address(_ACTIVATIONS, size, grows=False), size)
        cuda.record(start, stream)
        for name, array in arrays.items():
            cuda.upload(addresses[name], array.ctypes.data, array.nbytes, stream)
        cuda.record(copied, stream)
        self.replayed[component] += execution.run(copies)
        cuda.record(executed, stream)
        came = {name: np.empty(shapes[name], engine.outputs[name]) for name in names if name not in stay}
        for name, array in came.items():
            cuda.download(array.ctypes.data, addresses[name], array.nbytes, stream)
        cuda.record(returned, stream)
        cuda.synchronize(stream)
        h2d, gpu, d2h = (cuda.elapsed_ms(a, b) / 1e3 for a, b in pairwise((start, copied, executed, returned)))
        found: dict[str, Any] = stay | came
        return {name: found[name] for name in names}, (h2d, gpu, d2h)

    def _require_open(self) -> None:
        if not self.close.alive:
            raise InputError("this session is closed: open another to run anything.")

    def _cache_of(self, component: str, feed: Mapping[str, Tensor]) -> DeviceCache | None:
        """The cache whose past is among the inputs, None where that is arrays."""
        held = {name: tensor for name, tensor in feed.items() if isinstance(tensor, OnDevice)}
        for name, tensor in held.items():
            if tensor.memory not in self._lent or not tensor.memory.free.alive:
                raise InputError(f"the input {name!r} is on the device for another session, or was given back.")
        past = {name: tensor for name, tensor in held.items() if isinstance(tensor.memory, DeviceCache)}
        cache = next((tensor.memory for tensor in past.values()), None)
        if not isinstance(cache, DeviceCache):
            return None
        if cache.component != component or past != cache.inputs():
            raise InputError(
                f"{component} takes the whole past of one cache of its own, as that is now: ask it for its inputs "
                "before each call."
            )
        return cache

    def _execution(self, engine: "_Engine", profile: int) -> Execution:
        if profile not in engine.executions:
            made = Execution(
                self._runtime, engine.entry, engine.trt, engine.engine, profile, self._stream, self._graphs
            )
            engine.executions[profile] = made
        return engine.executions[profile]

    def _entry(self, component: str) -> Mapping[str, Any]:
        if component not in self.entries:
            known = ", ".join(self._bundle.manifest["components"])
            what = f"no {self.precision} engine of" if component in known.split(", ") else "no component"
            raise InputError(f"{self._bundle.root} has {what} {component!r}; its components are {known}")
        return self.entries[component]

    def _engine(self, component: str) -> "_Engine":
        entry = self._entry(component)
        if component not in self._engines:
            path = self._bundle.path(entry["file"])
            listed = self._bundle.manifest["files"][entry["file"]]
            code = self._runtime.known_code(entry, path)
            file = EngineFile(listed["size"], sha256_file(path), listed["sha256"], code)
            here = replace(self._runtime.environment(entry), activations=self._buffers.capacity(_ACTIVATIONS))
            require(entry, here, file, self._trusted)
            self._engines[component] = _Engine(entry, *self._runtime.load(entry, path))
        return self._engines[component]


class _Engine:
    """A loaded engine with one execution for each profile that was needed. in_place are the outputs that are written
    into the memory of an input, with its name."""

    def __init__(self, entry: Mapping[str, Any], trt: Any, engine: Any) -> None:
        """Raises InputError where the engine's inputs and outputs are not those of its entry."""
        self.entry, self.trt, self.engine = entry, trt, engine
        self.executions: dict[int, Execution] = {}
        self.inputs: dict[str, np.dtype] = {}
        self.outputs: dict[str, np.dtype] = {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            ports = self.inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else self.outputs
            ports[name] = _DTYPES[engine.get_tensor_dtype(name).name]
        for kind, ports in (("inputs", self.inputs), ("outputs", self.outputs)):
            listed = {port["name"]: port["dtype"] for port in entry[kind]}
            if listed != {name: dtype.name for name, dtype in ports.items()}:
                raise InputError(f"{entry['file']} has other {kind} than its manifest says: build it again.")
        if engine.num_optimization_profiles != len(entry["profiles"]):
            raise InputError(f"{entry['file']} has other profiles than its manifest says: build it again.")
        self.in_place: dict[str, str] = {}
        if entry["cache"] and entry["cache"]["kind"] == "in_place":
            cache = KVCache(entry, entry["precision"], 1)
            self.in_place = dict(zip(cache.present, cache.past, strict=True))
        self.activation_bytes = activation_bytes(engine)
        self._named = {term for port in entry["inputs"] for dim in port["dims"] for term in terms(dim)}
        self._chosen: dict[Any, int] = {}

    def profile(self, shapes: Shapes, lengths: Mapping[str, int], name: str | None) -> int:
        """See `choose_profile`. lengths are those of the named dimensions: where they say all that shapes do, what was
        chosen for them once is known, which saves a decoder of many layers more than its launch takes."""
        key = name, *lengths.items()
        if key in self._chosen:
            return self._chosen[key]
        found = choose_profile(self.entry, shapes, name)
        if self._named <= lengths.keys():
            if len(self._chosen) == _REMEMBERED:
                self._chosen.clear()
            self._chosen[key] = found
        return found

    def feed(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """The inputs in the engine's types; InputError where one is missing, unknown or of another kind."""
        for port in self.entry["inputs"]:
            if port["name"] not in inputs:
                raise InputError(
                    f"{self.entry['component']} needs the input {port['name']!r} {port['dims']} {port['dtype']}"
                )
        given = self.cast(inputs)
        return {name: given[name] for name in self.inputs}

    def cast(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Some of the inputs in the engine's types."""
        if unknown := sorted(set(inputs) - set(self.inputs)):
            raise InputError(
                f"{self.entry['component']} has no input {', '.join(map(repr, unknown))}; it takes "
                f"{', '.join(self.inputs)}"
            )
        return {name: _cast(tensor, self.inputs[name], name) for name, tensor in inputs.items()}

    def wanted(self, outputs: list[str] | None) -> list[str]:
        """The outputs to return, all in the entry's order where none are named."""
        if unknown := sorted(set(outputs or ()) - set(self.outputs)):
            raise InputError(
                f"{self.entry['component']} has no output {', '.join(map(repr, unknown))}; it gives "
                f"{', '.join(self.outputs)}"
            )
        return outputs or [port["name"] for port in self.entry["outputs"]]


def _cast(tensor: Any, dtype: np.dtype, name: str) -> Tensor:
    if not isinstance(tensor, OnDevice):
        return cast_input(tensor, dtype, name)
    if tensor.dtype != dtype:
        raise InputError(f"the input {name!r} is {tensor.dtype} on the device, the graph takes {dtype}")
    return tensor


def _end_graphs(engines: Mapping[str, "_Engine"]) -> None:
    # A function of its own: nothing that it looked at may outlive it.
    for engine in engines.values():
        for execution in engine.executions.values():
            execution.close()


def _give_back(
    cuda: Any,
    engines: dict[str, "_Engine"],
    lent: Iterable[Memory],
    buffers: Buffers,
    stream: int,
    events: Sequence[int],
) -> None:
    # Graphs and contexts go before the memory that they know of.
    _end_graphs(engines)
    engines.clear()
    for memory in list(lent):
        memory.free()
    buffers.free()
    for release, held in (*((cuda.destroy_event, event) for event in events), (cuda.destroy_stream, stream)):
        # As in `Buffers.free`.
        with suppress(EngineError):
            release(held)


def _as_run(manifest: Mapping[str, Any], entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    components = dict(manifest["components"])
    for name, entry in entries.items():
        ports = {key: entry[key] for key in ("inputs", "outputs", "cache")}
        components[name] = {**components[name], **ports, "ranges": built_ranges(entry)}
    return {**manifest, "components": components}


def _batch(feed: Mapping[str, Tensor]) -> int:
    return max((tensor.shape[0] for tensor in feed.values() if tensor.shape), default=1)
