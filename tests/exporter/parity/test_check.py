"""A sound bundle passes; whatever is wrong with one makes the check fail, and the verdict says against what."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import pytest
from memvp_export.examples.random_source import PRESETS, write_source
from memvp_export.exporter.bundle import Bundle, BundleWriter, change
from memvp_export.exporter.checkpoints.source import read_source
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.parity import half
from memvp_export.exporter.parity.anew import reference_of
from memvp_export.exporter.parity.check import GOLDEN, GRAPH_ONLY, SOURCE, check
from memvp_export.exporter.parity.compare import compare_output, parted_at
from memvp_export.exporter.parity.effect import image_effect
from memvp_export.exporter.parity.golden import Case, from_arrays, to_arrays
from memvp_export.exporter.parity.metrics import distance
from memvp_export.exporter.parity.replay import Pair, replay
from memvp_export.exporter.parity.report import Report
from memvp_export.exporter.parity.samples import bundled_requests, read_cases, read_margins, read_samples
from memvp_export.exporter.parity.thresholds import THRESHOLDS
from memvp_export.exporter.parity.verdict import judge
from memvp_export.exporter.pipeline import Pipeline
from memvp_export.exporter.session import Arrays
from onnx.external_data_helper import ExternalDataInfo

DECODER_CASES = {
    ("rows: prefill", "logits"),
    *((f"rows: {way}", f"present.*.{kind}") for way in ("prefill", "chunks") for kind in ("key", "value")),
    ("rows: chunks", "logits"),
    ("rows: prefill, then steps", "logits"),
    ("rows: one row, padding removed", "logits"),
    ("long", "logits"),
}


@pytest.fixture(scope="module")
def reports(bundle_of: Callable[[str], Path]) -> Callable[[str], Report]:
    made: dict[str, Report] = {}

    def of(precision: str) -> Report:
        if precision not in made:
            made[precision] = check(bundle_of(precision))
        return made[precision]

    return of


@pytest.fixture
def copy(bundle_of: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_of("fp32"), tmp_path / "copy"))


def strict_json(text: str) -> Any:
    """JSON as the standard has it: without Python's NaN and Infinity."""

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_sound_bundle_passes(reports: Callable[[str], Report], precision: str) -> None:
    report = reports(precision)
    assert report.passed and not report.failures
    assert report.verdict.startswith(f"PARITY against {GOLDEN}: worst relative L2")
    assert report.kinds == [GOLDEN]
    assert {(r.case, r.output) for r in report.outputs if r.component == "decoder"} >= DECODER_CASES
    assert ("rows", "visual_memory") in {(r.case, r.output) for r in report.outputs if r.component == "vision"}
    assert [answer.id for answer in report.answers] == ["builtin-0", "builtin-1", "builtin-2"]
    assert strict_json(json.dumps(report.to_dict()))["passed"] is True


def test_a_sound_bundle_is_far_below_its_limits_and_not_exact_by_accident(reports: Callable[[str], Report]) -> None:
    worst = {p: max(r.distance.relative_l2 for r in reports(p).outputs) for p in THRESHOLDS}
    assert 1e-8 < worst["fp32"] < 2e-6 < worst["fp16"] < 5e-3 < worst["bf16"] < 2.5e-2


def test_bf16_says_that_its_numerics_were_not_run(reports: Callable[[str], Report]) -> None:
    assert "numerics not run" in reports("bf16").verdict
    assert any("numerics not run" in note for note in reports("bf16").notes)
    assert "not run" not in reports("fp32").verdict


def test_fp16_is_also_run_in_true_half_arithmetic(reports: Callable[[str], Report]) -> None:
    results = [result for result in reports("fp16").outputs if "true half arithmetic" in result.case]
    assert [(result.component, result.output) for result in results] == [
        ("vision", "visual_memory"),
        ("decoder", "logits"),
    ]
    assert all(0 < result.distance.relative_l2 < 5e-3 for result in results)


