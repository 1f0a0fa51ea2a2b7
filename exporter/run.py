"""Answers from a bundle: one, a file of them, or raw tensors through one component."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile

from .bundle import Bundle
from .data import Answer, AnswerFile, Request, image_states
from .datasets import open_dataset
from .engines.session import TensorRTSession
from .errors import EnvironmentLack, InputError
from .onnx_session import OnnxSession
from .pipeline import Settings, beams_of
from .pipelines import AnyPipeline, pipeline_from, takes_labels
from .scienceqa import prompt
from .session import Arrays, Session
from .whole_file import whole_file

BACKENDS = ("onnxruntime", "tensorrt")
_BF16 = ".bf16"
Note = Callable[[str], None]


def open_session(
    bundle: Bundle,
    backend: str = "onnxruntime",
    precision: str | None = None,
    trust_bundle: bool = False,
    lowering: str | None = None,
    note: Note = lambda words: None,
) -> OnnxSession | TensorRTSession:
    """A session over the bundle's components. Raises InputError for a backend this version does not know.

    trust_bundle lets an engine bring host code of its own, lowering takes only engines of that kind, see
    TensorRTSession; note is told which engines were chosen."""
    if backend not in BACKENDS:
        raise InputError(f"backend {backend!r} is not known to this version; it knows {', '.join(BACKENDS)}")
    if backend == "tensorrt":
        session = TensorRTSession(bundle, precision, trust_bundle=trust_bundle, lowering=lowering)
        note(session.facts["engines"])
        return session
    if lowering is not None:
        raise InputError(f"a lowering is of engines: {backend} runs the bundle's graphs.")
    return OnnxSession(bundle, precision)


def manifest_as_run(bundle: Bundle, session: Session) -> Mapping[str, Any]:
    """The bundle's manifest with its components as `session` runs them: an engine has its own types, ranges and cache,
    and may return new columns of a cache where the graph returns all of it."""
    return session.manifest if isinstance(session, TensorRTSession) else bundle.manifest


def open_pipeline(
    bundle: Bundle,
    backend: str = "onnxruntime",
    precision: str | None = None,
    trust_bundle: bool = False,
    lowering: str | None = None,
    note: Note = lambda words: None,
    labels: Sequence[str] | None = None,
) -> AnyPipeline:
    """Image and text to answer, over `open_session`. labels take the place of the bundle's own; InputError where the
    model compares an image with none."""
    if labels is not None:
        require_takes_labels(bundle)
    session = open_session(bundle, backend, precision, trust_bundle, lowering, note)
    plain = bundle.plain_precision(precision)
    manifest = manifest_as_run(bundle, session)
    own = manifest if labels is None else {**manifest, "labels": list(labels)}
    return pipeline_from(session, own, bundle.root, precision=plain)


def require_takes_labels(bundle: Bundle) -> None:
    """Raise InputError for a bundle whose model compares an image with no labels."""
    if not takes_labels(bundle.manifest):
        family = bundle.manifest["family"]
        raise InputError(f"labels go with models that compare an image with them; {bundle.root} is of {family}.")


def run(
    bundle: Bundle | Path | str,
    text: str,
    image: Path | str | None = None,
    choices: Sequence[str] | None = None,
    hint: str = "",
    settings: Settings | None = None,
    backend: str = "onnxruntime",
    precision: str | None = None,
    trust_bundle: bool = False,
    image_2: Path | str | None = None,
    lowering: str | None = None,
    note: Note = lambda words: None,
    labels: Sequence[str] | None = None,
) -> Answer:
    """The answer to one question. Without an image the indicator is 0; image_2 is the second one of models that compare
    two. With choices, text is the question of the official ScienceQA prompt with `hint`, and one greedy token is
    scored. A model that compares an image with labels takes `labels`, else its bundle's, each within the template
    `text`, or its own where that is empty.

    settings None: the bundle's own generation settings. lowering and note: see `open_session`. Raises InputError
    for an unreadable image or wrong use.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    if choices and takes_labels(bundle.manifest):
        raise InputError("this model compares an image with labels: give these as labels, not as choices.")
    text = prompt(text, hint, list(choices)) if choices else text
    pipeline = open_pipeline(bundle, backend, precision, trust_bundle, lowering, note, labels)
    first, second = (Path(path) if path else None for path in (image, image_2))
    request = Request("1", text, first, second, tuple(choices) if choices else None)
    settings = settings or _own_settings(bundle, pipeline)
    (answer,) = pipeline.score([request], settings) if choices else pipeline.answer([request], settings)
    return answer


