"""The kernels on the host: the same sources, compiled with g++ over tests/plugins/kernels/emulator."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from memvp_export.plugins import reference
from memvp_export.plugins.kernels import interface

EMULATOR = Path(__file__).parent / "emulator"
GUARD = 256
DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
# (number, capability, multiprocessors, shared memory of one, and of a block): few multiprocessors, so that small
# problems are split as large ones are on a GPU.
DEVICES = {
    "h200": (0, 90, 4, 233472, 232448),
    "orin": (1, 87, 8, 167936, 166912),
    "turing": (2, 75, 3, 65536, 65536),
    "many": (3, 90, 500, 233472, 232448),
    "h200 of many": (64, 90, 4, 233472, 232448),
}


@dataclass(frozen=True)
class Case:
    """One call of the operator on random tensors."""

    batch: int
    tokens: int
    width: int
    rows: int
    table_rows: int
    dtype: str = "float16"
    activation: str = "silu"
    shared: bool = False
    device: str = "h200"
    offset: int = 0  # elements that every tensor begins after an aligned address
    in_place: bool = False  # the output is the FFN's tensor

    def problem(self) -> interface.Problem:
        visual_batch = 1 if self.shared else self.batch
        types = interface.TYPES[self.dtype], interface.ACTIVATIONS[self.activation]
        sizes = (self.batch, self.tokens, self.width, self.rows, self.table_rows, visual_batch)
        return interface.Problem(*sizes, *types, 0.3)

    def tensors(self) -> list[np.ndarray]:
        """hidden, ffn, visual, key_positions, value_positions: scores are of the order of 1."""
        random = np.random.default_rng(self.width + self.table_rows)
        token, memory = (self.batch, self.tokens, self.width), (self.table_rows, self.width)
        visual = (1 if self.shared else self.batch, self.rows, self.width)
        unit = self.width**-0.5
        made = ((token, 1.0), (token, 1.0), (visual, 2 * unit), (memory, 2 * unit), (memory, 1.0))
        return [(size * random.standard_normal(shape)).astype(DTYPES[self.dtype]) for shape, size in made]

    def expected(self) -> np.ndarray:
        return reference.visual_memory_ffn(*self.tensors(), 0.3, self.activation)


class Guarded:
    """A tensor between bands of NaN in one allocation, and whether the bands are untouched."""

    def __init__(self, values: np.ndarray, offset: int = 0) -> None:
        size = values.nbytes
        store = np.full(size + 2 * GUARD + 272, 0xFF, np.uint8)
        start = -(store.ctypes.data + GUARD) % 256 + GUARD + offset * values.itemsize
        self.store, self.start, self.size = store, start, size
        self.array = store[start : start + size].view(values.dtype).reshape(values.shape)
        self.array[...] = values
        self.address = store.ctypes.data + start

    def untouched(self) -> bool:
        bands = np.concatenate((self.store[: self.start], self.store[self.start + self.size :]))
        return bool((bands == 0xFF).all())


class Emulator:
    """The library of the kernels on the host."""

    def __init__(self, path: Path) -> None:
        self.library = interface.open_library(path)

    def start(self, device: str = "h200", seed: int = 0) -> None:
        """Forget errors and launches, and be this device."""
        self.library.emulatorStart(seed)
        self.library.emulatorDevice(*DEVICES[device])

    def run(self, case: Case, seed: int = 0, changed: int | None = None, refused: int = -1) -> np.ndarray:
        """The operator's output; with the first value of tensor `changed` raised by 1, launch `refused` refused.

        The seed draws the order of threads and blocks. Asserts that nothing outside output and workspace is written.
        """
        self.start(case.device, seed)
        self.library.emulatorRefuse(refused)
        arrays = case.tensors()
        if changed is not None:
            arrays[changed].reshape(-1)[0] += 1
        tensors = [Guarded(array, case.offset) for array in arrays]
        poison = np.full(tensors[0].array.shape, np.nan, tensors[0].array.dtype)
        output = tensors[1] if case.in_place else Guarded(poison, case.offset)
        problem = case.problem()
        workspace = Guarded(np.full(interface.workspace_bytes(self.library, problem), 0xFF, np.uint8))
        addresses = [tensor.address for tensor in tensors]
        interface.visual_memory_ffn(
            self.library, problem, *addresses, output.address, workspace.address, workspace.size
        )
        assert all(part.untouched() for part in (*tensors, output, workspace)), "written outside of a tensor"
        for tensor, original in zip(tensors, arrays, strict=True):
            assert tensor is output or (tensor.array.view(np.uint8) == original.view(np.uint8)).all(), "input changed"
        return output.array.copy()

    def launches(self) -> list[int]:
        """Threads of the blocks of each kernel launched by the last run; negative: a kernel without shared memory."""
        threads = (ctypes.c_int * 8)()
        return list(threads[: self.library.emulatorLaunches(threads, 8)])


def compile_sources(sources: list[Path], folder: Path) -> list[Path]:
    """The sources as objects for the host in the folder."""
    flags = ["-std=c++17", "-O1", "-fPIC", "-fno-gnu-unique", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    includes = ["-DMEMVP_EMULATE", f"-I{EMULATOR}", f"-I{interface.SOURCES[0].parent}"]
    objects = [folder / f"{source.stem}.o" for source in sources]
    running = [
        subprocess.Popen(["g++", *flags, *includes, "-x", "c++", "-c", source, "-o", made], stderr=subprocess.PIPE)
        for source, made in zip(sources, objects, strict=True)
    ]
    for process in running:
        _, said = process.communicate()
        assert process.returncode == 0, said.decode()
    return objects


def link(objects: list[Path], folder: Path) -> Path:
    """The objects as a library in the folder."""
    subprocess.run(["g++", "-shared", *objects, "-o", folder / "kernels.so"], check=True)
    return folder / "kernels.so"


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The kernels as they are, compiled for the host."""
    if shutil.which("g++") is None:
        pytest.skip("the kernels run on the host only through g++, which is not on PATH")
    return compile_sources(interface.SOURCES, tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="session")
def emulator(objects: list[Path]) -> Emulator:
    """The kernels as they are, on the host."""
    return Emulator(link(objects, objects[0].parent))


@pytest.fixture
def emulator_without(objects: list[Path], tmp_path: Path) -> Callable[[str, str, int], Emulator]:
    """emulator_without(file, text, count): the kernels after the count-th occurrence of text in file is taken out."""

    def make(file: str, text: str, count: int) -> Emulator:
        source = next(source for source in interface.SOURCES if source.name == file)
        parts = source.read_text().split(text)
        assert len(parts) > count, f"{file} has {text} only {len(parts) - 1} times"
        parts[count - 1 : count + 1] = [parts[count - 1] + parts[count]]
        (tmp_path / file).write_text(text.join(parts))
        others = [made for made in objects if made.stem != source.stem]
        return Emulator(link([*others, *compile_sources([tmp_path / file], tmp_path)], tmp_path))

    return make


@pytest.fixture(scope="session")
def make_case() -> type[Case]:
    """Case, for test modules, which cannot import this file."""
    return Case
