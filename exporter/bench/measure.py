"""Time of every stage of an answer, on several backends side by side in one run."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..bundle import Bundle, opened
from ..errors import InputError, ToolError
from ..machine import describe, state
from ..parity.samples import read_samples
from ..pipelines import pipeline_from
from ..progress import Progress
from ..session import Timing
from ..settings import Settings, beams_of
from ..text_pipeline import TextPipeline
from .comparison import compare_bundles, compare_report
from .figures import doubts, figures_of
from .inputs import feed_of
from .lanes import Lane, lanes_of, threads_note
from .loads import ANSWER, Load, common_ranges, plan_loads
from .options import Options
from .quantized import slower_notes
from .report import BenchReport, Result, read_report, with_speedups
from .rounds import Call, measure


def bench(
    bundle: Bundle | Path | str,
    backends: Sequence[str] | None = None,
    precision: str | None = None,
    options: Options | None = None,
    compare: Path | str | None = None,
    progress: Progress | None = None,
    trust_bundle: bool = False,
    lowering: str | None = None,
) -> BenchReport:
    """Measure a bundle's components: latency (batch 1) and throughput (more) apart, prefill and decode apart.

    backends: "torch", and those of `run.BACKENDS`; None takes all that can be measured here, and the first is what the
    others are compared with. precision None: the bundle's own. compare: another bundle, measured in turns with this
    one, or the JSON of an earlier report. trust_bundle and lowering: see `open_session`.

    Times are wall seconds of `Session.run`: arrays in host memory in and out. A decode step has a cache of a real
    prefill, kept where the session keeps caches, which does not grow while it is measured. A backend that fails at a
    load is left out from there on, with a note; the loads before keep its results.

    Raises InputError for a backend, stage or size that there is not, EnvironmentLack for what this machine lacks.
    """
    options, progress = options or Options(), progress or Progress()
    with ExitStack() as stack:
        plan = _plan(bundle, backends, precision, options, compare, trust_bundle, lowering)
        for lane in plan.lanes:
            stack.callback(_close, lane)
        before = state()
        report = BenchReport(describe(), [before], options.to_dict(), [], notes=list(plan.notes))
        going = list(plan.lanes)
        for load in plan.loads:
            with progress.stage(f"{load.mode}: {load.title}"):
                going = _measure_load(report, going, load, options)
        report.state.append(state())
        report.lanes = [lane.record() for lane in plan.lanes]
    report.notes += threads_note(report.lanes) + slower_notes(report)
    if isinstance(plan.other, BenchReport):
        compare_report(report, plan.other, str(compare))
    elif plan.other:
        compare_bundles(report, str(plan.bundle.root), str(plan.other.root))
    return report


def preview_bench(
    bundle: Bundle | Path | str,
    backends: Sequence[str] | None = None,
    precision: str | None = None,
    options: Options | None = None,
    compare: Path | str | None = None,
    trust_bundle: bool = False,
    lowering: str | None = None,
) -> dict[str, Any]:
    """What `bench` would measure, as JSON data. Raises what it would raise before the first call."""
    options = options or Options()
    plan = _plan(bundle, backends, precision, options, compare, trust_bundle, lowering)
    for lane in plan.lanes:
        _close(lane)
    return {
        "bundle": str(plan.bundle.root),
        "lanes": [
            {"name": lane.name, "bundle": str(lane.bundle.root), "precision": lane.precision} for lane in plan.lanes
        ],
        "loads": [f"{load.mode}: {load.title}" for load in plan.loads],
        "options": options.to_dict(),
        "notes": plan.notes,
    }


@dataclass(frozen=True)
class _Plan:
    bundle: Bundle
    lanes: list[Lane]
    loads: list[Load]
    notes: list[str]
    other: Bundle | BenchReport | None


def _plan(
    bundle: Bundle | Path | str,
    backends: Sequence[str] | None,
    precision: str | None,
    options: Options,
    compare: Path | str | None,
    trust_bundle: bool,
    lowering: str | None,
) -> _Plan:
    bundle = opened(bundle)
    other = _other(compare)
    bundles = [bundle, other] if isinstance(other, Bundle) else [bundle]
    names = bundle.manifest["components"].keys()
    if bundles[-1].manifest["components"].keys() != names:
        raise InputError(f"{compare} has other components than {bundle.root}: there is nothing to compare.")
    chosen = tuple(backends) if backends is not None else None
    lanes, notes = lanes_of(bundles, chosen, precision, trust_bundle, lowering, options.cuda_graphs)
    # An engine for a single pass has no cache where the graph has one: all are then measured in a single pass.
    cached = {name: all(lane.manifest["components"][name]["cache"] for lane in lanes) for name in names}
    loads = plan_loads(cached, common_ranges([lane.ranges for lane in lanes]), options, beams_of(bundle.manifest))
    if any(load.stage == ANSWER for load in loads):
        for each in bundles:
            if not each.manifest["samples"]:
                raise InputError(f"{each.root} carries no questions: whole answers cannot be measured.")
    return _Plan(bundle, lanes, loads, notes, other)


def _other(compare: Path | str | None) -> Bundle | BenchReport | None:
    if compare is None:
        return None
    return Bundle.open(compare) if Path(compare).is_dir() else read_report(Path(compare))


def _close(lane: Lane) -> None:
    # Sessions on a GPU hold its memory; reading `session` here would open one that was never used.
    close = getattr(vars(lane).get("session"), "close", None)
    if close:
        close()


class _LaneFailed(Exception):
    """A lane that cannot be measured further, and why."""

    def __init__(self, lane: Lane, error: ToolError) -> None:
        super().__init__(str(error))
        self.lane, self.error = lane, error


def _measure_load(report: BenchReport, lanes: list[Lane], load: Load, options: Options) -> list[Lane]:
    """Enter the results of a load into the report; returns the lanes that go on."""
    while True:
        try:
            calls = [_guarded(lane, load) for lane in lanes]
            found = measure(calls, options.warmup, options.iterations, options.duration)
            break
        except _LaneFailed as failed:
            # Made anew, with other caches: these must not be held meanwhile.
            calls = []
            lanes = [lane for lane in lanes if lane is not failed.lane]
            _close(failed.lane)
            if not lanes:
                raise failed.error from failed
            report.notes.append(f"{failed.lane.name} is left out from {load.mode}: {load.title} on: {failed.error}")
    results = []
    for lane, samples in zip(lanes, found, strict=True):
        figures = figures_of(samples, options.percentiles)
        results.append(Result(lane.name, load, figures, load.items / figures.mean))
        if unsure := doubts(figures):
            report.warnings.append(f"{lane.name}, {load.mode}: {load.title}: {'; '.join(unsure)}")
    report.results += with_speedups(results)
    return lanes


def _guarded(lane: Lane, load: Load) -> Call:
    """The call, whose failures name the lane."""

    def guarded() -> Timing | None:
        try:
            return call()
        except ToolError as error:
            raise _LaneFailed(lane, error) from error

    try:
        call = _call(lane, load)
    except ToolError as error:
        raise _LaneFailed(lane, error) from error
    return guarded


def _call(lane: Lane, load: Load) -> Call:
    """One call of the load, its inputs ready."""
    if load.stage == ANSWER:
        return _answer(lane, load)
    component = lane.manifest["components"][load.component]
    chunk = int(component["ranges"].get("sequence", (1, 1))[1])
    feed = feed_of(lane.session, component, load, chunk, lane.computes, lane.golden)
    timed_run = getattr(lane.session, "timed_run", None)

    def call() -> Timing | None:
        if timed_run is not None:
            timing: Timing = timed_run(load.component, feed)[1]
            return timing
        lane.session.run(load.component, feed)
        return None

    return call


def _answer(lane: Lane, load: Load) -> Call:
    """The bundle's own questions answered, from image files and text, each with exactly `load.columns` new tokens."""
    samples = read_samples(lane.bundle)
    # No token has the id of an end: an answer that ended early would be less work than another backend's. So none is
    # kept from ending either.
    manifest = {**lane.manifest, "generation": {**lane.manifest["generation"], "min_length": 0}}
    pipeline = pipeline_from(lane.session, manifest, lane.bundle.root, lane.computes)
    assert isinstance(pipeline, TextPipeline), "only what has a decoder gives whole answers"
    pipeline.tokenizer.eos = -1
    requests = [replace(samples[i % len(samples)][0], id=str(i)) for i in range(load.batch)]
    batch = min(load.batch, max(1, pipeline.max_batch // load.beams))
    settings = Settings(max_new_tokens=load.columns, batch=batch, beams=load.beams)

    def call() -> None:
        pipeline.answer(requests, settings)

    return call