def test_why_true_half_arithmetic_was_not_run_is_said(
    bundle_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(bundle_of("fp16"))
    pairs, reasons = half.true_half(bundle, [])
    assert list(pairs) == [] and len(reasons) == 2 and all("no golden samples" in reason for reason in reasons)
    monkeypatch.setattr(half, "LARGEST_BYTES", 1000)
    pairs, reasons = half.true_half(bundle, read_cases(bundle))
    assert list(pairs) == [] and reasons[0].startswith("true half arithmetic of vision not run: its weights are too")


def test_the_image_moves_the_logits(reports: Callable[[str], Report]) -> None:
    for precision in THRESHOLDS:
        effect = reports(precision).image_effect
        assert effect is not None and effect > 0.1


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_precision_that_the_bundle_does_not_hold_cannot_be_checked(
    bundle_of: Callable[[str], Path], precision: str
) -> None:
    with pytest.raises(InputError, match=f"no {precision} graph"):
        check(bundle_of("fp32"), precision=precision)


def test_a_backend_that_is_not_known_is_refused(bundle_of: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="'abacus' cannot be checked"):
        check(bundle_of("fp32"), "abacus")


def rewrite(root: Path, name: str, edit: Callable[[Path], object], **manifest: Any) -> None:
    """Change a file together with its digest, so that the bundle opens as if nothing had happened."""
    with change(root) as (writer, content):
        edit(root / name)
        writer.record(name)
        writer.write_manifest({**content, **manifest})


def set_value(component: str, tensor: str, value: float) -> Callable[[Path], None]:
    """The first value of a tensor of a float32 graph's data file."""

    def edit(data: Path) -> None:
        graph = onnx.load(data.with_suffix(""), load_external_data=False).graph
        (found,) = (each for each in graph.initializer if each.name.endswith(tensor))
        with data.open("r+b") as file:
            file.seek(int(ExternalDataInfo(found).offset or 0))
            file.write(np.float32(value).tobytes())

    return edit


@pytest.mark.parametrize(
    ("component", "tensor"),
    [
        ("vision", "conv1.weight"),
        ("vision", "resblocks.0.adapter_mlp.fc1.weight"),
        ("vision", "adapter_proj.fc2.bias"),
        ("decoder", "adapter_emb1"),
        ("decoder", "adapter_emb2"),
        ("decoder", "layers.2.self_attn.k_proj.weight"),
        ("decoder", "layers.1.mlp.down_proj.weight"),
    ],
)
def test_one_wrong_weight_fails_although_its_digest_fits(copy: Path, component: str, tensor: str) -> None:
    rewrite(copy, f"graphs/{component}.onnx.data", set_value(component, tensor, 3.0))
    report = check(copy)
    assert not report.passed and report.verdict.startswith(f"PARITY FAILED against {GOLDEN}: {component} ")


def test_a_changed_byte_without_its_digest_is_refused_before_anything_runs(copy: Path) -> None:
    set_value("decoder", "adapter_emb1", 3.0)(copy / "graphs/decoder.onnx.data")
    with pytest.raises(InputError, match=r"edited: the bytes of graphs/decoder\.onnx\.data"):
        check(copy)


@pytest.mark.parametrize(("component", "value"), [("vision", np.nan), ("decoder", np.nan), ("decoder", np.inf)])
def test_outputs_that_are_not_finite_fail(copy: Path, component: str, value: float) -> None:
    tensor = {"vision": "visual.conv1.weight", "decoder": "model.norm.weight"}[component]
    rewrite(copy, f"graphs/{component}.onnx.data", set_value(component, tensor, value))
    report = check(copy)
    assert not report.passed and "not finite" in report.verdict
    worst = next(i for i, result in enumerate(report.outputs) if result.component == component)
    assert report.outputs[worst].problem == "not finite"
    data = strict_json(json.dumps(report.to_dict()))
    assert data["passed"] is False and data["outputs"][worst]["distance"]["relative_l2"] is None


def _other_answers(path: Path) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1]["ids"] = [*lines[1]["ids"], 7]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_golden_answers_that_differ_fail_in_fp32(copy: Path) -> None:
    rewrite(copy, "samples/answers.jsonl", _other_answers)
    report = check(copy)
    assert [answer.same for answer in report.answers] == [True, False, True]
    assert not report.passed and "1 of 3 greedy answers differ" in report.verdict and "builtin-1" in report.verdict


