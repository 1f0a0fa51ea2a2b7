"""Files written without NumPy are NumPy's, and the other way; anything else is refused."""

from pathlib import Path

import numpy as np
import pytest
from memvp_export.exporter.engines.engine_error import EngineError
from memvp_export.exporter.engines.npy import npy_path, read_npy, write_npy

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "int32", "int8", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 4), (2, 3, 4, 5)])
def test_arrays_go_both_ways(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.asarray(RNG.integers(0, 2 if dtype == "bool" else 100, shape)).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    assert read_npy(tmp_path / "a.npy", dtype) == (shape, array.tobytes())
    write_npy(tmp_path / "b.npy", shape, array.tobytes(), dtype)
    back = np.load(tmp_path / "b.npy")
    assert back.dtype == array.dtype and np.array_equal(back, array)


def test_bfloat16_crosses_as_its_bits(tmp_path: Path) -> None:
    path = npy_path(str(tmp_path), "visual_memory", "bfloat16")
    assert path.name == "visual_memory.bf16.npy"
    np.save(path, np.array([[0x3F80, 0x4000]], np.uint16))
    assert read_npy(path, "bfloat16") == ((1, 2), b"\x80\x3f\x00\x40")


def test_what_is_no_such_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with pytest.raises(EngineError, match="cannot be read"):
        read_npy(path, "float32")
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(EngineError, match=r"not a \.npy file"):
        read_npy(path, "float32")
    np.save(path, np.ones((2, 3)))
    with pytest.raises(EngineError, match="holds <f8, the engine takes <f4"):
        read_npy(path, "float32")
    np.save(path, np.asfortranarray(np.ones((2, 3), np.float32)))
    with pytest.raises(EngineError, match="Fortran order"):
        read_npy(path, "float32")
    np.save(path, np.ones((2, 3), np.float32))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(EngineError, match="cut short"):
        read_npy(path, "float32")
    path.write_bytes(path.read_bytes().replace(b"'descr'", b"'descR'"))
    with pytest.raises(EngineError, match="damaged"):
        read_npy(path, "float32")
