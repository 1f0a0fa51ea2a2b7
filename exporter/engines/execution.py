"""An engine's execution context for one of its profiles: what it is set to, and the calls that run it."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ..errors import EnvironmentLack, InputError
from .device_cache import RowCopy
from .engine_error import EngineError
from .runtime import Runtime
from .tensorrt_module import bare_context, give_activations

Shapes = dict[str, tuple[int, ...]]


class Execution:
    """A context without activations of its own, on one stream.

    With CUDA graphs a call that is set up as the one before is captured and then launched. A graph belongs to the
    context as it was then, which must not be changed while it is used: there is one at a time, and whatever changes the
    context ends it. The first call after a change is an ordinary one: TensorRT, and the runtime of TensorRT-RTX above
    all, makes ready in it what capturing does not allow.
    """

    def __init__(
        self, runtime: Runtime, entry: Mapping[str, Any], trt: Any, engine: Any, profile: int, stream: int, graphs: bool
    ) -> None:
        """entry is that of the engine in the manifest. Raises InputError where the engine gives no such context."""
        self._runtime, self._entry = runtime, entry
        self._cuda, self._stream, self._graphs = runtime.cuda, stream, graphs
        self._context = bare_context(trt, engine)
        self._must(self._context is not None, "gives no execution context")
        name = entry["profiles"][profile]["name"]
        done = self._context.set_optimization_profile_async(profile, stream)
        self._must(done, f"cannot be run with the profile {name}")
        self._inputs: Shapes | None = None
        self._outputs: Shapes = {}
        self._bound: tuple[dict[str, int], int, int] | None = None
        # The copies behind the call that was run last, None where the context was changed since.
        self._ran: tuple[RowCopy, ...] | None = None
        self._graph: int | None = None

    def shape(self, inputs: Shapes) -> Shapes:
        """Set the shapes of the inputs; returns those of the outputs. Raises InputError where the engine does not take
        them."""
        if inputs != self._inputs:
            self._changes()
            self._inputs = None
            for name, shape in inputs.items():
                done = self._context.set_input_shape(name, shape)
                self._must(done, f"takes no {name} of the shape {list(shape)}")
            outputs = [port["name"] for port in self._entry["outputs"]]
            self._outputs = {name: tuple(self._context.get_tensor_shape(name)) for name in outputs}
            self._inputs = dict(inputs)
        return self._outputs

    def bind(self, addresses: dict[str, int], activations: int, activation_bytes: int) -> None:
        """Set where inputs, outputs and activations lie."""
        bound = addresses, activations, activation_bytes
        if bound != self._bound:
            self._changes()
            self._bound = None
            for name, address in addresses.items():
                self._must(self._context.set_tensor_address(name, address), f"takes no buffer for {name}")
            give_activations(self._context, activations, activation_bytes)
            self._bound = bound

    def run(self, copies: Sequence[RowCopy] = ()) -> bool:
        """Put the call, and these copies behind it, on the stream; returns whether that was a graph's launch.

        Raises InputError where the engine cannot be run so, or not in a graph, EnvironmentLack where CUDA has none."""
        copies = tuple(copies)
        if not self._graphs or copies != self._ran:
            self._changes()
            self._enqueue(copies)
            self._ran = copies
            return False
        if self._graph is None:
            self._graph = self._captured(copies)
        self._cuda.launch(self._graph, self._stream)
        return True

    def close(self) -> None:
        """End the graph, as far as the device takes that: see `Buffers.free`."""
        with suppress(EngineError):
            self._changes()

    def _changes(self) -> None:
        self._ran = None
        graph, self._graph = self._graph, None
        if graph is not None:
            self._cuda.destroy_graph(graph)

    def _enqueue(self, copies: Sequence[RowCopy]) -> None:
        self._must(self._context.execute_async_v3(self._stream), "cannot be run on these inputs")
        for copy in copies:
            self._cuda.copy_rows(*copy, self._stream)

    def _captured(self, copies: Sequence[RowCopy]) -> int:
        try:
            return self._cuda.captured(self._stream, lambda: self._enqueue(copies))
        except (EngineError, InputError) as error:
            lacks = isinstance(error, EngineError) and error.kind == "environment"
            raise (EnvironmentLack if lacks else InputError)(
                f"the engine of {self._entry['component']} cannot be captured in a CUDA graph: "
                f"{str(error).rstrip('.')}. Run it without them (leave --cuda-graphs out)."
            ) from error

    def _must(self, done: bool, failure: str) -> None:
        if not done:
            said = self._runtime.said(self._entry["target"])
            raise InputError(f"the engine of {self._entry['component']} {failure}. {said}".strip())
