"""Running and reading a loaded engine, with an engine that adds its input to itself on host memory."""

import ctypes
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from memvp_export.exporter.engines import engine_run
from memvp_export.exporter.engines.engine_contents import read_engine
from memvp_export.exporter.engines.engine_error import EngineError

# The narrowest that holds so many rows.
PROFILES = {1: 0, 2: 1, 3: 0, 4: 0, 5: 2}

trt = SimpleNamespace(
    __name__="tensorrt",
    TensorIOMode=SimpleNamespace(INPUT=0, OUTPUT=1),
    ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED=2),
    LayerInformationFormat=SimpleNamespace(JSON=3),
)


class Engine:
    """y = x + x, float32 [B,3]; profile 0 takes a batch of 1 to 4, profile 1 one of 2, profile 2 one of 4 to 8."""

    num_io_tensors, num_optimization_profiles, device_memory_size_v2 = 2, 3, 77

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_dtype(self, name: str) -> str:
        return "DataType.FLOAT"

    def get_tensor_mode(self, name: str) -> int:
        return int(name == "y")

    def get_tensor_shape(self, name: str) -> tuple[int, int]:
        return (-1, 3)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, int]]:
        return [(batch, 3) for batch in ((1, 2, 4), (2, 2, 2), (4, 4, 8))[profile]]

    def create_execution_context(self, strategy: int | None = None) -> "Context":
        return Context()

    def create_engine_inspector(self) -> Any:
        layers = [{"Name": "x + x", "LayerType": "kgen", "Metadata": "[ONNX Layer: double]"}]
        return SimpleNamespace(get_engine_information=lambda form: json.dumps({"Layers": layers}))


class Context:
    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}
        self.profile = 0

    def set_optimization_profile_async(self, profile: int, stream: int) -> None:
        self.profile = profile

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.shape = tuple(shape)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        size = math.prod(self.shape)
        x, y = ((ctypes.c_float * size).from_address(self.addresses[name]) for name in "xy")
        y[:] = [value + value for value in x]
        return self.profile == PROFILES[self.shape[0]]


