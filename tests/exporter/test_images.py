"""Odd images come out as sensible RGB or as one clear message; preprocessing is the paper's."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from memvp_export.exporter import images
from memvp_export.exporter.errors import InputError
from PIL import Image


def picture(height: int = 40, width: int = 60, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def test_preprocessing_is_the_papers_formula() -> None:
    image = picture()
    resized = np.asarray(image.resize((28, 28), Image.BICUBIC), np.float64)
    expected = (resized / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    found = images.preprocess(image, images.memvp_preprocessing(28))
    assert found.shape == (3, 28, 28) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), rtol=1e-6, atol=1e-7)


def test_squash_keeps_no_aspect_ratio_and_height_comes_first() -> None:
    spec = {**images.memvp_preprocessing(8), "height": 6, "width": 10}
    assert images.preprocess(picture(), spec).shape == (3, 6, 10)
    halves = np.zeros((4, 400, 3), np.uint8)
    halves[:, 200:] = 255
    found = images.preprocess(Image.fromarray(halves), images.memvp_preprocessing(8))
    assert (found[:, :, 0] < 0).all() and (found[:, :, -1] > 2).all()


def test_another_picture_gives_other_pixels() -> None:
    spec = images.memvp_preprocessing(16)
    assert np.abs(images.preprocess(picture(seed=1), spec) - images.preprocess(picture(seed=2), spec)).mean() > 0.1


GREY = np.array([[0, 100], [200, 255]], np.uint8)
DEEP = np.array([[0, 300], [32768, 65535]], np.uint16)


def cmyk(path: Path) -> None:
    Image.new("CMYK", (2, 2), (0, 255, 255, 0)).save(path, "TIFF")


def alpha(path: Path) -> None:
    Image.new("RGBA", (2, 2), (10, 20, 30, 0)).save(path, "PNG")


def palette(path: Path) -> None:
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(path, "PNG", transparency=1)


def grey_alpha(path: Path) -> None:
    Image.new("LA", (2, 2), (77, 0)).save(path, "PNG")


def animated(path: Path) -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])


def one_pixel(path: Path) -> None:
    Image.new("RGB", (1, 1), (10, 20, 30)).save(path, "BMP")


SAME = {
    "cmyk": (cmyk, (255, 0, 0)),
    "alpha": (alpha, (10, 20, 30)),
    "palette with transparency": (palette, (10, 20, 30)),
    "grey with alpha": (grey_alpha, (77, 77, 77)),
    "animated": (animated, (255, 0, 0)),
    "one pixel": (one_pixel, (10, 20, 30)),
}


@pytest.mark.parametrize(("write", "colour"), SAME.values(), ids=list(SAME))
def test_every_kind_becomes_rgb(tmp_path: Path, write: Callable[[Path], None], colour: tuple[int, int, int]) -> None:
    write(tmp_path / "image.png")
    image = images.load_image(tmp_path / "image.png")
    assert image.mode == "RGB"
    assert np.asarray(image)[0, 0].tolist() == list(colour)
    assert np.isfinite(images.preprocess(image, images.memvp_preprocessing(4))).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_keep_their_high_byte(tmp_path: Path, kind: str) -> None:
    Image.fromarray(DEEP).save(tmp_path / "deep", kind)
    assert np.asarray(images.load_image(tmp_path / "deep"))[..., 1].tolist() == [[0, 1], [128, 255]]


def test_16_bits_in_pillows_32_bit_mode(tmp_path: Path) -> None:
    (tmp_path / "deep.pgm").write_bytes(b"P5\n2 2\n65535\n" + DEEP.astype(">u2").tobytes())
    assert np.asarray(images.load_image(tmp_path / "deep.pgm"))[..., 0].tolist() == [[0, 1], [128, 255]]


def test_grey(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    assert np.asarray(images.load_image(tmp_path / "grey.png"))[..., 2].tolist() == GREY.tolist()


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert images.load_image(tmp_path / "turned.jpg").size == (10, 30)


def test_damaged_exif_is_no_reason_to_refuse(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")
    assert images.load_image(tmp_path / "a.jpg").size == (60, 40)


def truncated(path: Path) -> None:
    picture().save(path, "PNG")
    path.write_bytes(path.read_bytes()[:2000])


def bomb(path: Path) -> None:
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")))


REFUSED = {
    "truncated": (truncated, "cut short"),
    "truncated jpeg": (
        lambda p: (picture().save(p, "JPEG"), p.write_bytes(p.read_bytes()[:900])),
        "truncated|cut short",
    ),
    "empty": (lambda p: p.write_bytes(b""), "empty"),
    "text": (lambda p: p.write_text("not a picture at all"), "not an image"),
    "missing": (lambda p: None, "does not exist"),
    "folder": (lambda p: p.mkdir(), "is a folder"),
    "bomb": (bomb, "refused"),
    "float": (lambda p: Image.fromarray(np.zeros((2, 2), np.float32)).save(p, "TIFF"), "32-bit"),
    "eps": (lambda p: Image.new("RGB", (2, 2)).save(p, "EPS"), "not an image"),
}


@pytest.mark.parametrize(("write", "words"), REFUSED.values(), ids=list(REFUSED))
def test_unusable_files_are_refused_by_name(tmp_path: Path, write: Callable[[Path], None], words: str) -> None:
    write(tmp_path / "image.png")
    with pytest.raises(InputError, match=words) as caught:
        images.load_image(tmp_path / "image.png")
    assert "image.png" in str(caught.value) and "\n" not in str(caught.value)


CHANGES: dict[str, dict[str, object]] = {
    "unknown key": {"crop": 3},
    "resize": {"resize": "shortest"},
    "filter": {"filter": "nearest"},
    "channel order": {"channel_order": "BGR"},
    "size": {"height": 0},
    "huge": {"width": 10**9},
    "bool": {"height": True},
    "fraction": {"height": 22.5},
    "mean": {"mean": [0.5]},
    "std": {"std": [0.5, 0, 0.5]},
    "nan": {"mean": [0.5, float("nan"), 0.5]},
    "scale": {"scale": "1/255"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_spec_that_cannot_be_followed_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        images.preprocess(picture(), {**images.memvp_preprocessing(8), **change})


def test_a_spec_that_lacks_a_key_is_refused() -> None:
    spec = images.memvp_preprocessing(8)
    del spec["std"]
    with pytest.raises(InputError, match="missing 'std'"):
        images.check_preprocessing(spec)


def stated_pixelbert(height: int, width: int, shorter: int) -> tuple[int, int]:
    """PixelBERT's rule of ViLT's transform, for patches of 32 (spec 4.2)."""
    longest = int((1333 / 800) * shorter)
    scale = shorter / min(height, width)
    new = (shorter, scale * width) if height < width else (scale * height, shorter)
    if max(new) > longest:
        new = (new[0] * longest / max(new), new[1] * longest / max(new))
    rounded = (int(new[0] + 0.5), int(new[1] + 0.5))
    return rounded[0] // 32 * 32, rounded[1] // 32 * 32


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (100, 100), (375, 500), (500, 333), (200, 1000), (1000, 210)])
def test_pixelbert_sizes_are_the_papers(size: tuple[int, int]) -> None:
    spec = images.pixelbert_preprocessing(608, 608, 384, 32)
    assert spec["longer"] == 639
    assert images.resized_size(*size, spec) == stated_pixelbert(*size, 384)
    assert images.resized_size(480, 640, spec) == (384, 512)


def test_pixelbert_pads_below_and_beside_with_what_is_zero_for_the_model() -> None:
    image, spec = picture(480, 640), images.pixelbert_preprocessing(416, 544, 384, 32)
    found, mask = images.preprocess(image, spec), images.pixel_mask(image, spec)
    assert found.shape == (3, 416, 544) and mask.shape == (416, 544) and mask.dtype == np.int64
    expected = np.asarray(image.resize((512, 384), Image.BICUBIC), np.float64).transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(found[:, :384, :512], expected, rtol=1e-6, atol=1e-6)
    assert mask[:384, :512].all() and mask.sum() == 384 * 512 and not found[:, mask == 0].any()
    # The official mask is where the colours do not sum to zero: of 8 bits, none does.
    np.testing.assert_array_equal(found.sum(0) != 0, mask == 1)


def test_a_picture_larger_than_the_input_is_scaled_to_fit() -> None:
    spec = images.pixelbert_preprocessing(384, 512, 384, 32)
    assert images.resized_size(640, 480, spec) == (384, 288)
    assert images.resized_size(480, 640, spec) == (384, 512)
    assert images.resized_size(10, 4000, spec) == (32, 512)
    assert images.preprocess(picture(640, 480), spec).shape == (3, 384, 512)


def test_pixelbert_needs_its_own_numbers() -> None:
    spec = images.pixelbert_preprocessing(64, 64, 64, 32)
    with pytest.raises(InputError, match="missing 'longer'"):
        images.check_preprocessing({key: value for key, value in spec.items() if key != "longer"})
    with pytest.raises(InputError, match="unknown 'longer'"):
        images.check_preprocessing(spec | {"resize": "squash"})
    with pytest.raises(InputError, match="multiple = 0"):
        images.check_preprocessing(spec | {"multiple": 0})


def stated_crop(image: Image.Image, size: int) -> Image.Image:
    """Resize(size, BICUBIC) and CenterCrop(size) as torchvision defines them (spec 5.2)."""
    w, h = image.size
    short, long = (w, h) if w <= h else (h, w)
    new_short, new_long = size, int(size * long / short)
    new_w, new_h = (new_short, new_long) if w <= h else (new_long, new_short)
    scaled = image.resize((new_w, new_h), Image.BICUBIC)
    top, left = round((new_h - size) / 2.0), round((new_w - size) / 2.0)
    return scaled.crop((left, top, left + size, top + size))


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (30, 30), (97, 33), (31, 200), (640, 479)])
def test_clip_scales_the_shorter_side_and_keeps_the_middle(size: tuple[int, int]) -> None:
    image, spec = picture(*size), images.clip_preprocessing(36)
    found = images.preprocess(image, spec)
    colours = np.asarray(stated_crop(image, 36), np.float64).transpose(2, 0, 1) / 255
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    assert found.shape == (3, 36, 36) and found.dtype == np.float32
    np.testing.assert_allclose(found, (colours - mean[:, None, None]) / std[:, None, None], rtol=1e-6, atol=1e-6)


def test_what_is_cropped_off_does_not_matter_and_the_middle_does() -> None:
    image, spec = picture(32, 96), images.clip_preprocessing(16)
    usual = images.preprocess(image, spec)
    for column, moves in ((0, False), (48, True)):
        changed = image.copy()
        changed.paste((255, 255, 255), (column, 0, column + 16, 32))
        assert (np.abs(images.preprocess(changed, spec) - usual).max() > 0.1) == moves


def test_a_picture_that_cannot_be_cropped_is_refused() -> None:
    with pytest.raises(InputError, match="3000 x 1 pixels would be scaled to 1152000 x 384 before its middle"):
        images.preprocess(picture(1, 3000), images.clip_preprocessing(384))
    with pytest.raises(InputError, match="width = 9, which should be the height, 8: a crop is square"):
        images.preprocess(picture(), {**images.clip_preprocessing(8), "width": 9})