def _part(answer: int, at: int, margin: float | None) -> Callable[[Path], None]:
    """Another token in a recorded answer, and the margin that the reference is said to have had there."""

    def edit(path: Path) -> None:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines[answer]["ids"][at] = (lines[answer]["ids"][at] + 1) % 140
        if margin is None:
            del lines[answer]["margins"]
        else:
            lines[answer]["margins"][at] = margin
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    return edit


@pytest.mark.parametrize(
    ("precision", "margin", "passed"),
    [
        ("fp32", 0.0005, True),
        ("fp32", 0.002, False),
        ("fp32", None, False),
        ("fp16", 0.05, True),
        ("fp16", 0.2, False),
        ("fp16", None, False),
    ],
)
def test_another_answer_passes_only_where_the_reference_was_undecided(
    bundle_of: Callable[[str], Path], tmp_path: Path, precision: str, margin: float | None, passed: bool
) -> None:
    root = Path(shutil.copytree(bundle_of(precision), tmp_path / "copy"))
    rewrite(root, "samples/answers.jsonl", _part(1, 2, margin))
    report = check(root)
    assert report.passed is passed and [answer.same for answer in report.answers] == [True, False, True]
    assert (report.answers[1].passed, report.answers[1].margin) == (passed, margin)
    said = report.notes if passed else report.failures
    assert any("1 of 3 greedy answers differ" in text for text in said)


def test_recorded_margins_are_those_of_the_reference(bundle_of: Callable[[str], Path]) -> None:
    """Against generation step by step: the last column of every prefix."""
    bundle = Bundle.open(bundle_of("fp32"))
    session = OnnxSession(bundle, threads=1)
    recorded = read_margins(bundle)
    seen: list[np.ndarray] = []

    def note(results: Arrays) -> None:
        if "logits" in results:
            seen.append(results["logits"][:, -1])

    pipeline = Pipeline.from_manifest(Altered(session, note, outputs=True), bundle.manifest, bundle.root)
    samples = read_samples(bundle)
    pipeline.answer([request for request, _ in samples])
    for row, (request, answer) in enumerate(samples):
        leads = recorded[request.id]
        assert len(leads) == min(len(answer.ids) + 1, 4)
        for step, lead in enumerate(leads):
            logits = np.sort(seen[step][row, : pipeline.tokenizer.pieces])
            assert lead == pytest.approx((logits[-1] - logits[-2]) / logits.std(), abs=1e-4)


@pytest.mark.parametrize(
    ("first", "second", "at"),
    [((1, 2), (1, 2), None), ((1, 2), (1, 3), 1), ((1,), (1, 3), 1), ((), (1,), 0), ((2,), (1, 3), 0)],
)
def test_where_answers_part(first: tuple[int, ...], second: tuple[int, ...], at: int | None) -> None:
    assert parted_at(first, second) == at


@pytest.mark.parametrize("image", ["../../private.png", "{root}/../private.png", "images/other.png"])
def test_a_sample_image_that_is_no_file_of_the_bundle_is_refused(copy: Path, image: str) -> None:
    """It would be embedded in the report."""
    shutil.copy(copy / "samples/images/0.png", copy.parent / "private.png")
    shutil.copy(copy / "samples/images/0.png", copy / "samples/images/other.png")

    def edit(path: Path) -> None:
        first, *rest = path.read_text().splitlines()
        line = {**json.loads(first), "image": image.format(root=copy)}
        path.write_text("\n".join([json.dumps(line), *rest]))

    rewrite(copy, "samples/requests.jsonl", edit)
    with pytest.raises(InputError, match="which is no file of the bundle"):
        check(copy)


def test_an_image_in_the_bundle_that_leads_outside_is_refused(copy: Path) -> None:
    shutil.copy(copy / "samples/images/0.png", copy.parent / "private.png")
    (copy / "samples/images/0.png").unlink()
    (copy / "samples/images/0.png").symlink_to(copy.parent / "private.png")
    with pytest.raises(InputError, match="outside"):
        check(copy)


