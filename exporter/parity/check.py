"""Is a bundle still PyTorch's model? Every stage against the reference, failing closed.

Three kinds of evidence, named in the report: the golden samples that were recorded from the source at export; the
source itself, run anew; or only the PyTorch forward pass on the bundle's own weights ("graph parity only").
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ..bundle import Bundle, opened
from ..checkpoints.source import Source
from ..data import Answer
from ..datasets import Dataset, open_dataset
from ..engines.session import TensorRTSession
from ..engines.shapes import NoProfile
from ..errors import InputError, MissingPackage
from ..machine import available_memory, describe
from ..onnx_session import OnnxSession
from ..packages import needing
from ..pipelines import AnyPipeline, makes_images
from ..precisions import rounded_weights
from ..progress import Progress
from ..run import BACKENDS
from ..settings import Settings
from ..text_pipeline import TextPipeline
from .answering import Judged, compare_answers, compare_data, fits, note_left_out, pipeline_of, possible
from .batches import InBatches, limits_in
from .compare import compare_output
from .effect import image_effect
from .golden import Case
from .half import true_half
from .latents import compare_image_data, compare_latents
from .replay import ways
from .report import GOLDEN, GRAPH_ONLY, SOURCE, Report
from .samples import read_cases, read_margins, read_samples
from .single_pass import WithoutEmptyPast
from .thresholds import THRESHOLDS
from .twin import float32_twin
from .verdict import judge

# Where the system does not say how much there is.
_MEMORY = 8 << 30


def check(
    bundle: Bundle | Path | str,
    backend: str = "onnxruntime",
    precision: str | None = None,
    data: Path | str | None = None,
    source: Source | None = None,
    progress: Progress | None = None,
    trust_bundle: bool = False,
    lowering: str | None = None,
) -> Report:
    """Compare a bundle with its reference and return what was found; nothing is raised for a failed comparison.

    precision is that of the bundle's graphs, or of its engines with the backend tensorrt (default: the bundle's own).
    data is a JSONL file of requests or a ScienceQA folder, run through the bundle and the reference, from pixels and
    text to logits and answers. source is read again and run; without it the golden samples are the reference, and
    PyTorch on the bundle's own weights where there are none and for the ends of every engine's profiles. trust_bundle
    and lowering: see TensorRTSession. Raises InputError for a damaged bundle, bad data, or a backend or precision that
    is not known, EnvironmentLack where an engine cannot be loaded here.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend {backend!r} cannot be checked by this version; it knows {', '.join(BACKENDS)}")
    if lowering is not None and backend != "tensorrt":
        raise InputError(f"a lowering is of engines: {backend} runs the bundle's graphs.")
    progress = progress or Progress()
    bundle = opened(bundle)
    precision = precision or bundle.manifest["precision"]
    if precision not in THRESHOLDS:
        raise InputError(f"precision {precision!r} cannot be checked; this version knows {', '.join(THRESHOLDS)}")
    dataset = open_dataset(data) if data is not None else None
    # All of it, so that what is wrong with it is known before the long work.
    if dataset is not None and not sum(1 for _ in dataset.requests()):
        raise InputError(f"{data} holds no request.")
    components = list(bundle.manifest["components"])
    report = Report(str(bundle.root), bundle.manifest["family"], backend, precision, THRESHOLDS[precision], components)
    report.environment = describe()
    with ExitStack() as stack:
        engines = None
        if backend == "tensorrt":
            # A machine without a GPU says so at once, not after gigabytes were hashed.
            engines = stack.enter_context(
                TensorRTSession(bundle, precision, trust_bundle=trust_bundle, lowering=lowering)
            )
        with progress.stage("verify digests", bundle.size) as advance:
            bundle.verify(advance)
        tested = stack.enter_context(_tested(bundle, engines, report, progress))
        cases = read_cases(bundle)
        with progress.stage("golden samples"):
            _compare_cases(report, tested, cases, GOLDEN)
            _compare_golden_answers(report, tested, bundle)
        if precision == "fp16" and engines is None:
            with progress.stage("true half arithmetic"):
                _check_true_half(report, bundle, cases)
        if source is not None:
            _note_other_files(report, bundle, source, progress)
        needed = source is not None or dataset is not None or not cases
        if needed or engines is not None:
            with progress.stage("reference in PyTorch"):
                try:
                    _check_against_reference(report, tested, bundle, source, dataset, engines)
                except MissingPackage as missing:
                    if needed:
                        raise
                    report.notes.append(
                        f"the ends of the engines' profiles were not run: {missing} The golden samples were compared"
                    )
        with suppress(NoProfile):
            report.image_effect = image_effect(tested.session, cases)
    judge(report)
    if not report.passed and (rounded := rounded_weights(bundle.manifest["precision"], precision)):
        report.notes.append(rounded)
    report.stages = [vars(stage) for stage in progress.stages]
    return report


