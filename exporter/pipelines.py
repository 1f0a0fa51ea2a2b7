"""How a bundle's family answers: the one place that knows which pipeline is whose."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .classifier import MODEL, Classifier, gives_scores
from .encoder_decoder import EncoderDecoder
from .errors import InputError
from .label_matcher import LabelMatcher
from .pipeline import Pipeline
from .session import Session

AnyPipeline = Pipeline | EncoderDecoder | Classifier | LabelMatcher
_PIPELINES: dict[str, type[Pipeline] | type[EncoderDecoder] | type[Classifier] | type[LabelMatcher]] = {
    "memvp-llama": Pipeline,
    "memvp-bart": EncoderDecoder,
    "memvp-t5": EncoderDecoder,
    "apt-vilt": Classifier,
    "apt-meter": Classifier,
    "apt-clip": LabelMatcher,
}


def pipeline_from(
    session: Session, manifest: Mapping[str, Any], root: Path, precision: str | None = None
) -> AnyPipeline:
    """From images and text to an answer over `session`, as the family of `manifest` does it; precision is the
    session's, where it is not the bundle's own. Raises InputError for a family this version does not know."""
    family = manifest["family"]
    if makes_images(manifest):
        raise InputError(f"a bundle of {family} makes images of texts; it has no answers that this could use.")
    if family not in _PIPELINES:
        raise InputError(f"family {family!r} has no answers in this version; it knows {', '.join(_PIPELINES)}.")
    return _PIPELINES[family].from_manifest(session, manifest, root, precision)


def makes_images(manifest: Mapping[str, Any]) -> bool:
    """Whether what a bundle gives is an image: see `text_to_image.TextToImage`, which is no pipeline of answers."""
    return "scheduler" in manifest


def takes_labels(manifest: Mapping[str, Any]) -> bool:
    """Whether a bundle compares an image with labels that are given to it."""
    return _PIPELINES.get(manifest["family"]) is LabelMatcher


def ranks(manifest: Mapping[str, Any]) -> bool:
    """Whether the answers of a bundle are scores, of which rankings are made."""
    return MODEL in manifest["components"] and gives_scores(manifest["components"][MODEL])
