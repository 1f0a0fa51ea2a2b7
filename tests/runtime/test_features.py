"""Features of images are pooled as Python pools them, to the last bit, and refused for the same reasons."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.image_features import features_preprocessing, image_features
from memvp_export.exporter.images import check_preprocessing

from .conftest import Refused

Host = Callable[..., Any]


def pooled(host: Host, folder: Path, features: np.ndarray, spec: dict[str, Any]) -> np.ndarray:
    features.tofile(folder / "features")
    rows, width = features.shape
    asked = {"rows": rows, "width": width, "pooled": folder / "pooled"}
    assert host("pooled", features=folder / "features", spec=spec, **asked) == [spec["rows"], spec["width"]]
    return np.fromfile(folder / "pooled", np.float32).reshape(spec["rows"], spec["width"])


@pytest.mark.parametrize(("length", "rows"), [(49, 36), (36, 36), (9, 4), (16, 1), (1, 9), (5, 5), (16, 25)])
def test_pooling_is_pythons(host: Host, tmp_path: Path, length: int, rows: int) -> None:
    features = np.random.default_rng(length).standard_normal((length, 5)).astype(np.float32)
    spec = features_preprocessing(rows, 5)
    np.save(tmp_path / "features.npy", features)
    expected = image_features(tmp_path / "features.npy", spec)
    np.testing.assert_array_equal(pooled(host, tmp_path, features, spec), expected)


@pytest.mark.parametrize(
    "features",
    [
        np.ones((5, 3), np.float32),
        np.ones((4, 2), np.float32),
        np.ones((0, 3), np.float32),
        np.ones((16385, 3), np.float32),
        np.array([[1, 2, np.nan]] * 4, np.float32),
        np.array([[1, np.inf, 3]] * 4, np.float32),
    ],
)
def test_features_that_cannot_be_used(host: Host, tmp_path: Path, features: np.ndarray) -> None:
    spec = features_preprocessing(4, 3)
    np.save(tmp_path / "features.npy", features)
    with pytest.raises(InputError) as expected:
        image_features(tmp_path / "features.npy", spec)
    with pytest.raises(Refused) as refused:
        pooled(host, tmp_path, features, spec)
    assert str(refused.value) == str(expected.value).replace(f" {tmp_path}/features.npy", "")


@pytest.mark.parametrize(
    "changed", [{"features": "mean"}, {"rows": 0}, {"width": 2.5}, {"rows": 8193}, {"width": None}, {"side": 3}]
)
def test_a_preprocessing_that_cannot_be_followed(host: Host, tmp_path: Path, changed: dict[str, Any]) -> None:
    spec = {**features_preprocessing(4, 3), **changed}
    with pytest.raises(InputError) as expected:
        check_preprocessing(spec)
    with pytest.raises(Refused) as refused:
        pooled(host, tmp_path, np.ones((4, 3), np.float32), spec)
    assert str(refused.value) == str(expected.value)
