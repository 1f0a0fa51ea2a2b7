"""A Session over ONNX Runtime on published graphs: a bundle's, or files by component name."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .bundle import Bundle
from .call_shapes import check_call
from .errors import EnvironmentLack, InputError
from .machine import available_memory
from .packages import needing
from .session import Arrays, cast_input

# An optimized session holds repacked weights beside the file's own, and float32 copies of float16 ones.
_OPTIMIZED_SIZE = 3
_NO_MEMORY = ("failed to allocate memory", "bad_alloc", "bad allocation", "cannot allocate memory", "out of memory")


class OnnxSession:
    """Opens each component when it is first run. float32 and float16 graphs; bfloat16 ones ONNX Runtime's CPU refuses.

    optimize=False keeps weights mapped from their file instead of repacking them: slower, but a 7B decoder opens in a
    fraction of its size. None decides for each component by the memory that is available when it is opened. providers
    are ONNX Runtime's names. Attribute: mapped, the names of the opened components whose weights stay in their file.
    """

    def __init__(
        self,
        graphs: Bundle | Mapping[str, Path],
        precision: str | None = None,
        optimize: bool | None = None,
        providers: tuple[str, ...] = ("CPUExecutionProvider",),
        threads: int = 0,
    ) -> None:
        self._entries: Mapping[str, Any] = {}
        if isinstance(graphs, Bundle):
            self._entries = graphs.manifest["components"]
            bundle, precision = graphs, precision or graphs.manifest["precision"]
            graphs = {name: bundle.graph(name, precision) for name in bundle.manifest["components"]}
            precision = bundle.plain_precision(precision)
        self.graphs, self.precision = graphs, precision
        self._optimize, self._providers, self._threads = optimize, providers, threads
        self.mapped: set[str] = set()
        self._open: dict[str, Any] = {}
        self._lock = threading.Lock()

    def run(self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None) -> Arrays:
        """See Session.run. Inputs of another floating type than the graph's are cast to it."""
        session = self._session(component)
        feed = {}
        for port in session.get_inputs():
            if port.name not in inputs:
                raise InputError(f"{component} needs the input {port.name!r} {port.shape} {port.type}")
            feed[port.name] = cast_input(inputs[port.name], _TYPES[port.type], port.name)
        if unknown := sorted(set(inputs) - set(feed)):
            raise InputError(f"{component} has no input {', '.join(map(repr, unknown))}; it takes {', '.join(feed)}")
        if component in self._entries:
            check_call(component, self._entries[component], {name: array.shape for name, array in feed.items()})
        names = outputs or [port.name for port in session.get_outputs()]
        try:
            results = session.run(names, feed)
        except Exception as error:
            if _lacks_memory(error):
                raise EnvironmentLack(
                    f"this machine has too little memory to run {component} on {_batch(feed)} rows at once. Give it "
                    "fewer at a time (--batch), or shorter ones."
                ) from error
            raise InputError(f"ONNX Runtime cannot run {component} on these inputs: {_first_line(error)}") from error
        return dict(zip(names, results, strict=True))

    def _session(self, component: str) -> Any:
        if component not in self.graphs:
            raise InputError(f"there is no component {component!r}; there is {', '.join(self.graphs)}")
        with self._lock:
            if component not in self._open:
                self._open[component] = self._create(component)
            return self._open[component]

    def _create(self, component: str) -> Any:
        with needing("cpu"):
            import onnxruntime
        if self.precision == "bf16":
            raise EnvironmentLack(
                "ONNX Runtime's CPU has no bfloat16 kernels: export the bundle in fp32 or fp16 to run it here, or "
                "calibrate it with --rest fp16."
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self._threads
        # Quantized products would become integer kernels, which round otherwise than the graph, and engines, do.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        path = self.graphs[component]
        if not (fits_optimized(path) if self._optimize is None else self._optimize):
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            self.mapped.add(component)
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=list(self._providers))
        except Exception as error:
            if _lacks_memory(error):
                raise EnvironmentLack(
                    f"this machine has too little memory to open {path}. Close other programs, or export the bundle "
                    "in fp16 where it is fp32."
                ) from error
            raise InputError(f"ONNX Runtime cannot open {path}: {_first_line(error)}") from error


def fits_optimized(graph: Path) -> bool:
    """Whether the memory that is available now holds a session on `graph` with its optimizations; True where the
    system does not say how much there is."""
    data, available = graph.with_name(graph.name + ".data"), available_memory()
    return available is None or not data.is_file() or _OPTIMIZED_SIZE * data.stat().st_size <= available


_TYPES: dict[str, np.dtype] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int64)": np.dtype(np.int64),
}


def _lacks_memory(error: Exception) -> bool:
    # ONNX Runtime has no class of its own for it.
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY)


def _batch(feed: Mapping[str, np.ndarray]) -> int:
    return max((array.shape[0] for array in feed.values() if array.ndim), default=1)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
