"""Features of an image are pooled as torch pools them, from each kind of file, or refused in one clear message."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from memvp_export.exporter.errors import InputError, MissingPackage
from memvp_export.exporter.image_features import (
    SUFFIXES,
    features_preprocessing,
    image_features,
    load_features,
    pool_features,
)
from memvp_export.exporter.images import check_preprocessing

WIDTH = 5


def features(rows: int = 49, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, WIDTH)).astype(np.float32)


def save(path: Path, array: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez_compressed(path, features=array)
    else:
        with h5py.File(path, "w") as file:
            file[f"{path.stem}/features"] = array
    return path


@pytest.mark.parametrize(("side", "wanted"), [(7, 6), (6, 6), (14, 6), (5, 3), (12, 4), (4, 6), (1, 2), (9, 1)])
def test_pooling_is_torchs(side: int, wanted: int) -> None:
    given = features(side**2)
    grid = torch.from_numpy(given).T.reshape(1, WIDTH, side, side)
    expected = torch.nn.AdaptiveMaxPool2d(wanted)(grid)[0].flatten(1).T.numpy()
    np.testing.assert_array_equal(pool_features(given, wanted**2), expected)


def test_what_is_no_square_is_taken_as_it_is_or_refused() -> None:
    np.testing.assert_array_equal(pool_features(features(7), 7), features(7))
    for rows, wanted in ((50, 36), (49, 7)):
        with pytest.raises(InputError, match=f"{rows} rows.*takes {wanted}"):
            pool_features(features(rows), wanted)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_each_kind_of_file_holds_the_same(tmp_path: Path, suffix: str, dtype: type) -> None:
    path = save(tmp_path / f"COCO_val_1{suffix}", features().astype(dtype))
    found = load_features(path, WIDTH)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, features().astype(dtype).astype(np.float32))
    pooled = image_features(path, features_preprocessing(4, WIDTH))
    assert pooled.shape == (4, WIDTH)
    other = image_features(save(path, features(seed=1)), features_preprocessing(4, WIDTH))
    assert np.abs(pooled - other).max() > 0.1


def test_an_archive_of_one_array_needs_no_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", arr_0=features())
    np.testing.assert_array_equal(load_features(tmp_path / "one.npz", WIDTH), features())
    np.savez(tmp_path / "two.npz", a=features(), b=features())
    with pytest.raises(InputError, match="named 'features'"):
        load_features(tmp_path / "two.npz", WIDTH)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, WIDTH + 1), np.float32), "takes \\[L,5\\]"),
        (np.zeros((2, 2, WIDTH), np.float32), "takes \\[L,5\\]"),
        (np.zeros((0, WIDTH), np.float32), "L from 1"),
        (np.zeros((20000, WIDTH), np.float32), "L from 1"),
        (np.zeros((4, WIDTH), np.int64), "type int64"),
        (np.full((4, WIDTH), np.nan, np.float32), "not finite"),
        (np.full((4, WIDTH), 1e300), "not finite"),
        (np.zeros((5, WIDTH), np.float32), "5 rows"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, suffix: str, array: np.ndarray, words: str) -> None:
    path = save(tmp_path / f"odd{suffix}", array)
    with pytest.raises(InputError, match=words) as caught:
        image_features(path, features_preprocessing(4, WIDTH))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"no" * 400])
def test_damaged_files_are_refused(tmp_path: Path, suffix: str, damage: Callable[[bytes], bytes]) -> None:
    path = save(tmp_path / f"a{suffix}", features(900))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=f"a{suffix}.*damaged") as caught:
        image_features(path, features_preprocessing(4, WIDTH))
    assert "\n" not in str(caught.value)


PNG = b"\x89PNG\r\n\x1a\n" + bytes(60)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (None, PNG, "does not begin like one"),
        (b"(49, 5), }", b"(9**9, 5)}", "its header describes no array"),
        (b"(49, 5), }", b"(99999999}", "its header describes no array"),
    ],
)
def test_an_npy_file_that_is_none_is_refused_in_own_words(
    tmp_path: Path, before: bytes | None, after: bytes, words: str
) -> None:
    path = save(tmp_path / "a.npy", features())
    changed = path.read_bytes().replace(before, after) if before else after
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    with pytest.raises(InputError, match=f"damaged.*{words}") as caught:
        load_features(path, WIDTH)
    assert not re.search("pickle|object at|multi-line", str(caught.value))


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[{}]], object), allow_pickle=True)
    with pytest.raises(InputError, match="damaged"):
        image_features(tmp_path / "a.npy", features_preprocessing(4, WIDTH))


@pytest.mark.parametrize("name", ["missing.npy", "folder.npy"])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(InputError, match="not a file"):
        image_features(tmp_path / name, features_preprocessing(4, WIDTH))


def test_a_picture_is_refused_and_told_how_to_make_features(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.png.*\[L,5\].*vision encoder.*numpy\.save"):
        image_features(tmp_path / "a.png", features_preprocessing(4, WIDTH))


def test_an_h5_file_of_another_layout_or_with_links_is_refused(tmp_path: Path) -> None:
    inside = save(tmp_path / "inside.h5", features())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["b/features"] = features()
    with pytest.raises(InputError, match="no dataset 'a/features'; it holds b"):
        load_features(tmp_path / "a.h5", WIDTH)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["c/features"] = h5py.ExternalLink(inside, "inside/features")
    with pytest.raises(InputError, match="no dataset 'c/features'"):
        load_features(tmp_path / "c.h5", WIDTH)


@pytest.mark.parametrize("kind", ["external", "virtual"])
def test_an_h5_file_whose_values_lie_in_another_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "secret").write_bytes(features().tobytes())
    inside = save(tmp_path / "inside.h5", features())
    layout = h5py.VirtualLayout((49, WIDTH), np.float32)
    layout[:] = h5py.VirtualSource(inside, "inside/features", (49, WIDTH))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if kind == "virtual":
            file.create_virtual_dataset("a/features", layout)
        else:
            file.create_dataset("a/features", (49, WIDTH), np.float32, external=[(tmp_path / "secret", 0, 980)])
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["a/features"], features())
    with pytest.raises(InputError, match="lies in other files"):
        load_features(tmp_path / "a.h5", WIDTH)


def test_h5_needs_h5py_and_the_others_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [save(tmp_path / f"a{suffix}", features()) for suffix in SUFFIXES]
    monkeypatch.setitem(sys.modules, "h5py", None)
    *others, h5 = paths
    for path in others:
        load_features(path, WIDTH)
    with pytest.raises(MissingPackage, match=r"h5py.*pip install 'memvp-export\[features\]'"):
        load_features(h5, WIDTH)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": "mean"}, "adaptive-max"),
        ({"rows": 0}, "rows"),
        ({"width": 2.5}, "width"),
        ({"mean": [0.5] * 3}, "unknown 'mean'"),
    ],
)
def test_preprocessing_that_cannot_be_followed_is_refused(change: dict[str, object], words: str) -> None:
    check_preprocessing(features_preprocessing(36, 2048))
    with pytest.raises(InputError, match=words):
        check_preprocessing(features_preprocessing(36, 2048) | change)
    with pytest.raises(InputError, match="missing"):
        check_preprocessing({"features": "adaptive-max"})
