"""Is a bundle still PyTorch's model? Every stage against the reference, failing closed.

Three kinds of evidence, named in the report: the golden samples that were recorded from the source at export; the
source itself, run anew; or only the PyTorch forward pass on the bundle's own weights ("graph parity only").
"""

import platform
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from itertools import chain
from pathlib import Path

from ..bundle import Bundle
from ..checkpoints.source import Source
from ..data import Answer, Request
from ..datasets import open_dataset
from ..errors import InputError, MissingPackage, VerdictError
from ..onnx_session import OnnxSession
from ..pipeline import Pipeline
from ..progress import Progress
from ..session import Session
from .effect import image_effect
from .golden import Case
from .half import too_large, true_half
from .metrics import INCOMPARABLE, distance, top1_agreement
from .replay import Pair, replay
from .report import AnswerResult, OutputResult, Report
from .samples import read_cases, read_samples
from .thresholds import THRESHOLDS
from .twin import float32_twin

GOLDEN = "the golden samples recorded from the source"
SOURCE = "the source, run anew in PyTorch"
GRAPH_ONLY = "PyTorch on the bundle's own weights (graph parity only)"
BACKENDS = ("onnxruntime",)


def check(
    bundle: Bundle | Path | str,
    backend: str = "onnxruntime",
    precision: str | None = None,
    data: Path | str | None = None,
    source: Source | None = None,
    progress: Progress | None = None,
) -> Report:
    """Compare a bundle with its reference and return what was found; nothing is raised for a failed comparison.

    precision names one of the bundle's graphs (default: the bundle's own). data is a JSONL file of requests, answered
    by the bundle and by the reference. source is read again and run; without it the golden samples are the reference,
    and without those PyTorch on the bundle's own weights. Raises InputError for a damaged bundle or bad data.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend {backend!r} cannot be checked by this version; it knows {', '.join(BACKENDS)}")
    progress = progress or Progress()
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    requests = list(open_dataset(data).requests()) if data is not None else []
    if data is not None and not requests:
        raise InputError(f"{data} holds no request.")
    with progress.stage("verify digests", bundle.size) as advance:
        bundle.verify(advance)
    precision = precision or bundle.manifest["precision"]
    report = Report(str(bundle.root), bundle.manifest["family"], backend, precision, THRESHOLDS[precision])
    report.environment = _environment()
    with _tested_session(bundle, report, progress) as session:
        cases = read_cases(bundle)
        with progress.stage("golden samples"):
            _compare_cases(report, session, cases, bundle, GOLDEN)
            _compare_answers(report, session, bundle, read_samples(bundle), GOLDEN)
        if report.precision == "fp16":
            with progress.stage("true half arithmetic"):
                _check_true_half(report, bundle, cases)
        if source is not None or requests or not cases:
            with progress.stage("reference in PyTorch"):
                _check_against_reference(report, session, bundle, source, requests)
        report.image_effect = image_effect(session, cases)
    _judge(report)
    report.stages = [vars(stage) for stage in progress.stages]
    return report


@contextmanager
def _tested_session(bundle: Bundle, report: Report, progress: Progress) -> Iterator[Session]:
    if report.precision != "bf16":
        yield OnnxSession(bundle, report.precision)
        return
    report.notes.append(
        "bf16 numerics not run: ONNX Runtime's CPU has no bfloat16. The graph was compared with its float32 twin node "
        "by node, and the twin, on the same bfloat16 weights, was run."
    )
    with ExitStack() as stack:
        with progress.stage("float32 twin of the bf16 graphs"):
            session, differences = stack.enter_context(float32_twin(bundle))
        report.failures += differences
        yield session


def _compare_cases(report: Report, session: Session, cases: Sequence[Case], bundle: Bundle, reference: str) -> None:
    for case in cases:
        for pair in replay(session, case, bundle.manifest["components"][case.component]):
            report.outputs.append(_result(report, pair, reference))


def _check_true_half(report: Report, bundle: Bundle, cases: Sequence[Case]) -> None:
    if too_large(bundle):
        report.notes.append("true half arithmetic not run: the weights are too large for the reference evaluator")
        return
    report.outputs += [_result(report, pair, GOLDEN) for pair in true_half(bundle, cases)]


def _result(report: Report, pair: Pair, reference: str) -> OutputResult:
    limit, shape = report.threshold, tuple(pair.expected.shape)
    given = (reference, pair.component, pair.case, pair.output, shape)
    if pair.actual.shape != shape:
        return OutputResult(*given, INCOMPARABLE, None, False, f"shape {list(pair.actual.shape)}, not {list(shape)}")
    found = distance(pair.actual, pair.expected)
    agreement = top1_agreement(pair.actual, pair.expected, limit.margin) if pair.output == "logits" else None
    passed = found.relative_l2 <= limit.relative_l2 and found.cosine >= limit.cosine
    if agreement is not None:
        passed = passed and agreement.decisive_top1 >= limit.decisive_top1
    return OutputResult(*given, found, agreement, passed, "" if found.finite else "not finite")


def _compare_answers(
    report: Report, session: Session, bundle: Bundle, samples: Sequence[tuple[Request, Answer]], reference: str
) -> None:
    if not samples:
        return
    pipeline = Pipeline.from_manifest(session, bundle.manifest, bundle.root, precision=_pipeline_precision(report))
    try:
        answers = pipeline.answer([request for request, _ in samples])
    except VerdictError:
        report.failures.append("there are no answers from pixels and text: the decoder's logits are not finite")
        return
    for (request, expected), answer in zip(samples, answers, strict=True):
        report.answers.append(_answer_result(request, expected, answer, reference))


def _answer_result(request: Request, expected: Answer, answer: Answer, reference: str) -> AnswerResult:
    return AnswerResult(
        reference,
        request.id,
        request.text,
        str(request.image) if request.image else None,
        answer.text,
        expected.text,
        list(answer.ids),
        list(expected.ids),
        answer.ids == expected.ids,
        correct(request, answer),
    )


def correct(request: Request, answer: Answer) -> bool | None:
    """Whether an answer is one of those the request accepts; None where it names none."""
    if request.answer is None:
        return None
    if isinstance(request.answer, int):
        return answer.choice == request.answer
    accepted = (request.answer,) if isinstance(request.answer, str) else request.answer
    return answer.text.strip().lower() in {text.strip().lower() for text in accepted}


def _pipeline_precision(report: Report) -> str:
    """A bf16 bundle is run as its float32 twin."""
    return "fp32" if report.precision == "bf16" else report.precision


def _check_against_reference(
    report: Report, session: Session, bundle: Bundle, source: Source | None, requests: Sequence[Request]
) -> None:
    try:
        from .anew import random_cases, reference_of, rerun
    except ImportError as error:
        raise MissingPackage("torch", "export") from error
    reference, components = reference_of(bundle, source)
    kind = SOURCE if source is not None else GRAPH_ONLY
    cases = [rerun(reference, case) for case in read_cases(bundle)] if source is not None else []
    _compare_cases(report, session, [*cases, *random_cases(reference, components)], bundle, kind)
    if not requests:
        return
    pipeline = Pipeline.from_manifest(reference, bundle.manifest, bundle.root, precision="fp32")
    answers = chain.from_iterable(pipeline.batches(requests))
    _compare_answers(report, session, bundle, list(zip(requests, answers, strict=True)), kind)


def _judge(report: Report) -> None:
    for result in report.outputs:
        if not result.passed:
            found = result.distance
            reason = result.problem or f"relative L2 {found.relative_l2:.2e}, cosine {found.cosine:.6f}"
            report.failures.append(f"{result.component} {result.output} ({result.case}): {reason}")
    parted = [result for result in report.answers if not result.same]
    if parted:
        text = f"{len(parted)} of {len(report.answers)} greedy answers differ from the reference ({parted[0].id}: "
        text += f"{parted[0].answer!r} instead of {parted[0].expected!r})"
        # In half precision a near tie between two tokens may fall either way; decisive positions are judged above.
        (report.failures if report.precision == "fp32" else report.notes).append(text)
    if report.image_effect is not None and report.image_effect < 10 * report.threshold.relative_l2:
        report.notes.append(
            f"taking the image away moves the logits by {report.image_effect:.1e} only: this comparison could hardly "
            "see a fault in the visual memory"
        )


def _environment() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for package in ("memvp-export", "onnxruntime", "onnx", "torch"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
