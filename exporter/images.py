"""An image file -> the pixels a model was trained on: robust loading, then what the manifest's `preprocessing` says."""

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import EnvironmentLack, InputError
from .image_features import POOLINGS, image_features, takes_features

if TYPE_CHECKING:
    from PIL.Image import Image

# Named, because Pillow would otherwise try every decoder it has, one of which hands EPS files to Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_KNOWN = {"resize": ("squash", "pixelbert", "center-crop"), "filter": ("bicubic",), "channel_order": ("RGB",)}
_OTHERS = {"mean", "std", "scale"}
_PIXELBERT = {"shorter", "longer", "multiple"}
_LARGEST_SIDE = 8192
# Pixels of a picture between scaling and cropping: a line of pixels would become larger than memory.
_LARGEST_SCALED = 1 << 26


def memvp_preprocessing(size: int) -> dict[str, Any]:
    """MemVP's preprocessing for a `size` x `size` input: squash, bicubic, ImageNet statistics (spec 1.6)."""
    return {
        "resize": "squash",
        "height": size,
        "width": size,
        "filter": "bicubic",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "channel_order": "RGB",
        "scale": 1 / 255,
    }


def pixelbert_preprocessing(height: int, width: int, shorter: int, multiple: int) -> dict[str, Any]:
    """ViLT's preprocessing for an input of height x width: PixelBERT's resize, padded below and beside (spec 4.2).

    shorter is the length that the shorter side gets; the longer one may have 1333/800 of it.
    """
    return {
        "resize": "pixelbert",
        "height": height,
        "width": width,
        "shorter": shorter,
        "longer": int(1333 / 800 * shorter),
        "multiple": multiple,
        "filter": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "channel_order": "RGB",
        "scale": 1 / 255,
    }


def clip_preprocessing(size: int) -> dict[str, Any]:
    """CLIP's preprocessing for a `size` x `size` input, which METER has too: the shorter side is scaled to it, the
    middle of the longer one stays (spec 5.2)."""
    return {
        "resize": "center-crop",
        "height": size,
        "width": size,
        "filter": "bicubic",
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "channel_order": "RGB",
        "scale": 1 / 255,
    }


