"""Made-up requests: only where they are asked for, since ranges of made-up data are not those of use."""

from pathlib import Path

import numpy as np
from PIL import Image

from ..exporter.bundle import Bundle
from ..exporter.data import Request
from ..exporter.encoder_decoder import open_tokenizer
from ..exporter.errors import InputError
from ..exporter.image_features import takes_features
from ..exporter.images import image_shape
from .samples import DEFAULT_SAMPLES, Data

_TOKENS = 24


def check_synthetic(bundle: Bundle, data: Data) -> None:
    """Raise InputError beside real data, or for a bundle without a tokenizer that makes texts of tokens."""
    if data is not None:
        raise InputError("synthetic data is made up: give it, or real data, not both.")
    if bundle.manifest["generation"] is None:
        raise InputError(f"there is no synthetic data for the family {bundle.manifest['family']}: give --data.")


def synthetic_requests(bundle: Bundle, count: int | None, seed: int, folder: Path) -> list[Request]:
    """Requests of random tokens, each with an image of coloured noise, or features of none, in `folder`; see
    `check_synthetic`."""
    tokenizer, generator = open_tokenizer(bundle.root, bundle.manifest["tokenizer"]), np.random.default_rng(seed)
    spec = bundle.manifest["preprocessing"]
    folder.mkdir(parents=True)
    requests = []
    for number in range(count or DEFAULT_SAMPLES):
        ids = generator.integers(3, tokenizer.pieces, _TOKENS).tolist()
        path = folder / f"{number}{'.npy' if takes_features(spec) else '.png'}"
        if takes_features(spec):
            np.save(path, generator.standard_normal(image_shape(spec)).astype(np.float32))
        else:
            noise = generator.integers(0, 256, (spec["height"], spec["width"], 3), np.uint8)
            Image.fromarray(noise).save(path, compress_level=1)
        requests.append(Request(str(number), tokenizer.decode(ids) or "?", path))
    return requests
