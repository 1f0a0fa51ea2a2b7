"""A file of image features, which another program made -> the visual rows that a model was trained on (spec 2.1)."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import MAGIC_PREFIX
from numpy.lib.npyio import NpzFile

from .errors import EnvironmentLack, InputError
from .packages import needing

SUFFIXES = (".npy", ".npz", ".h5")
POOLINGS = ("adaptive-max",)
_NAME = "features"
# A grid of 128 x 128: what is larger is no file of features.
_LONGEST = 1 << 14


def features_preprocessing(rows: int, width: int) -> dict[str, Any]:
    """The manifest's `preprocessing` of a model that takes `rows` features [rows,width] of an image: a grid of another
    size is pooled, as VL-PET does it (spec 2.1)."""
    return {"features": "adaptive-max", "rows": rows, "width": width}


def takes_features(spec: Mapping[str, Any]) -> bool:
    """Whether a manifest's `preprocessing` is of features, not of pixels."""
    return "features" in spec


def image_features(path: Path | str, spec: Mapping[str, Any]) -> np.ndarray:
    """The features in a file after the manifest's `preprocessing`, float32 [rows,width]. A request without an image is
    zeros of this shape. Raises InputError as `load_features` and `pool_features` do."""
    path = Path(path)
    features = load_features(path, int(spec["width"]))
    with _named(path):
        return pool_features(features, int(spec["rows"]))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What is wrong with features is said of the file that they are in."""
    try:
        yield
    except InputError as error:
        raise InputError(f"the image features {path} cannot be used: {error}") from error


def load_features(path: Path, width: int) -> np.ndarray:
    """The features [L,width] of one image, float32, L at most 16,384, row by row from its top left.

    `.npy`: the array. `.npz`: its only array, or the one named `features`. `.h5`: VL-PET's layout, the dataset
    `<name of the file>/features`. Raises InputError for another kind of file, a damaged one, an array of another shape
    or type, and values that are not finite; MissingPackage where an `.h5` needs h5py.
    """
    with _named(path):
        return _loaded(path, width)


def _loaded(path: Path, width: int) -> np.ndarray:
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"this model takes features of an image, [L,{width}] in a file of kind .npy, .npz or .h5. Run the "
            "vision encoder that the model was trained with on the picture, and save its grid with numpy.save."
        )
    try:
        with path.open("rb"):
            pass
        found = _READERS[path.suffix.lower()](path, width)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise InputError("it is not a file.") from error
    except PermissionError as error:
        raise EnvironmentLack(f"the image features {path} may not be read: permission denied.") from error
    except (InputError, EnvironmentLack):
        raise
    except Exception as error:  # NumPy, zipfile and h5py each have their own for one and the same damage
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise InputError(f"it is damaged, or no {path.suffix} file ({reason}).") from error
    if not np.isfinite(found).all():
        raise InputError("it has values that are not finite.")
    return found


def _npy(path: Path, width: int) -> np.ndarray:
    with path.open("rb") as file:
        if file.read(len(MAGIC_PREFIX)) != MAGIC_PREFIX:
            raise InputError("it is damaged, or no .npy file (it does not begin like one).")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # NumPy evaluates the header as Python, whose words say nothing here
        raise InputError(
            "it is damaged: its header describes no array of numbers that is whole in the file."
        ) from error
    return _taken(array, width)


def _npz(path: Path, width: int) -> np.ndarray:
    with path.open("rb") as file, NpzFile(file, allow_pickle=False) as arrays:
        names = arrays.files
        if _NAME not in names and len(names) != 1:
            raise InputError(f"it holds {', '.join(names[:5]) or 'nothing'}, none of them named {_NAME!r}.")
        assert arrays.zip is not None
        if max(entry.file_size for entry in arrays.zip.infolist()) > _LONGEST * (width + 1) * 8:
            raise InputError(f"it unpacks to more than {_LONGEST:,} rows of {width}.")
        return _taken(arrays[_NAME if _NAME in names else names[0]], width)


def _h5(path: Path, width: int) -> np.ndarray:
    with needing("features"):
        import h5py
    name = f"{path.stem}/{_NAME}"
    with h5py.File(path, "r") as file:
        # A link could lead to another file.
        links = (file.get(path.stem, getlink=True), file.get(name, getlink=True) if path.stem in file else None)
        if not all(isinstance(link, h5py.HardLink) for link in links):
            raise InputError(f"it has no dataset {name!r}; it holds {', '.join(list(file)[:5]) or 'nothing'}.")
        found = file[name]
        # So could a dataset whose values are kept elsewhere.
        if isinstance(found, h5py.Dataset) and (found.external or found.is_virtual):
            raise InputError(f"its dataset {name!r} lies in other files. Copy the values into this one.")
        return _taken(found, width)


_READERS = {".npy": _npy, ".npz": _npz, ".h5": _h5}


def _taken(array: Any, width: int) -> np.ndarray:
    """What is read of an array of a file, once its shape and type are known to be right."""
    shape, kind = list(getattr(array, "shape", ())), getattr(array, "dtype", np.dtype(object))
    if len(shape) != 2 or shape[1] != width or not 1 <= shape[0] <= _LONGEST:
        raise InputError(f"it is {shape}, this model takes [L,{width}] with L from 1 to {_LONGEST}: another encoder?")
    if kind.kind != "f" or kind.itemsize > 8:
        raise InputError(f"it has values of type {kind}, this model takes float16, float32 or float64.")
    with np.errstate(over="ignore"):
        return np.array(array[...], np.float32)


def pool_features(features: np.ndarray, rows: int) -> np.ndarray:
    """Features [L,f] -> [rows,f]: the largest value of each channel in the windows of a sqrt(rows) x sqrt(rows) grid
    over a sqrt(L) x sqrt(L) one. Window i of n over a side of m goes from floor(i m / n) to ceil((i + 1) m / n).

    As many features as rows are taken as they are. Raises InputError where one of the two makes no square.
    """
    if len(features) == rows:
        return features
    side, wanted = math.isqrt(len(features)), math.isqrt(rows)
    if side**2 != len(features) or wanted**2 != rows:
        raise InputError(
            f"it has {len(features)} rows, this model takes {rows}: only a square grid can be pooled to another one."
        )
    grid = features.reshape(side, side, -1)
    windows = [(i * side // wanted, -(-(i + 1) * side // wanted)) for i in range(wanted)]
    across = np.stack([grid[:, start:stop].max(1) for start, stop in windows], 1)
    return np.stack([across[start:stop].max(0) for start, stop in windows]).reshape(rows, -1)
