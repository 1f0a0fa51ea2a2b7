"""Answers from a bundle: one, a file of them, or raw tensors through one component."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

from .bundle import Bundle, opened
from .data import Answer, AnswerFile, Request, image_states
from .datasets import open_dataset
from .engines.session import TensorRTSession
from .errors import InputError
from .npz import read_npz, write_npz
from .onnx_session import OnnxSession
from .pipelines import AnyPipeline, pipeline_from, takes_labels
from .scienceqa import prompt
from .session import Arrays, Session
from .settings import Settings, beams_of

BACKENDS = ("onnxruntime", "tensorrt")
Note = Callable[[str], None]


class Opening(TypedDict, total=False):
    """What a bundle's components are run by. backend is one of BACKENDS, the first unless given; precision that of its
    graphs or engines (None: the bundle's own). trust_bundle lets an engine bring host code of its own, lowering takes
    only engines of that kind, see TensorRTSession; note is told which engines were chosen."""

    backend: str
    precision: str | None
    trust_bundle: bool
    lowering: str | None
    note: Note


def open_session(
    bundle: Bundle,
    backend: str = BACKENDS[0],
    precision: str | None = None,
    trust_bundle: bool = False,
    lowering: str | None = None,
    note: Note = lambda words: None,
    cuda_graphs: bool = False,
) -> OnnxSession | TensorRTSession:
    """A session over the bundle's components, see `Opening`; cuda_graphs launches calls of engines that come again as
    graphs, see TensorRTSession. Raises InputError for a backend this version does not know, or a lowering or graphs of
    what has none."""
    if backend not in BACKENDS:
        raise InputError(f"backend {backend!r} is not known to this version; it knows {', '.join(BACKENDS)}")
    if backend == "tensorrt":
        options: dict[str, Any] = {"trust_bundle": trust_bundle, "lowering": lowering, "cuda_graphs": cuda_graphs}
        session = TensorRTSession(bundle, precision, **options)
        note(session.facts["engines"])
        return session
    if lowering is not None:
        raise InputError(f"a lowering is of engines: {backend} runs the bundle's graphs.")
    if cuda_graphs:
        raise InputError(f"CUDA graphs are of engines: {backend} runs on the CPU.")
    return OnnxSession(bundle, precision)


def manifest_as_run(bundle: Bundle, session: Session) -> Mapping[str, Any]:
    """The bundle's manifest with its components as `session` runs them: an engine has its own types, ranges and cache,
    and may return new columns of a cache where the graph returns all of it."""
    return session.manifest if isinstance(session, TensorRTSession) else bundle.manifest


def open_pipeline(bundle: Bundle, *, labels: Sequence[str] | None = None, **how: Unpack[Opening]) -> AnyPipeline:
    """Image and text to answer, over `open_session`. labels take the place of the bundle's own; InputError where the
    model compares an image with none."""
    if labels is not None:
        require_takes_labels(bundle)
    session = open_session(bundle, **how)
    plain = bundle.plain_precision(how.get("precision"))
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
    *,
    image_2: Path | str | None = None,
    labels: Sequence[str] | None = None,
    **how: Unpack[Opening],
) -> Answer:
    """The answer to one question. Without an image the indicator is 0; image_2 is the second one of models that compare
    two. With choices, text is the question of the official ScienceQA prompt with `hint`, and one greedy token is
    scored. A model that compares an image with labels takes `labels`, else its bundle's, each within the template
    `text`, or its own where that is empty.

    settings None: the bundle's own generation settings. how: backend, precision and so on, see `Opening`. Raises
    InputError for an unreadable image or wrong use.
    """
    bundle = opened(bundle)
    if choices and takes_labels(bundle.manifest):
        raise InputError("this model compares an image with labels: give these as labels, not as choices.")
    text = prompt(text, hint, list(choices)) if choices else text
    pipeline = open_pipeline(bundle, labels=labels, **how)
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
    *,
    answered: Callable[[Sequence[Request], Sequence[Answer]], None] = lambda requests, answers: None,
    labels: Sequence[str] | None = None,
    **how: Unpack[Opening],
) -> int:
    """Answer every request of `data` (see `open_dataset`) into `output`; returns how many were answered now.

    A run that was killed goes on where it was, unless resume is False; one that was finished is answered again.
    Another bundle, precision, backend, lowering, data file, image (by path, size and time of change), set of labels or
    setting starts anew. answered is told of every batch. labels and how: see `run`; a request's choices go before.
    """
    bundle = opened(bundle)
    pipeline = open_pipeline(bundle, labels=labels, **how)
    dataset = open_dataset(data)
    settings = dataset.settings(settings or _own_settings(bundle, pipeline))
    identity = {
        **settings.digest_data(),
        "precision": how.get("precision") or bundle.manifest["precision"],
        "backend": how.get("backend", BACKENDS[0]),
        "images": image_states(dataset.requests()),
        **({"lowering": lowering} if (lowering := how.get("lowering")) else {}),
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
    *,
    labels: Sequence[str] | None = None,
    **how: Unpack[Opening],
) -> int:
    """How many requests `run_file` would answer, for a dry run: nothing is answered. Raises InputError for requests or
    labels that the bundle does not take; images are not opened."""
    bundle = opened(bundle)
    pipeline = open_pipeline(bundle, labels=labels, **how)
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
    **how: Unpack[Opening],
) -> Arrays:
    """Raw tensors, by port name, from the npz file `inputs` through one component into the npz file `output`."""
    bundle = opened(bundle)
    inputs, output = Path(inputs), Path(output)
    if output.exists() and inputs.exists() and output.samefile(inputs):
        raise InputError(f"{output} holds the inputs: writing the outputs there would destroy them.")
    session = open_session(bundle, **how)
    outputs = session.run(component, read_npz(inputs))
    write_npz(output, outputs)
    return outputs
