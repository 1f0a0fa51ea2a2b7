"""How a bundle's family answers: the one place that knows which pipeline is whose."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .classifier import MODEL, Classifier, gives_scores
from .errors import InputError
from .pipeline import Pipeline
from .session import Session

AnyPipeline = Pipeline | Classifier
_PIPELINES: dict[str, type[Pipeline] | type[Classifier]] = {
    "memvp-llama": Pipeline,
    "apt-vilt": Classifier,
    "apt-meter": Classifier,
}


def pipeline_from(
    session: Session, manifest: Mapping[str, Any], root: Path, precision: str | None = None
) -> AnyPipeline:
    """From images and text to an answer over `session`, as the family of `manifest` does it; precision is the
    session's, where it is not the bundle's own. Raises InputError for a family this version does not know."""
    family = manifest["family"]
    if family not in _PIPELINES:
        raise InputError(f"family {family!r} has no answers in this version; it knows {', '.join(_PIPELINES)}.")
    return _PIPELINES[family].from_manifest(session, manifest, root, precision)


def ranks(manifest: Mapping[str, Any]) -> bool:
    """Whether the answers of a bundle are scores, of which rankings are made."""
    return MODEL in manifest["components"] and gives_scores(manifest["components"][MODEL])