def run_file(
    bundle: Bundle | Path | str,
    data: Path | str,
    output: Path | str,
    settings: Settings | None = None,
    resume: bool = True,
    backend: str = "onnxruntime",
    precision: str | None = None,
    answered: Callable[[Sequence[Request], Sequence[Answer]], None] = lambda requests, answers: None,
    trust_bundle: bool = False,
    lowering: str | None = None,
    note: Note = lambda words: None,
    labels: Sequence[str] | None = None,
) -> int:
    """Answer every request of `data` (see `open_dataset`) into `output`; returns how many were answered now.

    A run that was killed goes on where it was, unless resume is False; one that was finished is answered again.
    Another bundle, precision, backend, lowering, data file, image (by path, size and time of change), set of labels or
    setting starts anew. answered is told of every batch. labels: see `run`; a request's choices go before.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    pipeline = open_pipeline(bundle, backend, precision, trust_bundle, lowering, note, labels)
    dataset = open_dataset(data)
    settings = dataset.settings(settings or _own_settings(bundle, pipeline))
    identity = {
        **settings.digest_data(),
        "precision": precision or bundle.manifest["precision"],
        "backend": backend,
        "images": image_states(dataset.requests()),
        **({"lowering": lowering} if lowering else {}),
        **({"labels": list(labels)} if labels is not None else {}),
    }
    with AnswerFile(output, dataset.files, bundle.manifest["digest"], identity, resume) as file:
        count = 0
        pending: list[Request] = []

        def taken() -> Iterator[Request]:
            for request in file.pending(dataset.requests()):
                pending.append(request)
                yield request

        for answers in pipeline.batches(taken(), settings):
            file.write(answers)
            answered(pending[: len(answers)], answers)
            del pending[: len(answers)]
            count += len(answers)
    return count


def _own_settings(bundle: Bundle, pipeline: AnyPipeline) -> Settings:
    return replace(pipeline.defaults, beams=beams_of(bundle.manifest))


def check_file(
    bundle: Bundle | Path | str,
    data: Path | str,
    backend: str = "onnxruntime",
    precision: str | None = None,
    trust_bundle: bool = False,
    lowering: str | None = None,
    note: Note = lambda words: None,
    labels: Sequence[str] | None = None,
) -> int:
    """How many requests `run_file` would answer, for a dry run: nothing is answered. Raises InputError for requests or
    labels that the bundle does not take; images are not opened."""
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    pipeline = open_pipeline(bundle, backend, precision, trust_bundle, lowering, note, labels)
    count = 0
    for request in open_dataset(data).requests():
        pipeline.check(request)
        count += 1
    return count


def run_component(
    bundle: Bundle | Path | str,
    component: str,
    inputs: Path | str,
    output: Path | str,
    backend: str = "onnxruntime",
    precision: str | None = None,
    trust_bundle: bool = False,
    lowering: str | None = None,
    note: Note = lambda words: None,
) -> Arrays:
    """Raw tensors, by port name, from the npz file `inputs` through one component into the npz file `output`."""
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    inputs, output = Path(inputs), Path(output)
    if output.exists() and inputs.exists() and output.samefile(inputs):
        raise InputError(f"{output} holds the inputs: writing the outputs there would destroy them.")
    session = open_session(bundle, backend, precision, trust_bundle, lowering, note)
    outputs = session.run(component, read_npz(inputs))
    with whole_file(output) as file:
        np.savez(file, **dict(_to_npz(name, array) for name, array in outputs.items()))  # type: ignore[arg-type]
    return outputs


def read_npz(path: Path) -> Arrays:
    """The arrays of an npz file by name; bfloat16 ones are uint16 under `<name>.bf16` (docs/bundle.md)."""
    try:
        with path.open("rb") as file, NpzFile(file, allow_pickle=False) as arrays:
            return dict(_from_npz(name, arrays[name]) for name in arrays.files)
    except FileNotFoundError as error:
        raise InputError(f"{path} is not a file.") from error
    except PermissionError as error:
        raise EnvironmentLack(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # zipfile, zlib, struct and NumPy each have their own for one and the same damage
        reason = str(error) or type(error).__name__
        raise InputError(f"{path} is not a whole npz file of plain arrays ({reason}).") from error


def _from_npz(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    if not (name.endswith(_BF16) and array.dtype == np.uint16):
        return name, array
    import ml_dtypes

    return name.removesuffix(_BF16), array.view(ml_dtypes.bfloat16)


def _to_npz(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    return (name + _BF16, array.view(np.uint16)) if array.dtype.name == "bfloat16" else (name, array)
