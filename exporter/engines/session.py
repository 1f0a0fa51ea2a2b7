"""A Session over a bundle's TensorRT engines.

Arrays come from and go to host memory in every call, caches too: a cache that stays on the device would save their
copies.
"""

import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np

from ..bundle import Bundle, sha256_file
from ..call_shapes import check_dims
from ..errors import EnvironmentLack, InputError
from ..kv_cache import KVCache
from ..session import Arrays, Timing, cast_input
from .child import tool_error
from .choice import choose_engines, described
from .device_memory import Buffers
from .engine_error import EngineError
from .preflight import EngineFile, require
from .runtime import Runtime, process_runtime
from .shapes import built_ranges, check_columns, choose_profile
from .tensorrt_module import activation_bytes, bare_context, give_activations

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
# What Cuda says of it, beside its other failures.
_NO_MEMORY = "too little free memory"


class TensorRTSession:
    """Loads each component's engine when it is first run, after the preflight; one call at a time.

    The engines have one runtime; each profile of an engine has an execution context, and all contexts share one buffer
    for activations. Attributes: precision; entries, the manifest's entry of the engine of each component; manifest, the
    bundle's with the ports, ranges and caches that those engines have; facts, TensorRT's version, the GPU and the
    engines that were chosen. `close()` or the end of a `with` gives engines and memory of the device back; nothing can
    be run after that.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: str | None = None,
        *,
        trust_bundle: bool = False,
        lowering: str | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        """precision is the bundle's own unless another is named. trust_bundle loads engines that carry other host code
        than the installed plugin's. lowering, "plugin" or "native", takes only engines of that kind. See
        `choose_engines` for the errors."""
        self.precision = precision or bundle.manifest["precision"]
        self._bundle, self._trusted = bundle, trust_bundle
        self._runtime = runtime or process_runtime()
        self.entries = choose_engines(bundle, self.precision, self._runtime.environment, trust_bundle, lowering)
        self.manifest = _as_run(bundle.manifest, self.entries)
        here = self._runtime.environment(next(iter(self.entries.values())))
        gpu = here.gpu.name if here.gpu else ""
        self.facts = {"tensorrt": str(here.tensorrt), "gpu": gpu, "engines": described(self.entries)}
        self._cuda = self._runtime.cuda
        self._buffers = Buffers(self._cuda)
        self._stream = self._cuda.stream()
        self._events = [self._cuda.event() for _ in range(4)]
        self._engines: dict[str, _Engine] = {}
        self._lock = threading.Lock()
        held = (self._cuda, self._engines, self._buffers, self._stream, self._events)
        # A session that is dropped must not keep the device's memory until the process ends.
        self.close = weakref.finalize(self, _give_back, *held)

    def __enter__(self) -> "TensorRTSession":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def run(
        self,
        component: str,
        inputs: Mapping[str, np.ndarray],
        outputs: list[str] | None = None,
        profile: str | None = None,
    ) -> Arrays:
        """See Session.run. Inputs of another integer or floating type than the engine's are cast to it.

        profile names the one to use; without it the narrowest that holds the shapes is taken. Raises NoProfile where
        none does, EnvironmentLack where the GPU has too little memory, InputError where the session is closed.
        """
        return self.timed_run(component, inputs, outputs, profile)[0]

    def timed_run(
        self,
        component: str,
        inputs: Mapping[str, np.ndarray],
        outputs: list[str] | None = None,
        profile: str | None = None,
    ) -> tuple[Arrays, Timing]:
        """As `run`, with where the time went."""
        started = time.perf_counter()
        with self._lock:
            if not self.close.alive:
                raise InputError("this session is closed: open another to run anything.")
            engine = self._engine(component)
            feed = engine.feed(inputs)
            names = engine.wanted(outputs)
            shapes = {name: array.shape for name, array in feed.items()}
            check_dims(engine.entry["inputs"], shapes)
            check_columns(engine.entry, feed)
            index = choose_profile(engine.entry, shapes, profile)
            try:
                arrays, seconds = self._execute(engine, self._context(engine, index), feed, names)
            except EngineError as error:
                if _NO_MEMORY not in str(error):
                    raise tool_error(error) from error
                raise EnvironmentLack(
                    f"{component} cannot run on {_batch(feed)} rows at once: {error} Give it fewer at a time "
                    "(--batch), or shorter ones, or end other programs."
                ) from error
        host = time.perf_counter() - started - sum(seconds)
        return arrays, Timing(max(host, 0.0), *seconds)

    def _execute(
        self, engine: "_Engine", context: Any, feed: Arrays, names: list[str]
    ) -> tuple[Arrays, tuple[float, float, float]]:
        cuda, stream, component = self._cuda, self._stream, engine.entry["component"]
        start, copied, executed, returned = self._events
        addresses = {}
        for name, array in feed.items():
            addresses[name] = self._buffers.address((component, name), array.nbytes)
            self._must(
                context.set_input_shape(name, array.shape), engine, f"takes no {name} of the shape {list(array.shape)}"
            )
        found = {}
        for name, dtype in engine.outputs.items():
            found[name] = np.empty(tuple(context.get_tensor_shape(name)), dtype)
            buffer = component, engine.in_place.get(name, name)
            addresses[name] = self._buffers.address(buffer, found[name].nbytes)
        for name, address in addresses.items():
            self._must(context.set_tensor_address(name, address), engine, f"takes no buffer for {name}")
        activations = self._buffers.address(_ACTIVATIONS, engine.activation_bytes, grows=False)
        give_activations(context, activations, engine.activation_bytes)
        cuda.record(start, stream)
        for name, array in feed.items():
            cuda.upload(addresses[name], array.ctypes.data, array.nbytes, stream)
        cuda.record(copied, stream)
        self._must(context.execute_async_v3(stream), engine, "cannot be run on these inputs")
        cuda.record(executed, stream)
        for name in names:
            cuda.download(found[name].ctypes.data, addresses[name], found[name].nbytes, stream)
        cuda.record(returned, stream)
        cuda.synchronize(stream)
        h2d, gpu, d2h = (cuda.elapsed_ms(a, b) / 1e3 for a, b in pairwise((start, copied, executed, returned)))
        return {name: found[name] for name in names}, (h2d, gpu, d2h)

    def _context(self, engine: "_Engine", profile: int) -> Any:
        """The execution context of a profile, without activations of its own."""
        if profile not in engine.contexts:
            context = bare_context(engine.trt, engine.engine)
            self._must(context is not None, engine, "gives no execution context")
            name = engine.entry["profiles"][profile]["name"]
            done = context.set_optimization_profile_async(profile, self._stream)
            self._must(done, engine, f"cannot be run with the profile {name}")
            engine.contexts[profile] = context
        return engine.contexts[profile]

    def _must(self, done: bool, engine: "_Engine", failure: str) -> None:
        if not done:
            said = self._runtime.said(engine.entry["target"])
            raise InputError(f"the engine of {engine.entry['component']} {failure}. {said}".strip())

    def _engine(self, component: str) -> "_Engine":
        if component not in self.entries:
            known = ", ".join(self._bundle.manifest["components"])
            what = f"no {self.precision} engine of" if component in known.split(", ") else "no component"
            raise InputError(f"{self._bundle.root} has {what} {component!r}; its components are {known}")
        if component not in self._engines:
            entry = self.entries[component]
            path = self._bundle.path(entry["file"])
            listed = self._bundle.manifest["files"][entry["file"]]
            code = self._runtime.known_code(entry, path)
            file = EngineFile(listed["size"], sha256_file(path), listed["sha256"], code)
            here = replace(self._runtime.environment(entry), activations=self._buffers.capacity(_ACTIVATIONS))
            require(entry, here, file, self._trusted)
            self._engines[component] = _Engine(entry, *self._runtime.load(entry, path))
        return self._engines[component]


class _Engine:
    """A loaded engine with one execution context for each profile that was needed. in_place are the outputs that are
    written into the memory of an input, with its name."""

    def __init__(self, entry: Mapping[str, Any], trt: Any, engine: Any) -> None:
        """Raises InputError where the engine's inputs and outputs are not those of its entry."""
        self.entry, self.trt, self.engine = entry, trt, engine
        self.contexts: dict[int, Any] = {}
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

    def feed(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """The inputs in the engine's types; InputError where one is missing, unknown or of another kind."""
        component = self.entry["component"]
        for port in self.entry["inputs"]:
            if port["name"] not in inputs:
                raise InputError(f"{component} needs the input {port['name']!r} {port['dims']} {port['dtype']}")
        if unknown := sorted(set(inputs) - set(self.inputs)):
            raise InputError(
                f"{component} has no input {', '.join(map(repr, unknown))}; it takes {', '.join(self.inputs)}"
            )
        return {name: cast_input(inputs[name], dtype, name) for name, dtype in self.inputs.items()}

    def wanted(self, outputs: list[str] | None) -> list[str]:
        """The outputs to return, all in the entry's order where none are named."""
        if unknown := sorted(set(outputs or ()) - set(self.outputs)):
            raise InputError(
                f"{self.entry['component']} has no output {', '.join(map(repr, unknown))}; it gives "
                f"{', '.join(self.outputs)}"
            )
        return outputs or [port["name"] for port in self.entry["outputs"]]


def _give_back(cuda: Any, engines: dict[str, "_Engine"], buffers: Buffers, stream: int, events: Sequence[int]) -> None:
    # Contexts go before the memory that they know of.
    engines.clear()
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


def _batch(feed: Mapping[str, np.ndarray]) -> int:
    return max((array.shape[0] for array in feed.values() if array.ndim), default=1)