def test_samples_with_two_images_are_refused(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    picture = str(bundle_of("fp32") / "samples/images/0.png")
    lines = [{"id": "a", "text": "x"}, {"id": "b", "text": "x", "image": picture, "image_2": picture}]
    (tmp_path / "samples.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(InputError, match="'b' has two images"):
        bundled_requests(tmp_path / "samples.jsonl", BundleWriter(tmp_path / "bundle"))


def edit_golden(edit: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def change_file(path: Path) -> None:
        with np.load(path) as stored:
            arrays = {name: stored[name].copy() for name in stored.files}
        edit(arrays)
        np.savez(path, **arrays)  # type: ignore[arg-type]

    return change_file


LOGITS, PRESENT = "decoder/rows/outputs/logits", "decoder/rows/outputs/present.2.value"
GOLDEN_EDITS: dict[str, tuple[Callable[[dict[str, np.ndarray]], object], str]] = {
    "one logit": (lambda a: a[LOGITS].__setitem__((3, 20, 5), 9.0), "decoder logits (rows: prefill)"),
    "one value in the cache": (lambda a: a[PRESENT].__setitem__((3, 0, 9, 0), 9.0), "decoder present.*.value"),
    "the visual memory": (lambda a: a["vision/rows/outputs/visual_memory"].__imul__(1.01), "vision visual_memory"),
    "a reference that is not finite": (lambda a: a[LOGITS].__setitem__((3, 20, 5), np.nan), "not finite"),
    "another vocabulary": (lambda a: a.update({LOGITS: a[LOGITS][..., :-1]}), "shape [4, 24, 150], not [4, 24, 149]"),
    "another number of columns": (
        lambda a: a.update({LOGITS: a[LOGITS][:, :-1]}),
        "shape [4, 24, 150], not [4, 23, 150]",
    ),
}


@pytest.mark.parametrize(("edit", "message"), GOLDEN_EDITS.values(), ids=list(GOLDEN_EDITS))
def test_golden_tensors_that_differ_fail(copy: Path, edit: Callable[..., object], message: str) -> None:
    rewrite(copy, "samples/golden.npz", edit_golden(edit))
    report = check(copy)
    assert not report.passed
    assert any(message in failure for failure in report.failures), report.failures


def test_without_golden_samples_the_verdict_says_graph_parity_only(copy: Path) -> None:
    rewrite(copy, "samples/golden.npz", lambda path: None, samples=None)
    report = check(copy)
    assert report.passed and report.kinds == [GRAPH_ONLY] and "graph parity only" in report.verdict
    assert GOLDEN not in report.verdict and not report.answers and report.image_effect is None
    cases = {result.case for result in report.outputs}
    assert {"random, batch 1, 1 columns", "random, batch 8, 5 columns", "random, batch 2, 192 columns"} <= cases


def test_the_source_is_run_anew(bundle_of: Callable[[str], Path], odd_source: Path) -> None:
    report = check(bundle_of("fp32"), source=read_source(odd_source))
    assert report.passed and report.kinds == [GOLDEN, SOURCE]
    cases = {result.case for result in report.outputs if result.reference == SOURCE}
    assert {"rows: prefill", "long", "random, batch 8, 5 columns"} <= cases


def test_a_source_of_another_shape_or_with_other_options_is_refused(
    bundle_of: Callable[[str], Path], odd_source: Path
) -> None:
    source = read_source(odd_source)
    other = dataclasses.replace(source, options={**source.options, "adapter_scale": 0.2})
    with pytest.raises(InputError, match="was not made from this source"):
        check(bundle_of("fp32"), source=other)


def test_a_source_with_other_weights_fails(bundle_of: Callable[[str], Path], odd_source: Path, tmp_path: Path) -> None:
    other = read_source(write_source(tmp_path, PRESETS["odd"], seed=1))
    shutil.copy(read_source(odd_source).files["tokenizer"], other.files["tokenizer"])
    report = check(bundle_of("fp32"), source=other)
    assert not report.passed and {r.reference for r in report.outputs if not r.passed} == {SOURCE}
    (note,) = (note for note in report.notes if "byte for byte" in note)
    assert "ViT.pt" in note and "consolidated.00.pth" in note and "tokenizer.model" not in note


@pytest.mark.parametrize(
    ("part", "edit"),
    [
        ("preprocessing", {"std": [0.5, 0.5, 0.5]}),
        ("tokenizer", {"prefix": "Hello. "}),
        ("config", {"adapter_scale": 0.2}),
    ],
)
def test_a_bundle_that_sees_or_reads_otherwise_than_the_source_is_refused(
    copy: Path, odd_source: Path, part: str, edit: dict[str, Any]
) -> None:
    with change(copy) as (writer, content):
        content[part] |= edit
        writer.write_manifest(content)
    with pytest.raises(InputError, match=f"was not made from this source: they differ in {part}"):
        reference_of(Bundle.open(copy), read_source(odd_source))


def test_a_bundle_with_another_tokenizer_is_refused(copy: Path, odd_source: Path) -> None:
    name = Bundle.open(copy).manifest["tokenizer"]["file"]
    rewrite(copy, name, lambda path: path.write_bytes(path.read_bytes() + b"\0"))
    with pytest.raises(InputError, match="they differ in the tokenizer's file"):
        reference_of(Bundle.open(copy), read_source(odd_source))


def test_data_is_answered_by_both_and_judged(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    bundle = Bundle.open(bundle_of("fp32"))
    (request, golden), *_ = read_samples(bundle)
    lines: list[dict[str, Any]] = [
        {"id": "right", "text": request.text, "image": str(request.image), "answer": golden.text},
        {"id": "one of several", "text": request.text, "image": str(request.image), "answer": ["?", golden.text]},
        {"id": "wrong", "text": request.text, "image": str(request.image), "answer": "nothing of the kind"},
        {"id": "open", "text": "What is it?"},
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    report = check(bundle, data=path)
    asked = [answer for answer in report.answers if answer.reference == GRAPH_ONLY]
    assert report.passed and all(answer.same for answer in asked)
    assert {a.id: a.correct for a in asked} == {"right": True, "one of several": True, "wrong": False, "open": None}
    compared = {(r.component, r.output): r for r in report.outputs if r.case == "data, requests 1 to 4"}
    assert compared.keys() == {("vision", "visual_memory"), ("decoder", "logits")}
    # The last column of every prompt, and one for each of four tokens.
    assert compared["decoder", "logits"].shape == (sum(len(a.tokens) + 1 for a in asked), 150)
    assert all(result.passed and 0 < result.distance.relative_l2 < 1e-5 for result in compared.values())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_fault_that_only_the_data_shows_fails_in_every_precision(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """No golden or random call asks for logits at five positions; prompt and four tokens do."""
    run = OnnxSession.run

    def faulty(self: OnnxSession, component: str, inputs: Arrays, outputs: list[str] | None = None) -> Arrays:
        results = run(self, component, inputs, outputs)
        if component == "decoder" and inputs["logits_positions"].shape[1] == 5:
            results["logits"] = results["logits"] * np.float32(1.1)
        return results

    monkeypatch.setattr(OnnxSession, "run", faulty)
    lines = [{"id": str(row), "text": "what is it, and why? " * 3} for row in range(9)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report = check(bundle_of(precision), data=tmp_path / "data.jsonl")
    # No decisive token changes, all are ten times too eagerly chosen.
    assert not report.passed and all(answer.passed for answer in report.answers)
    assert [(r.component, r.case) for r in report.outputs if not r.passed] == [
        ("decoder", "data, requests 1 to 8"),
        ("decoder", "data, requests 9 to 9"),
    ]


@pytest.mark.parametrize(("text", "message"), [("", "holds no request"), ("{}", ":1: the key 'id' is missing")])
def test_bad_data_is_refused(bundle_of: Callable[[str], Path], tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "data.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        check(bundle_of("fp32"), data=tmp_path / "data.jsonl")


def test_nothing_compared_is_no_parity() -> None:
    report = Report("b", "memvp-llama", "onnxruntime", "fp32", THRESHOLDS["fp32"], ["vision", "decoder"])
    assert not report.passed and report.verdict == "NO PARITY SHOWN: nothing could be compared"


def test_one_component_that_was_not_compared_is_no_parity(copy: Path) -> None:
    def without_vision(arrays: dict[str, np.ndarray]) -> None:
        for name in [name for name in arrays if name.startswith("vision/")]:
            del arrays[name]

    rewrite(copy, "samples/golden.npz", edit_golden(without_vision))
    report = check(copy)
    assert {result.component for result in report.outputs} == {"decoder"} and report.uncompared == ["vision"]
    assert not report.passed and report.failures == ["vision: nothing of it was compared"]
    assert "NO PARITY SHOWN: nothing was compared of vision" in dataclasses.replace(report, failures=[]).verdict


def test_an_output_without_values_fails() -> None:
    empty = np.zeros((0, 5), np.float32)
    result = compare_output(Pair("decoder", "rows", "logits", empty, empty), GOLDEN, THRESHOLDS["fp32"])
    assert not result.passed and result.problem == "there is nothing to compare"


def test_that_no_position_was_decisive_is_said(copy: Path) -> None:
    def flat(report: Report, spread: float) -> list[str]:
        logits = np.array([[1.0, 1 + spread, -1.0]])
        found = compare_output(Pair("decoder", "rows", "logits", logits, logits), GOLDEN, THRESHOLDS["bf16"])
        report.outputs = [found]
        judge(report)
        return report.notes

    report = Report("b", "memvp-llama", "onnxruntime", "bf16", THRESHOLDS["bf16"], ["decoder"])
    assert flat(report, 0.1) == ["no position was decisive (margin 0.5): top-1 agreement says nothing here"]
    assert flat(dataclasses.replace(report, notes=[]), 3.0) == []


def test_a_precision_that_is_not_known_is_refused(bundle_of: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="precision 'int3' cannot be checked"):
        check(bundle_of("fp32"), precision="int3")


class Altered:
    """A session whose inputs or outputs are altered on the way: a fault that a graph could have."""

    def __init__(self, session: OnnxSession, alter: Callable[[Arrays], Arrays | None], outputs: bool = False) -> None:
        self.session, self.alter, self.outputs = session, alter, outputs
        self.columns: list[int] = []

    def run(self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None) -> Arrays:
        inputs = dict(inputs)
        if "input_ids" in inputs:
            self.columns.append(inputs["input_ids"].shape[1])
        if not self.outputs:
            inputs |= self.alter(inputs) or {}
        results = self.session.run(component, inputs, outputs)
        return results | (self.alter(results) or {}) if self.outputs else results


def failing(session: Altered, bundle: Bundle) -> Iterator[tuple[str, str]]:
    for case in read_cases(bundle):
        for pair in replay(session, case, bundle.manifest["components"][case.component]):
            if not distance(pair.actual, pair.expected).relative_l2 <= THRESHOLDS["fp32"].relative_l2:
                yield pair.case, pair.output


def _later(array: np.ndarray) -> np.ndarray:
    """A past whose newest column is lost."""
    return np.concatenate([np.zeros_like(array[:, :, :1]), array[:, :, :-1]], 2) if array.shape[2] else array


FAULTS: dict[str, tuple[str, Callable[[Arrays], Arrays], set[str]]] = {
    "indicator ignored": ("image_indicator", np.ones_like, {"rows"}),
    "mask ignored": ("attention_mask", np.ones_like, {"rows: prefill", "rows: chunks"}),
    "positions ignored": ("position_ids", lambda a: np.tile(np.arange(a.shape[1]), (len(a), 1)), {"rows: chunks"}),
    "image ignored": ("visual_memory", np.zeros_like, {"rows: prefill", "long"}),
    "first image for all rows": ("visual_memory", lambda a: np.repeat(a[:1], len(a), 0), {"rows: prefill"}),
    "past forgotten": ("past_key_values.1.key", np.zeros_like, {"rows: chunks", "rows: prefill, then steps"}),
    "past shifted": ("past_key_values.2.value", _later, {"rows: chunks", "rows: prefill, then steps"}),
    "logits of the last column only": ("logits_positions", lambda a: a.max() + 0 * a, {"rows: prefill", "long"}),
}


@pytest.mark.parametrize(("port", "fault", "seen"), FAULTS.values(), ids=list(FAULTS))
def test_replay_sees_every_kind_of_fault(
    bundle_of: Callable[[str], Path], port: str, fault: Callable[..., Any], seen: set[str]
) -> None:
    bundle = Bundle.open(bundle_of("fp32"))
    session = OnnxSession(bundle, threads=1)
    altered = Altered(session, lambda inputs: {port: fault(inputs[port])} if port in inputs else None)
    assert {case for case, _ in failing(altered, bundle)} >= seen
    if port.startswith("past"):
        assert "rows: prefill" not in {case for case, _ in failing(altered, bundle)}


def test_replay_runs_prefill_chunks_steps_and_a_trimmed_row(bundle_of: Callable[[str], Path]) -> None:
    bundle = Bundle.open(bundle_of("fp32"))
    session = Altered(OnnxSession(bundle, threads=1), lambda inputs: None)
    assert list(failing(session, bundle)) == []
    *splits, trimmed, long = session.columns
    assert splits == [24, 8, 8, 8, 22, 1, 1] and trimmed < 24 and long == 128


def test_golden_rows_cover_padding_on_both_sides_a_hole_and_no_image(bundle_of: Callable[[str], Path]) -> None:
    cases = {(case.component, case.name): case for case in read_cases(Bundle.open(bundle_of("fp32")))}
    mask = cases["decoder", "rows"].inputs["attention_mask"]
    assert mask[0, 0] == 0 and mask[0, -1] == 1
    assert mask[1, 0] == 1 and mask[1, -1] == 0
    assert mask[2, 0] == 1 and (mask[2] == 0).any() and mask[2, -1] == 1
    assert mask[3].all()
    assert list(cases["vision", "rows"].inputs["image_indicator"]) == [1, 1, 0, 1]
    assert not cases["decoder", "rows"].inputs["visual_memory"][2].any()


def test_cases_survive_being_stored() -> None:
    case = Case("decoder", "rows", {"past_key_values.0.key": np.ones(2)}, {"logits": np.zeros(3)})
    (back,) = from_arrays(to_arrays([case]))
    assert (back.component, back.name) == (case.component, case.name)
    assert np.array_equal(back.inputs["past_key_values.0.key"], np.ones(2)) and list(back.outputs) == ["logits"]


@pytest.mark.parametrize(("share", "effect"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_the_image_effect_is_how_far_the_logits_move_without_it(share: float, effect: float) -> None:
    class Fake:
        def run(self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None) -> Arrays:
            return {"logits": np.full((1, 1, 4), 1 - share + share * inputs["visual_memory"].max())}

    rows = Case("decoder", "rows", {"visual_memory": np.ones((1, 2, 3))}, {})
    assert image_effect(Fake(), [rows]) == pytest.approx(effect)
    assert image_effect(Fake(), [dataclasses.replace(rows, name="long")]) is None


def test_a_comparison_that_could_not_see_a_fault_says_so(copy: Path) -> None:
    def blind(arrays: dict[str, np.ndarray]) -> None:
        for name in arrays:
            if name.startswith("decoder/") and name.endswith("visual_memory"):
                arrays[name][:] = 0
        session = OnnxSession(Bundle.open(copy), threads=1)
        for case in from_arrays(arrays):
            if case.component == "decoder":
                found = session.run("decoder", case.inputs, list(case.outputs))
                arrays |= to_arrays([dataclasses.replace(case, outputs=found)])

    rewrite(copy, "samples/golden.npz", edit_golden(blind))
    report = check(copy)
    assert report.passed and report.image_effect == 0
    assert any("could hardly see a fault in the visual memory" in note for note in report.notes)


def test_a_bundle_without_golden_samples_has_no_cases(copy: Path) -> None:
    with change(copy) as (writer, content):
        writer.write_manifest({**content, "samples": None})
    assert read_cases(Bundle.open(copy)) == [] and read_samples(Bundle.open(copy)) == []
