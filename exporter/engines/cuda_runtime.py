"""The CUDA runtime through ctypes: what running an engine needs, without a package for it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .engine_error import EngineError

_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
# What the runtime calls take; all return an error code. Pointers that are filled in are passed by reference.
_CALLS = {
    "cudaGetLastError": [],
    "cudaGetDeviceCount": [_POINTER],
    "cudaDriverGetVersion": [_POINTER],
    "cudaRuntimeGetVersion": [_POINTER],
    "cudaSetDevice": [_INT],
    "cudaDeviceGetAttribute": [_POINTER, _INT, _INT],
    "cudaGetDeviceProperties": [_POINTER, _INT],
    "cudaMemGetInfo": [_POINTER, _POINTER],
    "cudaMalloc": [_POINTER, _SIZE],
    "cudaFree": [_POINTER],
    "cudaMemcpyAsync": [_POINTER, _POINTER, _SIZE, _INT, _POINTER],
    "cudaMemcpy2DAsync": [_POINTER, _SIZE, _POINTER, _SIZE, _SIZE, _SIZE, _INT, _POINTER],
    "cudaMemsetAsync": [_POINTER, _INT, _SIZE, _POINTER],
    "cudaStreamCreateWithFlags": [_POINTER, ctypes.c_uint],
    "cudaStreamDestroy": [_POINTER],
    "cudaStreamSynchronize": [_POINTER],
    "cudaDeviceSynchronize": [],
    "cudaEventCreate": [_POINTER],
    "cudaEventDestroy": [_POINTER],
    "cudaEventRecord": [_POINTER, _POINTER],
    "cudaEventSynchronize": [_POINTER],
    "cudaEventElapsedTime": [_POINTER, _POINTER, _POINTER],
}
# What graphs take more: runtimes before 11.4 lack the third. Its namesake without flags takes other arguments in 11.
_GRAPH_CALLS = {
    "cudaStreamBeginCapture": [_POINTER, _INT],
    "cudaStreamEndCapture": [_POINTER, _POINTER],
    "cudaGraphInstantiateWithFlags": [_POINTER, _POINTER, ctypes.c_ulonglong],
    "cudaGraphDestroy": [_POINTER],
    "cudaGraphLaunch": [_POINTER, _POINTER],
    "cudaGraphExecDestroy": [_POINTER],
}
# The mode of a capture in which other work of the process, such as memory that is given back, may go on.
_RELAXED = 2
_NON_BLOCKING = 1
_TO_DEVICE, _TO_HOST, _ON_DEVICE = 1, 2, 3
_MULTIPROCESSORS, _L2_BYTES, _MAJOR, _MINOR = 16, 38, 75, 76
_OUT_OF_MEMORY = 2


class Cuda:
    """The CUDA runtime through ctypes: memory, copies, streams, events and graphs of one device.

    Pointers, streams and events are ints; stream 0 is the default one. Copies are asynchronous: keep host
    buffers until `synchronize`. Raises EngineError, kind "environment", where a call fails.
    """

    def __init__(self, device: int = 0) -> None:
        self._library, reason = _cuda()
        if self._library is None:
            raise EngineError(reason, "environment")
        self._device = device
        self._call("cudaSetDevice", device)

    @staticmethod
    def available() -> str | None:
        """None where a GPU can be used, else the reason, for the user."""
        library, reason = _cuda()
        return None if library is not None else reason

    def device(self) -> dict[str, Any]:
        """name, sm ("90"), driver (the newest CUDA version it serves), runtime, memory and l2 (bytes), and
        multiprocessors."""
        # The name is the first field of cudaDeviceProp in every version; the struct is some hundred bytes long.
        properties = ctypes.create_string_buffer(1 << 14)
        self._call("cudaGetDeviceProperties", properties, self._device)
        return {
            "name": properties.value.decode(errors="replace"),
            "sm": f"{self._attribute(_MAJOR)}{self._attribute(_MINOR)}",
            "driver": _version(self._out(_INT, "cudaDriverGetVersion")),
            "runtime": _version(self._out(_INT, "cudaRuntimeGetVersion")),
            "memory": self.memory()[1],
            "l2": self._attribute(_L2_BYTES),
            "multiprocessors": self._attribute(_MULTIPROCESSORS),
        }

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the device."""
        free, total = _SIZE(), _SIZE()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def malloc(self, size: int) -> int:
        """Device memory of `size` bytes, at least one: TensorRT wants an address for an empty tensor too."""
        return self._out(_POINTER, "cudaMalloc", max(size, 1))

    def free(self, pointer: int) -> None:
        """Give device memory back."""
        self._call("cudaFree", pointer)

    def upload(self, pointer: int, host: Any, size: int, stream: int = 0) -> None:
        """Copy `size` bytes of host memory (an address, an array or a buffer) to the device."""
        self._call("cudaMemcpyAsync", pointer, _address(host), size, _TO_DEVICE, stream)

    def download(self, host: Any, pointer: int, size: int, stream: int = 0) -> None:
        """Copy `size` bytes of the device to host memory."""
        self._call("cudaMemcpyAsync", _address(host), pointer, size, _TO_HOST, stream)

    def copy_rows(
        self, to: int, to_pitch: int, source: int, source_pitch: int, width: int, rows: int, stream: int = 0
    ) -> None:
        """Copy `rows` rows of `width` bytes within the device, each a pitch of bytes after the one before; they
        must not overlap."""
        self._call("cudaMemcpy2DAsync", to, to_pitch, source, source_pitch, width, rows, _ON_DEVICE, stream)

    def zero(self, pointer: int, size: int, stream: int = 0) -> None:
        """Set `size` bytes of the device to 0."""
        self._call("cudaMemsetAsync", pointer, 0, size, stream)

    def captured(self, stream: int, work: Callable[[], None]) -> int:
        """A graph of what `work` puts on a stream, ready to be launched; none of it is run by that. Raises what `work`
        raises, and EngineError where the runtime has no graphs or takes something of it into none."""
        for name, arguments in _GRAPH_CALLS.items():
            if not hasattr(self._library, name):
                raise EngineError(f"the CUDA runtime has no {name}: graphs need CUDA 11.4 or newer.", "environment")
            getattr(self._library, name).argtypes = arguments
        graph = _POINTER()
        try:
            self._call("cudaStreamBeginCapture", stream, _RELAXED)
            work()
        except BaseException:
            # Until a capture is ended its stream runs nothing.
            self._library.cudaStreamEndCapture(stream, ctypes.byref(graph))
            self._library.cudaGetLastError()
            if graph:
                self._library.cudaGraphDestroy(graph)
            raise
        try:
            self._call("cudaStreamEndCapture", stream, ctypes.byref(graph))
        except EngineError as error:
            # What was put on the stream is to blame, and not the machine.
            raise EngineError(str(error), "input") from error
        try:
            return self._out(_POINTER, "cudaGraphInstantiateWithFlags", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: int, stream: int = 0) -> None:
        """Put a graph that was `captured` on a stream."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Give a graph that was `captured` back."""
        self._call("cudaGraphExecDestroy", graph)

    def stream(self) -> int:
        """A new stream, which waits for nothing that is put on the default one."""
        return self._out(_POINTER, "cudaStreamCreateWithFlags", _NON_BLOCKING)

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: int | None = None) -> None:
        """Wait for the work of a stream, or of the whole device."""
        if stream is None:
            self._call("cudaDeviceSynchronize")
        else:
            self._call("cudaStreamSynchronize", stream)

    def event(self) -> int:
        """A new event."""
        return self._out(_POINTER, "cudaEventCreate")

    def destroy_event(self, event: int) -> None:
        """Give an event back."""
        self._call("cudaEventDestroy", event)

    def record(self, event: int, stream: int = 0) -> None:
        """Put an event behind the work of a stream."""
        self._call("cudaEventRecord", event, stream)

    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds between two recorded events; waits for the second."""
        self._call("cudaEventSynchronize", end)
        return self._out(ctypes.c_float, "cudaEventElapsedTime", start, end)

    def _attribute(self, number: int) -> int:
        return self._out(_INT, "cudaDeviceGetAttribute", number, self._device)

    def _out(self, kind: Any, name: str, *arguments: Any) -> Any:
        """The value that a call writes through its first argument."""
        value = kind()
        self._call(name, ctypes.byref(value), *arguments)
        return value.value

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            # Else PyTorch, in the same process, would take this failure for one of its own.
            self._library.cudaGetLastError()
        if code == _OUT_OF_MEMORY:
            asked = f" of {arguments[-1]:,} bytes" if name == "cudaMalloc" else ""
            raise EngineError(f"the GPU has too little free memory: {name}{asked} failed.", "environment")
        if code:
            raise EngineError(f"{name} failed: {_error_text(self._library, code)}", "environment")


_FOUND: list[tuple[Any, str]] = []


def _cuda() -> tuple[Any, str]:
    """The runtime library that reaches a GPU, else None and the reason; looked for once a process."""
    if not _FOUND:
        _FOUND.append(_find_cuda())
    return _FOUND[0]


def _find_cuda() -> tuple[Any, str]:
    reason = "the CUDA runtime library (libcudart) is not found. It comes with CUDA, and with tensorrt's pip packages."
    for name in _cuda_names():
        try:
            library = ctypes.CDLL(name)
            for call, arguments in _CALLS.items():
                getattr(library, call).argtypes = arguments
        except (OSError, AttributeError):
            continue
        count = _INT()
        code = library.cudaGetDeviceCount(ctypes.byref(count))
        if not code and count.value:
            return library, ""
        version = _INT()
        library.cudaDriverGetVersion(ctypes.byref(version))
        if version.value:
            # A runtime newer than the driver fails where an older one works: the next may.
            said = _error_text(library, code) if code else "it lists no GPU"
            reason = f"the NVIDIA driver (CUDA {_version(version.value)}) cannot be used: {said}. Update it."
        else:
            reason = "no NVIDIA driver is installed: a GPU is needed."
    return None, reason


def _cuda_names() -> Iterator[str]:
    if os.name == "nt":
        yield from ("cudart64_13.dll", "cudart64_12.dll", "cudart64_110.dll")
        return
    yield from ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so")
    for root in sys.path:
        yield from sorted(map(str, Path(root).glob("nvidia/*/lib/libcudart.so.*")), reverse=True)


def _error_text(library: Any, code: int) -> str:
    library.cudaGetErrorString.restype = ctypes.c_char_p
    return library.cudaGetErrorString(code).decode()


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _address(host: Any) -> int:
    if isinstance(host, int):
        return host
    if hasattr(host, "__array_interface__"):
        return host.__array_interface__["data"][0]
    if isinstance(host, bytes):
        return ctypes.cast(ctypes.c_char_p(host), _POINTER).value or 0
    return ctypes.addressof(ctypes.c_char.from_buffer(host))
