"""Run an engine, from arrays in files to arrays in files."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from .cuda_runtime import Cuda
from .engine_contents import dtype_name
from .engine_error import EngineError
from .npy import item_size, npy_path, product, read_npy, write_npy
from .tensorrt_module import import_tensorrt, load_engine, load_plugin, logger, with_reason


def run(
    engine_path: str,
    inputs: str,
    outputs: str,
    module: str,
    plugin: str | None = None,
    iterations: int = 1,
    cuda_graphs: bool = False,
) -> dict[str, Any]:
    """Run an engine on the arrays of a folder, so many times, and write its outputs to another; needs a GPU.

    With cuda_graphs the runs behind the first are launches of what is captured then. Returns profile (the index of the
    narrowest one that holds the shapes), and milliseconds: of the first run, or of several the median behind that one.
    Raises EngineError.
    """
    cuda, trt = Cuda(), import_tensorrt(module)
    if plugin:
        load_plugin(trt, plugin)
    engine = load_engine(trt, engine_path)
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    dtypes = {name: dtype_name(str(engine.get_tensor_dtype(name))) for name in names}
    given = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    arrays = {name: read_npy(npy_path(inputs, name, dtypes[name]), dtypes[name]) for name in given}
    profile = _profile_for(engine, {name: shape for name, (shape, _) in arrays.items()})
    context = engine.create_execution_context()
    if context is None:
        message = f"{engine_path} gives no execution context: the GPU may have too little memory for its activations."
        raise EngineError(with_reason(message, logger(trt).errors), "environment")
    stream, pointers = cuda.stream(), {}
    context.set_optimization_profile_async(profile, stream)
    for name, (shape, data) in arrays.items():
        context.set_input_shape(name, shape)
        pointers[name] = cuda.malloc(len(data))
        cuda.upload(pointers[name], data, len(data), stream)
    sizes = {}
    for name in names:
        if name not in arrays:
            shape = tuple(context.get_tensor_shape(name))
            sizes[name] = shape, product(shape) * item_size(dtypes[name])
            written = _written_input(engine, name)
            pointers[name] = pointers[written] if written else cuda.malloc(sizes[name][1])
        context.set_tensor_address(name, pointers[name])
    start, end = cuda.event(), cuda.event()

    def enqueue() -> None:
        if not context.execute_async_v3(stream):
            raise EngineError(with_reason(f"{engine_path} did not run.", logger(trt).errors), "environment")

    times, graph = [], 0
    for left in reversed(range(iterations)):
        cuda.record(start, stream)
        if graph:
            cuda.launch(graph, stream)
        else:
            enqueue()
        cuda.record(end, stream)
        times.append(cuda.elapsed_ms(start, end))
        if cuda_graphs and left and not graph:
            graph = cuda.captured(stream, enqueue)
    if graph:
        cuda.destroy_graph(graph)
    Path(outputs).mkdir(parents=True, exist_ok=True)
    for name, (shape, size) in sizes.items():
        host = bytearray(size)
        if size:
            cuda.download(host, pointers[name], size, stream)
        cuda.synchronize(stream)
        write_npy(npy_path(outputs, name, dtypes[name]), shape, host, dtypes[name])
    for pointer in set(pointers.values()):
        cuda.free(pointer)
    return {"profile": profile, "milliseconds": median(times[1:] or times)}


def _written_input(engine: Any, output: str) -> str | None:
    """The input whose memory an output is written into, as a cache in place is; TensorRT before 10.15 has none."""
    name: str | None = engine.get_aliased_input_tensor(output) if hasattr(engine, "get_aliased_input_tensor") else None
    return name


def _profile_for(engine: Any, shapes: dict[str, tuple[int, ...]]) -> int:
    """As the tool's own sessions choose it: a decode step does not run with what was tuned for prefill."""
    widths = {}
    for index in range(engine.num_optimization_profiles):
        ranges = {name: engine.get_tensor_profile_shape(name, index) for name in shapes}
        if all(_within(shape, ranges[name][0], ranges[name][2]) for name, shape in shapes.items()):
            widths[index] = _width([(tuple(low), tuple(high)) for low, _, high in ranges.values()])
    if widths:
        return min(widths, key=lambda index: widths[index])
    given = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    raise EngineError(f"no profile of the engine holds these shapes: {given}", "input")


def _width(ranges: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> tuple[int, int]:
    """How many dimensions vary in a profile, and how large its largest shapes are."""
    varying = sum(low[i] != high[i] for low, high in ranges for i in range(len(high)))
    return varying, sum(product(high) for _, high in ranges)


def _within(shape: tuple[int, ...], lowest: Any, highest: Any) -> bool:
    same = len(shape) == len(tuple(lowest))
    return same and all(lowest[i] <= size <= highest[i] for i, size in enumerate(shape))
