"""Raw tensors by name in npz files, bfloat16 among them (docs/bundle.md)."""

from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from .errors import EnvironmentLack, InputError
from .session import Arrays
from .whole_file import whole_file

_BF16 = ".bf16"


def read_npz(path: Path) -> Arrays:
    """The arrays of an npz file by name; bfloat16 ones are uint16 under `<name>.bf16` (docs/bundle.md)."""
    try:
        with path.open("rb") as file, NpzFile(file, allow_pickle=False) as arrays:
            return dict(_from_npz(name, arrays[name]) for name in arrays.files)
    except FileNotFoundError as error:
        raise InputError(f"{path} is not a file.") from error
    except PermissionError as error:
        raise EnvironmentLack(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # zipfile, zlib, struct and NumPy each have their own for one and the same damage
        reason = str(error) or type(error).__name__
        raise InputError(f"{path} is not a whole npz file of plain arrays ({reason}).") from error


def write_npz(path: Path, arrays: Arrays) -> None:
    """Write such a file, whole or not at all. Raises EnvironmentLack where it cannot be written."""
    with whole_file(path) as file:
        np.savez(file, **dict(_to_npz(name, array) for name, array in arrays.items()))  # type: ignore[arg-type]


def _from_npz(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    if not (name.endswith(_BF16) and array.dtype == np.uint16):
        return name, array
    import ml_dtypes

    return name.removesuffix(_BF16), array.view(ml_dtypes.bfloat16)


def _to_npz(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    return (name + _BF16, array.view(np.uint16)) if array.dtype.name == "bfloat16" else (name, array)