class HostCuda:
    """The calls of Cuda that a run makes, on host memory."""

    def __init__(self) -> None:
        self.held: dict[int, Any] = {}
        self.times = [0.5]
        self.graphs: list[str] = []

    def stream(self) -> int:
        return 1

    event = stream

    def malloc(self, size: int) -> int:
        buffer = ctypes.create_string_buffer(size)
        self.held[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def free(self, pointer: int) -> None:
        del self.held[pointer]

    def upload(self, pointer: int, host: bytes, size: int, stream: int) -> None:
        ctypes.memmove(pointer, host, size)

    def download(self, host: bytearray, pointer: int, size: int, stream: int) -> None:
        host[:] = ctypes.string_at(pointer, size)

    def record(self, event: int, stream: int) -> None: ...

    def synchronize(self, stream: int) -> None: ...

    def elapsed_ms(self, start: int, end: int) -> float:
        return self.times.pop(0)

    def captured(self, stream: int, work: Callable[[], None]) -> int:
        work()
        self.graphs.append("captured")
        return 7

    def launch(self, graph: int, stream: int) -> None:
        assert (graph, stream) == (7, 1)
        self.graphs.append("launched")

    def destroy_graph(self, graph: int) -> None:
        assert graph == 7
        self.graphs.append("destroyed")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> HostCuda:
    made = HostCuda()
    monkeypatch.setattr(engine_run, "Cuda", lambda: made)
    monkeypatch.setattr(engine_run, "import_tensorrt", lambda module: trt)
    monkeypatch.setattr(engine_run, "load_engine", lambda trt, path: Engine())
    return made


@pytest.mark.parametrize(("batch", "profile"), PROFILES.items())
def test_a_run_takes_the_narrowest_profile_that_holds_its_shapes(
    batch: int, profile: int, cuda: HostCuda, tmp_path: Path
) -> None:
    x = np.random.default_rng(batch).standard_normal((batch, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    said = engine_run.run("an.engine", str(tmp_path), str(tmp_path / "out"), "tensorrt")
    assert said == {"profile": profile, "milliseconds": 0.5}
    assert np.array_equal(np.load(tmp_path / "out" / "y.npy"), x + x)
    assert not cuda.held


def test_of_several_runs_the_first_is_not_counted(cuda: HostCuda, tmp_path: Path) -> None:
    cuda.times = [9.0, 3.0, 1.0, 2.0]
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    said = engine_run.run("an.engine", str(tmp_path), str(tmp_path / "out"), "tensorrt", iterations=4)
    assert said["milliseconds"] == 2.0 and not cuda.times


def test_runs_behind_the_first_can_be_launches_of_a_graph(cuda: HostCuda, tmp_path: Path) -> None:
    cuda.times = [1.0] * 3
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    said = engine_run.run("an.engine", str(tmp_path), str(tmp_path / "out"), "tensorrt", iterations=3, cuda_graphs=True)
    assert said["milliseconds"] == 1.0 and cuda.graphs == ["captured", "launched", "launched", "destroyed"]
    assert np.array_equal(np.load(tmp_path / "out" / "y.npy"), np.full((2, 3), 2, np.float32))


def test_a_profile_with_a_fixed_length_is_narrower_than_a_smaller_one_that_varies() -> None:
    class Two(Engine):
        """Profile 0 is for up to 4 rows of 1 to 3 columns, profile 1 for up to 8 rows of 3."""

        num_optimization_profiles = 2

        def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, int]]:
            return [[(1, 1), (1, 1), (4, 3)], [(1, 3), (1, 3), (8, 3)]][profile]

    for columns, profile in ((3, 1), (2, 0)):
        assert engine_run._profile_for(Two(), {"x": (2, columns)}) == profile


def test_an_output_that_is_written_into_an_input_has_its_memory(
    cuda: HostCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class InPlace(Engine):
        def get_aliased_input_tensor(self, name: str) -> str | None:
            return "x" if name == "y" else None

        def create_execution_context(self, strategy: int | None = None) -> Context:
            contexts.append(Context())
            return contexts[-1]

    contexts: list[Context] = []
    monkeypatch.setattr(engine_run, "load_engine", lambda trt, path: InPlace())
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    engine_run.run("an.engine", str(tmp_path), str(tmp_path / "out"), "tensorrt")
    assert contexts[0].addresses["y"] == contexts[0].addresses["x"]
    assert np.array_equal(np.load(tmp_path / "out" / "y.npy"), np.full((2, 3), 2, np.float32))
    assert not cuda.held


def test_shapes_that_no_profile_holds_are_named(cuda: HostCuda, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((9, 3), np.float32))
    with pytest.raises(EngineError, match=r"no profile of the engine holds these shapes: x \[9, 3\]"):
        engine_run.run("an.engine", str(tmp_path), str(tmp_path / "out"), "tensorrt")
    assert not (tmp_path / "out").exists()


def test_an_engine_without_a_context_is_a_failure_with_tensorrts_words(
    cuda: HostCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 3), np.float32))
    monkeypatch.setattr(Engine, "create_execution_context", lambda self, strategy=None: None)
    monkeypatch.setattr(engine_run, "logger", lambda trt: SimpleNamespace(errors=["OutOfMemory"]))
    with pytest.raises(EngineError, match=r"gives no execution context.*TensorRT says: OutOfMemory") as failure:
        engine_run.run("an.engine", str(tmp_path), str(tmp_path / "out"), "tensorrt")
    assert failure.value.kind == "environment"


def test_a_loaded_engine_says_what_it_takes_and_holds() -> None:
    found = read_engine(trt, Engine(), ["small"])
    assert found["inputs"] == [{"name": "x", "dtype": "float32", "dims": [-1, 3]}]
    # The output's shape at the first profile's opt.
    assert found["outputs"] == [{"name": "y", "dtype": "float32", "dims": [-1, 3], "opt": [2, 3]}]
    assert [profile["name"] for profile in found["profiles"]] == ["small", "profile1", "profile2"]
    assert found["profiles"][2]["shapes"] == {"x": {"min": [4, 3], "opt": [4, 3], "max": [8, 3]}}
    assert [layer["onnx"] for layer in found["layers"]] == [["double"]] and found["activation"] == 77
