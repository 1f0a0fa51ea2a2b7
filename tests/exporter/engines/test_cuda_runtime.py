"""The calls to the CUDA runtime, made on a library that works on host memory: arguments, order, errors."""

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from memvp_export.exporter.engines import cuda_runtime
from memvp_export.exporter.engines.cuda_runtime import Cuda
from memvp_export.exporter.engines.engine_error import EngineError


@pytest.fixture(scope="session")
def fake_runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("cudart") / "libcudart_fake.so"
    source = Path(__file__).with_name("fake_cudart.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", source, "-o", library], check=True)
    return library


@pytest.fixture
def cuda(fake_runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    monkeypatch.setattr(cuda_runtime, "_cuda_names", lambda: [str(fake_runtime)])
    monkeypatch.setattr(cuda_runtime, "_FOUND", [])
    yield Cuda()


def test_a_device_describes_itself(cuda: Cuda) -> None:
    assert Cuda.available() is None
    assert cuda.device() == {
        "name": "Fake GPU",
        "sm": "89",
        "driver": "12.8",
        "runtime": "12.6",
        "memory": 1 << 21,
        "l2": 4096,
        "multiprocessors": 58,
    }
    assert cuda.memory() == (1 << 20, 1 << 21)
    with pytest.raises(EngineError, match=r"cudaSetDevice failed: invalid device ordinal"):
        Cuda(1)


def test_bytes_go_there_and_back_from_any_buffer(cuda: Cuda) -> None:
    array = np.arange(6, dtype=np.float32)
    array.flags.writeable = False
    pointer = cuda.malloc(24)
    back = bytearray(24)
    for host in (array, array.tobytes(), bytearray(array.tobytes()), memoryview(bytearray(array.tobytes()))):
        cuda.upload(pointer, bytes([0xFF] * 24), 24)
        cuda.upload(pointer, host, 24)
        cuda.download(back, pointer, 24)
        cuda.synchronize()
        assert bytes(back) == array.tobytes()
    address = ctypes.create_string_buffer(24)
    cuda.download(ctypes.addressof(address), pointer, 24)
    assert address.raw == array.tobytes()
    cuda.free(pointer)


def test_an_empty_tensor_has_an_address(cuda: Cuda) -> None:
    pointer = cuda.malloc(0)
    assert pointer
    cuda.free(pointer)


def test_time_lies_between_events(cuda: Cuda, fake_runtime: Path) -> None:
    library = ctypes.CDLL(str(fake_runtime))
    before = library.fakeOpenStreams(), library.fakeOpenEvents()
    stream, start, end = cuda.stream(), cuda.event(), cuda.event()
    cuda.record(start, stream)
    cuda.record(end, stream)
    assert cuda.elapsed_ms(start, end) == 1.5
    cuda.destroy_event(start)
    cuda.destroy_event(end)
    cuda.synchronize(stream)
    cuda.destroy_stream(stream)
    assert (library.fakeOpenStreams(), library.fakeOpenEvents()) == before


@pytest.fixture
def matrix(cuda: Cuda) -> Iterator[tuple[int, np.ndarray]]:
    """Six rows of eight bytes on the device, and as they are there."""
    array = np.arange(48, dtype=np.uint8).reshape(6, 8)
    pointer = cuda.malloc(48)
    cuda.upload(pointer, array, 48)
    yield pointer, array
    cuda.free(pointer)


def fetched(cuda: Cuda, pointer: int) -> np.ndarray:
    back = np.zeros(48, np.uint8)
    cuda.download(back, pointer, 48)
    cuda.synchronize()
    return back.reshape(6, 8)


def test_rows_are_copied_within_the_device(cuda: Cuda, matrix: tuple[int, np.ndarray]) -> None:
    source, array = matrix
    target = cuda.malloc(48)
    cuda.zero(target, 48)
    # Three bytes of each row, from the second on, to the end of rows that are twelve long.
    cuda.copy_rows(target + 9, 12, source + 1, 8, 3, 4)
    expected = np.zeros((4, 12), np.uint8)
    expected[:, 9:] = array[:4, 1:4]
    np.testing.assert_array_equal(fetched(cuda, target).reshape(4, 12), expected)
    with pytest.raises(EngineError, match="cudaMemcpy2DAsync failed"):
        cuda.copy_rows(target, 2, source, 8, 3, 4)
    cuda.free(target)


def test_what_is_captured_runs_when_it_is_launched(
    cuda: Cuda, fake_runtime: Path, matrix: tuple[int, np.ndarray]
) -> None:
    (pointer, array), stream = matrix, cuda.stream()
    library = ctypes.CDLL(str(fake_runtime))
    before = library.fakeOpenGraphs()

    def work() -> None:
        cuda.copy_rows(pointer, 8, pointer + 8, 8, 8, 1, stream)
        cuda.zero(pointer + 8, 8, stream)

    graph = cuda.captured(stream, work)
    np.testing.assert_array_equal(fetched(cuda, pointer), array)
    assert library.fakeOpenGraphs() == before + 1
    for expected in ([*range(8, 16)], [0] * 8):
        cuda.launch(graph, stream)
        assert fetched(cuda, pointer)[0].tolist() == expected
    cuda.destroy_graph(graph)
    assert library.fakeOpenGraphs() == before

    def broken() -> None:
        work()
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        cuda.captured(stream, broken)
    # The stream takes work again.
    cuda.copy_rows(pointer, 8, pointer + 16, 8, 8, 1, stream)
    assert fetched(cuda, pointer)[0].tolist() == [*range(16, 24)] and library.fakeOpenGraphs() == before
    cuda.destroy_stream(stream)


def variant(folder: Path, name: str, *changes: tuple[str, str]) -> Path:
    """The library with other source text."""
    text = Path(__file__).with_name("fake_cudart.c").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    source, library = folder / f"{name}.c", folder / f"lib{name}.so"
    source.write_text(text)
    subprocess.run([shutil.which("cc") or "gcc", "-shared", "-fPIC", source, "-o", library], check=True)
    return library


def test_what_cannot_be_captured_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    invalid = variant(tmp_path, "invalid")
    ctypes.CDLL(str(invalid)).fakeRefuseCaptures()
    old = variant(tmp_path, "old", ("cudaGraphInstantiateWithFlags", "cudaGraphInstantiateOtherwise"))
    for library, kind, message in (
        (invalid, "input", "cudaStreamEndCapture failed: a capture was invalidated"),
        (old, "environment", "has no cudaGraphInstantiateWithFlags: graphs need CUDA 11.4"),
    ):
        monkeypatch.setattr(cuda_runtime, "_FOUND", [])
        monkeypatch.setattr(cuda_runtime, "_cuda_names", lambda library=library: [str(library)])
        cuda = Cuda()
        stream = cuda.stream()
        with pytest.raises(EngineError, match=message) as failure:
            cuda.captured(stream, lambda: None)
        assert failure.value.kind == kind
        cuda.zero(cuda.malloc(8), 8, stream)


def test_full_memory_is_said_with_the_size(cuda: Cuda, fake_runtime: Path) -> None:
    fake = ctypes.CDLL(str(fake_runtime))
    fake.fakeFailNext()
    forgotten = fake.fakeForgotten()
    with pytest.raises(EngineError, match="too little free memory: cudaMalloc of 1,000,000 bytes") as failure:
        cuda.malloc(1_000_000)
    assert failure.value.kind == "environment"
    # The runtime keeps a failure for whoever asks next, which may be PyTorch.
    assert fake.fakeForgotten() == forgotten + 1


def test_without_a_library_or_a_driver_the_reason_is_given(
    fake_runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_runtime, "_FOUND", [])
    monkeypatch.setattr(cuda_runtime, "_cuda_names", lambda: ["libnothing.so"])
    assert "libcudart) is not found" in (Cuda.available() or "")
    with pytest.raises(EngineError, match="is not found"):
        Cuda()
    # A library that answers as NVIDIA's does where there is no driver.
    changes = ("*count = 1; return 0;", "*count = 0; return 35;"), ("*version = 12080", "*version = 0")
    driverless = variant(tmp_path, "driverless", *changes)
    monkeypatch.setattr(cuda_runtime, "_FOUND", [])
    monkeypatch.setattr(cuda_runtime, "_cuda_names", lambda: [str(driverless)])
    assert Cuda.available() == "no NVIDIA driver is installed: a GPU is needed."
    # Where an older library works, the first one's failure does not matter.
    monkeypatch.setattr(cuda_runtime, "_FOUND", [])
    monkeypatch.setattr(cuda_runtime, "_cuda_names", lambda: [str(driverless), str(fake_runtime)])
    assert Cuda.available() is None
