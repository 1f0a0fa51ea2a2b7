"""Is a bundle still PyTorch's model? Every stage against the reference, failing closed.

Three kinds of evidence, named in the report: the golden samples that were recorded from the source at export; the
source itself, run anew; or only the PyTorch forward pass on the bundle's own weights ("graph parity only").
"""

import platform
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path

from ..bundle import Bundle
from ..checkpoints.source import Source
from ..datasets import Dataset, open_dataset
from ..errors import InputError, MissingPackage
from ..onnx_session import OnnxSession
from ..progress import Progress
from ..run import BACKENDS
from ..session import Session
from .answering import compare_answers, compare_data, pipeline_of
from .batches import InBatches, limits_in
from .compare import compare_output
from .effect import image_effect
from .golden import Case
from .half import true_half
from .replay import replay
from .report import Report
from .samples import read_cases, read_margins, read_samples
from .thresholds import THRESHOLDS
from .twin import float32_twin
from .verdict import judge

GOLDEN = "the golden samples recorded from the source"
SOURCE = "the source, run anew in PyTorch"
GRAPH_ONLY = "PyTorch on the bundle's own weights (graph parity only)"


def check(
    bundle: Bundle | Path | str,
    backend: str = "onnxruntime",
    precision: str | None = None,
    data: Path | str | None = None,
    source: Source | None = None,
    progress: Progress | None = None,
) -> Report:
    """Compare a bundle with its reference and return what was found; nothing is raised for a failed comparison.

    precision names one of the bundle's graphs (default: the bundle's own). data is a JSONL file of requests or a
    ScienceQA folder, run through the bundle and the reference, from pixels and text to logits and answers. source is
    read again and run; without it the golden samples are the reference, and without those PyTorch on the bundle's own
    weights. Raises InputError for a damaged bundle, bad data, or a backend or precision that is not known.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend {backend!r} cannot be checked by this version; it knows {', '.join(BACKENDS)}")
    progress = progress or Progress()
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    precision = precision or bundle.manifest["precision"]
    if precision not in THRESHOLDS:
        raise InputError(f"precision {precision!r} cannot be checked; this version knows {', '.join(THRESHOLDS)}")
    dataset = open_dataset(data) if data is not None else None
    # All of it, so that what is wrong with it is known before the long work.
    if dataset is not None and not sum(1 for _ in dataset.requests()):
        raise InputError(f"{data} holds no request.")
    with progress.stage("verify digests", bundle.size) as advance:
        bundle.verify(advance)
    components = list(bundle.manifest["components"])
    report = Report(str(bundle.root), bundle.manifest["family"], backend, precision, THRESHOLDS[precision], components)
    report.environment = _environment()
    with _tested_session(bundle, report, progress) as session:
        cases = read_cases(bundle)
        with progress.stage("golden samples"):
            _compare_cases(report, session, cases, bundle, GOLDEN)
            _compare_golden_answers(report, session, bundle)
        if report.precision == "fp16":
            with progress.stage("true half arithmetic"):
                _check_true_half(report, bundle, cases)
        if source is not None:
            _note_other_files(report, bundle, source, progress)
        if source is not None or dataset is not None or not cases:
            with progress.stage("reference in PyTorch"):
                _check_against_reference(report, session, bundle, source, dataset)
        report.image_effect = image_effect(session, cases)
    judge(report)
    report.stages = [vars(stage) for stage in progress.stages]
    return report


@contextmanager
def _tested_session(bundle: Bundle, report: Report, progress: Progress) -> Iterator[Session]:
    """What is judged, in calls of no more rows than the graphs are for."""
    limits = limits_in(bundle.manifest)
    if report.precision != "bf16":
        opened = OnnxSession(bundle, report.precision)
        yield InBatches(opened, limits)
        if opened.mapped:
            report.notes.append(
                f"ONNX Runtime ran {', '.join(sorted(opened.mapped))} without optimizations, the weights mapped from "
                "their file: this machine has no memory for float32 copies of them"
            )
        return
    report.notes.append(
        "bf16 numerics not run: ONNX Runtime's CPU has no bfloat16. The graph was compared with its float32 twin node "
        "by node, and the twin, on the same bfloat16 weights, was run."
    )
    with ExitStack() as stack:
        with progress.stage("float32 twin of the bf16 graphs"):
            session, differences = stack.enter_context(float32_twin(bundle, progress))
        report.failures += differences
        yield InBatches(session, limits)


def _compare_cases(report: Report, session: Session, cases: Sequence[Case], bundle: Bundle, reference: str) -> None:
    for case in cases:
        for pair in replay(session, case, bundle.manifest["components"][case.component]):
            report.outputs.append(compare_output(pair, reference, report.threshold))


def _compare_golden_answers(report: Report, session: Session, bundle: Bundle) -> None:
    samples, margins = read_samples(bundle), read_margins(bundle)
    if samples:
        requests, expected = zip(*samples, strict=True)
        leads = [margins[request.id] for request in requests]
        compare_answers(report, pipeline_of(session, bundle, report.precision), requests, expected, leads, GOLDEN)


def _check_true_half(report: Report, bundle: Bundle, cases: Sequence[Case]) -> None:
    pairs, not_run = true_half(bundle, cases)
    report.outputs += [compare_output(pair, GOLDEN, report.threshold) for pair in pairs]
    report.notes += not_run


def _check_against_reference(
    report: Report, session: Session, bundle: Bundle, source: Source | None, dataset: Dataset | None
) -> None:
    try:
        from .anew import random_cases, reference_of, rerun
    except ImportError as error:
        raise MissingPackage("torch", "export") from error

    model, components = reference_of(bundle, source)
    reference = InBatches(model, limits_in(bundle.manifest))
    kind = SOURCE if source is not None else GRAPH_ONLY
    cases = [rerun(reference, case) for case in read_cases(bundle)] if source is not None else []
    _compare_cases(report, session, [*cases, *random_cases(reference, components)], bundle, kind)
    if dataset is not None:
        compare_data(report, session, reference, components, bundle, dataset, kind)


def _note_other_files(report: Report, bundle: Bundle, source: Source, progress: Progress) -> None:
    try:
        from .anew import other_files
    except ImportError as error:
        raise MissingPackage("torch", "export") from error
    with progress.stage("hash the source", sum(entry["size"] for entry in bundle.manifest["sources"])) as advance:
        others, count = other_files(bundle, source, advance)
    if others:
        report.notes.append(
            f"{len(others)} of {count} files of the source are not, byte for byte, those the bundle was made from: "
            f"{', '.join(others)}"
        )


def _environment() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for package in ("memvp-export", "onnxruntime", "onnx", "torch"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