def load_image(path: Path | str) -> "Image":
    """The first frame of an image file as an upright RGB picture, in full size.

    EXIF rotation is applied; alpha is dropped as `convert("RGB")` does; 16-bit samples keep their high byte. Raises
    InputError that names the file where it is missing, empty, cut short, no image, or would unpack to too many pixels.
    """
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    Image.init()
    try:
        if path.is_file() and path.stat().st_size == 0:
            raise InputError("it is empty, 0 bytes.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as opened:
                opened.load()
                return to_rgb(_upright(opened), opened.format)
    except InputError as error:
        raise InputError(f"the image {path} cannot be used: {error}") from error
    except FileNotFoundError as error:
        raise InputError(f"the image {path} does not exist.") from error
    except IsADirectoryError as error:
        raise InputError(f"the image {path} is a folder.") from error
    except PermissionError as error:
        raise EnvironmentLack(f"the image {path} may not be read: permission denied.") from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f"the image {path} is refused: {error} Scale it down, or raise PIL.Image.MAX_IMAGE_PIXELS in Python."
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not an image of a kind that is read here ({', '.join(FORMATS)}).") from error
    except Exception as error:  # a decoder raises anything at all on a damaged file
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise InputError(
            f"{path} cannot be read as an image: {reason}. The file may be cut short or damaged."
        ) from error


def _upright(image: "Image") -> "Image":
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data says nothing about rotation, and viewers show such a picture as it is
        return image


def image_shape(spec: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of what a model takes of one image, after the manifest's `preprocessing`: [3,H,W] or [rows,width]."""
    return (spec["rows"], spec["width"]) if takes_features(spec) else (3, spec["height"], spec["width"])


def image_array(path: Path, spec: Mapping[str, Any]) -> np.ndarray:
    """What a model takes of the image at `path`, or of its features: float32 of `image_shape`."""
    return image_features(path, spec) if takes_features(spec) else preprocess(load_image(path), spec)


def to_rgb(image: "Image", container: str | None = None) -> "Image":
    """Any picture as RGB with 8 bits a channel. container is the file format, where it is known: Pillow opens 16-bit
    PNG and PGM files in its 32-bit mode. Raises InputError for 32-bit and float samples, whose range nothing says."""
    from PIL import Image

    if image.mode in _SIXTEEN_BITS or (image.mode == "I" and container in ("PNG", "PPM")):
        # convert() would clip at 255 and leave a white picture.
        samples = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        image = Image.fromarray(samples.astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise InputError("it has 32-bit samples, whose range the file does not say. Save it with 8 or 16 bits.")
    return image.convert("RGB")


def check_preprocessing(spec: Mapping[str, Any]) -> None:
    """Raise InputError unless `spec` is a preprocessing this version carries out to the letter: of an image, or of
    features (see `image_features`)."""
    if takes_features(spec):
        _check_keys(spec, {"features": POOLINGS}, {"rows", "width"})
        return
    sides = {"height", "width"} | (_PIXELBERT if spec.get("resize") == "pixelbert" else set())
    _check_keys(spec, _KNOWN, sides, _OTHERS)
    if spec["resize"] == "center-crop" and spec["height"] != spec["width"]:
        raise _bad_number(spec, "width", f"the height, {spec['height']}: a crop is square")
    for key in ("mean", "std"):
        values = spec[key]
        if not isinstance(values, list | tuple) or len(values) != 3 or not all(map(_is_number, values)):
            raise _bad_number(spec, key, "three numbers")
    if min(spec["std"]) <= 0:
        raise _bad_number(spec, "std", "three numbers above 0")
    if not _is_number(spec["scale"]) or spec["scale"] <= 0:
        raise _bad_number(spec, "scale", "a number above 0")


def _check_keys(
    spec: Mapping[str, Any], known: Mapping[str, tuple[str, ...]], sides: Collection[str], others: Collection[str] = ()
) -> None:
    """InputError unless `spec` has these keys and no others: of `known` with one of its values, of `sides` with whole
    numbers."""
    if odd := sorted(set(spec) ^ {*known, *sides, *others}):
        state = ", ".join(f"{'unknown' if key in spec else 'missing'} {key!r}" for key in odd)
        raise InputError(f"the manifest's preprocessing cannot be followed: {state}.")
    for key, values in known.items():
        if spec[key] not in values:
            raise InputError(
                f"the manifest's preprocessing has {key} = {spec[key]!r}; this version knows {', '.join(values)}."
            )
    for key in sorted(sides):
        if not _is_number(spec[key]) or spec[key] != int(spec[key]) or not 1 <= spec[key] <= _LARGEST_SIDE:
            raise _bad_number(spec, key, f"a whole number from 1 to {_LARGEST_SIDE}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _bad_number(spec: Mapping[str, Any], key: str, wanted: str) -> InputError:
    return InputError(f"the manifest's preprocessing has {key} = {spec[key]!r}, which should be {wanted}.")


def preprocess(image: "Image", spec: Mapping[str, Any]) -> np.ndarray:
    """`(resized * scale - mean) / std`, float32 [3,H,W], after the manifest's `preprocessing` (spec 1.6, 4.2 and 5.2).

    squash: to H x W, the aspect ratio is not kept. center-crop: the aspect ratio is kept, and what passes H x W is cut
    off on both sides. pixelbert: see `resized_size`; the rest is zero after normalization. A request without an image
    is zeros of this shape. Raises InputError for unknown keys or values, and for a picture too long to be cropped.
    """
    from PIL import Image

    check_preprocessing(spec)
    height, width = resized_size(image.height, image.width, spec)
    if height * width > _LARGEST_SCALED:
        raise InputError(
            f"the picture of {image.width} x {image.height} pixels would be scaled to {width} x {height} before its "
            "middle is taken: cut it first."
        )
    resized = to_rgb(image).resize((width, height), Image.Resampling.BICUBIC)
    if spec["resize"] == "center-crop":
        side = int(spec["height"])
        top, left = round((height - side) / 2), round((width - side) / 2)
        resized = resized.crop((left, top, left + side, top + side))
        height = width = side
    # 8-bit samples have 256 values a channel: a table in float64 rounds once, so that every runtime gets the same bits.
    levels = np.arange(256) * float(spec["scale"])
    table = (levels - np.array(spec["mean"])[:, None]) / np.array(spec["std"])[:, None]
    channels = np.arange(3)[:, None, None]
    pixels = table.astype(np.float32)[channels, np.asarray(resized).transpose(2, 0, 1)]
    below, beside = int(spec["height"]) - height, int(spec["width"]) - width
    return np.pad(pixels, ((0, 0), (0, below), (0, beside))) if below or beside else pixels


def pixel_mask(image: "Image", spec: Mapping[str, Any]) -> np.ndarray:
    """Where `preprocess` puts the image: int64 [H,W], 1 inside it and 0 in the padding."""
    height, width = resized_size(image.height, image.width, spec)
    mask = np.zeros((int(spec["height"]), int(spec["width"])), np.int64)
    mask[:height, :width] = 1
    return mask


def resized_size(height: int, width: int, spec: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of a picture after resizing, at most those of `spec` unless it is cropped then.

    center-crop (spec 5.2): the shorter side becomes that of the input, the longer one is rounded down. pixelbert (spec
    4.2): the shorter side becomes `shorter`, unless the longer one would pass `longer`; rounded, then floored to
    `multiple`. A picture that is still larger than the input is scaled to fit, which is our definition: officially,
    inputs are as large as the largest picture of a batch.
    """
    limits = int(spec["height"]), int(spec["width"])
    if spec["resize"] == "squash":
        return limits
    if spec["resize"] == "center-crop":
        side, longer = limits[0], limits[0] * max(height, width) // min(height, width)
        return (side, longer) if height < width else (longer, side)
    scale = spec["shorter"] / min(height, width)
    sides = (spec["shorter"], scale * width) if height < width else (scale * height, spec["shorter"])
    if max(sides) > spec["longer"]:
        shrink = spec["longer"] / max(sides)
        sides = sides[0] * shrink, sides[1] * shrink
    multiple = int(spec["multiple"])
    rounded = _rounded(sides, multiple)
    if rounded[0] > limits[0] or rounded[1] > limits[1]:
        shrink = min(limits[0] / sides[0], limits[1] / sides[1])
        rounded = _rounded((sides[0] * shrink, sides[1] * shrink), multiple)
    return min(rounded[0], limits[0]), min(rounded[1], limits[1])


def _rounded(sides: tuple[float, float], multiple: int) -> tuple[int, int]:
    """Rounded, then floored to `multiple`; the official code would make nothing of a side shorter than that."""
    first, second = (max(multiple, int(side + 0.5) // multiple * multiple) for side in sides)
    return first, second
