"""An image file -> the pixels a model was trained on: robust loading, then what the manifest's `preprocessing` says."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import EnvironmentLack, InputError

if TYPE_CHECKING:
    from PIL.Image import Image

# Named, because Pillow would otherwise try every decoder it has, one of which hands EPS files to Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_KNOWN = {"resize": ("squash",), "filter": ("bicubic",), "channel_order": ("RGB",)}
_NUMBERS = {"height", "width", "mean", "std", "scale"}
_LARGEST_SIDE = 8192


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
    """Raise InputError unless `spec` is a preprocessing this version carries out to the letter."""
    if odd := sorted(set(spec) ^ (_KNOWN.keys() | _NUMBERS)):
        state = ", ".join(f"{'unknown' if key in spec else 'missing'} {key!r}" for key in odd)
        raise InputError(f"the manifest's preprocessing cannot be followed: {state}.")
    for key, known in _KNOWN.items():
        if spec[key] not in known:
            raise InputError(
                f"the manifest's preprocessing has {key} = {spec[key]!r}; this version knows {', '.join(known)}."
            )
    for key in ("height", "width"):
        if not _is_number(spec[key]) or spec[key] != int(spec[key]) or not 1 <= spec[key] <= _LARGEST_SIDE:
            raise _bad_number(spec, key, f"a whole number from 1 to {_LARGEST_SIDE}")
    for key in ("mean", "std"):
        values = spec[key]
        if not isinstance(values, list | tuple) or len(values) != 3 or not all(map(_is_number, values)):
            raise _bad_number(spec, key, "three numbers")
    if min(spec["std"]) <= 0:
        raise _bad_number(spec, "std", "three numbers above 0")
    if not _is_number(spec["scale"]) or spec["scale"] <= 0:
        raise _bad_number(spec, "scale", "a number above 0")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _bad_number(spec: Mapping[str, Any], key: str, wanted: str) -> InputError:
    return InputError(f"the manifest's preprocessing has {key} = {spec[key]!r}, which should be {wanted}.")


def preprocess(image: "Image", spec: Mapping[str, Any]) -> np.ndarray:
    """`(resized * scale - mean) / std`, float32 [3,H,W], after the manifest's `preprocessing` (spec 1.6).

    Squash: the aspect ratio is not kept. A request without an image is zeros of this shape, after normalization.
    Raises InputError for a spec with unknown keys or values.
    """
    from PIL import Image

    check_preprocessing(spec)
    resized = to_rgb(image).resize((int(spec["width"]), int(spec["height"])), Image.Resampling.BICUBIC)
    # 8-bit samples have 256 values a channel: a table in float64 rounds once, so that every runtime gets the same bits.
    levels = np.arange(256) * float(spec["scale"])
    table = (levels - np.array(spec["mean"])[:, None]) / np.array(spec["std"])[:, None]
    channels = np.arange(3)[:, None, None]
    return table.astype(np.float32)[channels, np.asarray(resized).transpose(2, 0, 1)]