@contextmanager
def _tested(bundle: Bundle, engines: TensorRTSession | None, report: Report, progress: Progress) -> Iterator[Judged]:
    limits = limits_in(bundle.manifest)
    if engines is not None:
        report.notes.append(engines.facts["engines"])
        report.environment |= engines.facts
        without_past = WithoutEmptyPast(engines, engines.manifest["components"])
        yield Judged(InBatches(without_past, limits_in(engines.manifest)), engines, engines.manifest)
        return
    if report.precision != "bf16":
        graphs = OnnxSession(bundle, report.precision)
        in_batches = InBatches(graphs, limits)
        yield Judged(in_batches, in_batches, bundle.manifest)
        if graphs.mapped:
            report.notes.append(
                f"ONNX Runtime ran {', '.join(sorted(graphs.mapped))} without optimizations, the weights mapped from "
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
        in_batches = InBatches(session, limits)
        yield Judged(in_batches, in_batches, bundle.manifest)


def _compare_cases(report: Report, tested: Judged, cases: Iterable[Case], reference: str) -> None:
    for case in cases:
        for name, way in ways(case, tested.manifest["components"][case.component]):
            try:
                pairs = list(way(tested.session))
            except NoProfile as error:
                report.notes.append(f"{case.component}, {name}, was not compared: {error}")
                continue
            report.outputs += [compare_output(pair, reference, report.threshold) for pair in pairs]


def _compare_golden_answers(report: Report, tested: Judged, bundle: Bundle) -> None:
    if makes_images(bundle.manifest):
        compare_latents(report, tested.session, tested.manifest, bundle, GOLDEN)
        return
    margins = read_margins(bundle)
    if not margins:
        return
    pipeline = pipeline_of(tested.answering, tested.manifest, bundle.root, bundle.plain_precision(report.precision))
    settings = possible(pipeline.defaults, tested.manifest)
    longest = bundle.manifest["tokenizer"]["maximum"]
    # The model made its golden answers with the pipeline's own settings.
    samples = [pair for pair in read_samples(bundle) if fits(pipeline, pair[0], pipeline.defaults, longest)]
    note_left_out(report, len(margins) - len(samples), f"{len(margins)} golden answers", pipeline, pipeline.defaults)
    if samples:
        requests, answers = zip(*samples, strict=True)
        expected = [_begun(pipeline, answer, settings) for answer in answers]
        leads = [margins[request.id] for request in requests]
        compare_answers(report, pipeline, requests, expected, leads, GOLDEN, settings)


def _begun(pipeline: AnyPipeline, answer: Answer, settings: Settings) -> Answer:
    """The golden answer, or the first tokens of it where that is all that the settings let be generated."""
    if settings == pipeline.defaults:
        return answer
    assert isinstance(pipeline, TextPipeline), "what generates no text has one way of answering"
    ids = answer.ids[: settings.max_new_tokens]
    return replace(answer, ids=ids, text=pipeline.tokenizer.decode(ids))


def _check_true_half(report: Report, bundle: Bundle, cases: Sequence[Case]) -> None:
    pairs, not_run = true_half(bundle, cases)
    report.outputs += [compare_output(pair, GOLDEN, report.threshold) for pair in pairs]
    report.notes += not_run


def _check_against_reference(
    report: Report,
    tested: Judged,
    bundle: Bundle,
    source: Source | None,
    dataset: Dataset | None,
    engines: TensorRTSession | None,
) -> None:
    with needing("export"):
        from .anew import random_cases, reference_of, rerun
        from .engine_points import engine_points

    model, components = reference_of(bundle, source)
    reference = InBatches(model, limits_in(bundle.manifest))
    kind = SOURCE if source is not None else GRAPH_ONLY
    cases = [rerun(reference, case) for case in read_cases(bundle)] if source is not None else []
    _compare_cases(report, tested, cases, kind)
    if engines is None:
        _compare_cases(report, tested, random_cases(reference, components), kind)
    else:
        budget = (available_memory() or _MEMORY) // 2
        for pair in engine_points(engines, reference, components, budget, report.notes.append):
            report.outputs.append(compare_output(pair, kind, report.threshold))
    if dataset is not None and makes_images(bundle.manifest):
        compare_image_data(report, tested.session, reference, bundle, tested.manifest, dataset, kind)
    elif dataset is not None:
        compare_data(report, tested, reference, components, bundle, dataset, kind)


def _note_other_files(report: Report, bundle: Bundle, source: Source, progress: Progress) -> None:
    with needing("export"):
        from .anew import other_files
    with progress.stage("hash the source", sum(entry["size"] for entry in bundle.manifest["sources"])) as advance:
        others, count = other_files(bundle, source, advance)
    if others:
        report.notes.append(
            f"{len(others)} of {count} files of the source are not, byte for byte, those the bundle was made from: "
            f"{', '.join(others)}"
        )
