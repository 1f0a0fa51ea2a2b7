"""Pixels are, bit for bit, those that Python makes of the same picture with Pillow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memvp_export.exporter import images
from memvp_export.exporter.errors import ToolError
from PIL import Image
from PIL import __version__ as pillow

from .conftest import Refused

Host = Callable[..., Any]
SPECS = {
    "squash 14": images.memvp_preprocessing(14),
    "squash 224": images.memvp_preprocessing(224),
    "squash to oblong": {**images.memvp_preprocessing(8), "height": 6, "width": 31},
    "crop 14": images.clip_preprocessing(14),
    "crop 225": images.clip_preprocessing(225),
    "pixelbert": images.pixelbert_preprocessing(384, 640, 384, 32),
    "pixelbert that shrinks to fit": images.pixelbert_preprocessing(64, 64, 96, 32),
    "pixelbert of odd multiples": images.pixelbert_preprocessing(96, 128, 70, 7),
}
SIZES = [(1, 1), (1, 7), (5, 1), (14, 14), (13, 14), (37, 53), (53, 37), (224, 224), (225, 226), (301, 77), (40, 900)]


def picture(height: int, width: int) -> np.ndarray:
    """Noise at full range beside flat parts, so that the filter overshoots at both ends."""
    generator = np.random.default_rng(1000 * height + width)
    pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
    pixels[: height // 3] = generator.choice(np.array([0, 255], np.uint8), (height // 3, width, 3))
    return pixels


def made(host: Host, pixels: np.ndarray, spec: dict[str, Any], folder: Path, gap: int = 0) -> tuple[np.ndarray, ...]:
    height, width, _ = pixels.shape
    rows = np.full((height, 3 * width + gap), 7, np.uint8)
    rows[:, : 3 * width] = pixels.reshape(height, 3 * width)
    rows.tofile(folder / "rgb")
    names = {name: folder / name for name in ("rgb", "pixels", "mask")}
    row_bytes = 3 * width + gap if gap else 0
    size = host("pixels", spec=spec, height=height, width=width, row_bytes=row_bytes, **names)
    found = np.fromfile(folder / "pixels", np.float32).reshape(3, *size)
    return found, np.fromfile(folder / "mask", np.int64).reshape(size)


def differs(height: int, width: int, spec: dict[str, Any]) -> bool:
    """Whether a Pillow before 13 passes over rows and columns in the other order."""
    new_height, new_width = images.resized_size(height, width, spec)
    return int(pillow.split(".")[0]) < 13 and height - new_height > max(0, 2 * (width - new_width))


@pytest.mark.parametrize("name", SPECS)
def test_pixels_and_masks_are_pythons(host: Host, tmp_path: Path, name: str) -> None:
    spec = SPECS[name]
    for height, width in SIZES:
        pixels = picture(height, width)
        found, mask = made(host, pixels, spec, tmp_path, gap=width % 3)
        expected = images.preprocess(Image.fromarray(pixels), spec)
        if not differs(height, width, spec):
            assert found.shape == expected.shape and found.tobytes() == expected.tobytes(), (height, width)
        if spec["resize"] == "pixelbert":
            np.testing.assert_array_equal(mask, images.pixel_mask(Image.fromarray(pixels), spec), f"{height}, {width}")


def test_another_picture_gives_other_pixels(host: Host, tmp_path: Path) -> None:
    spec, pixels = SPECS["squash 14"], picture(37, 53)
    first, _ = made(host, pixels, spec, tmp_path)
    pixels[20, 20] ^= 255
    assert (first != made(host, pixels, spec, tmp_path)[0]).any()


def test_statistics_of_any_kind_are_rounded_once(host: Host, tmp_path: Path) -> None:
    odd = {"mean": [0, 1e-3, -7.25], "std": [3, 1e-4, 1 / 3], "scale": 1 / 127.5}
    spec, pixels = {**images.clip_preprocessing(14), **odd}, picture(37, 53)
    found, _ = made(host, pixels, spec, tmp_path)
    assert found.tobytes() == images.preprocess(Image.fromarray(pixels), spec).tobytes()


@pytest.mark.parametrize(("side", "long"), [(1024, 70_000), (8192, 1 << 19)])
def test_a_line_of_pixels_cannot_be_cropped(host: Host, tmp_path: Path, side: int, long: int) -> None:
    """The longer one would become 2^32 pixels, which is 0 to an int."""
    spec, pixels = images.clip_preprocessing(side), picture(1, long)
    with pytest.raises(ToolError) as expected:
        images.preprocess(Image.fromarray(pixels), spec)
    with pytest.raises(Refused) as found:
        made(host, pixels, spec, tmp_path)
    assert str(found.value) == str(expected.value)


def test_a_picture_without_pixels_is_refused(host: Host, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no pixels"):
        made(host, picture(5, 5)[:0], SPECS["squash 14"], tmp_path)


GOOD, PIXELBERT = images.clip_preprocessing(14), SPECS["pixelbert"]
WRONG: list[dict[str, Any]] = [
    {**GOOD, "resize": "fit"},
    {**GOOD, "resize": None},
    {**GOOD, "filter": "nearest"},
    {**GOOD, "channel_order": "BGR"},
    {**GOOD, "gamma": 1, "alpha": 2},
    {key: value for key, value in GOOD.items() if key not in ("mean", "filter")},
    {**GOOD, "shorter": 3},
    {key: value for key, value in PIXELBERT.items() if key != "multiple"},
    {**GOOD, "height": 0},
    {**GOOD, "height": 13.5},
    {**GOOD, "width": 8193},
    {**GOOD, "width": True},
    {**GOOD, "width": "14"},
    {**GOOD, "width": 15},
    {**PIXELBERT, "multiple": -1},
    {**GOOD, "mean": [0.5, 0.5]},
    {**GOOD, "mean": [0.5, 0.5, None]},
    {**GOOD, "mean": 0.5},
    {**GOOD, "std": [1, 1, 0]},
    {**GOOD, "std": [1, 1, 1, 1]},
    {**GOOD, "scale": 0},
    {**GOOD, "scale": "1/255"},
]


@pytest.mark.parametrize("spec", WRONG)
def test_a_preprocessing_that_cannot_be_followed_is_refused_in_pythons_words(host: Host, spec: dict[str, Any]) -> None:
    with pytest.raises(ToolError) as expected:
        images.check_preprocessing(spec)
    with pytest.raises(Refused) as found:
        host("check preprocessing", spec=spec)
    assert (found.value.kind, str(found.value)) == ("InputError", str(expected.value))


@pytest.mark.parametrize("spec", [*SPECS.values(), {**GOOD, "height": 14.0, "mean": [0, 0, 0]}])
def test_what_python_follows_is_followed(host: Host, spec: dict[str, Any]) -> None:
    images.check_preprocessing(spec)
    assert host("check preprocessing", spec=spec) == [int(spec["height"]), int(spec["width"])]
