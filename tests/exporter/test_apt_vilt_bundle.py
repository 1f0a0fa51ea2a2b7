"""APT-ViLT the whole way: checkpoint -> bundle -> check, run and engines, for each task and precision."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from memvp_export import export_onnx, read_source
from memvp_export.examples.random_vilt import PRESETS, write_source
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.data import Request
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.images import load_image, pixel_mask, preprocess
from memvp_export.exporter.inspection.path_report import inspect_path
from memvp_export.exporter.models.apt_vilt import TEXT_EPS
from memvp_export.exporter.models.family import components_of, load
from memvp_export.exporter.models.reference import TorchReference
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.parity.check import GOLDEN, check
from memvp_export.exporter.parity.golden import golden_bytes, to_arrays
from memvp_export.exporter.parity.samples import read_cases, read_samples
from memvp_export.exporter.run import open_pipeline, run, run_component, run_file
from PIL import Image

SIZES = replace(PRESETS["odd"], blocks=2)
TASKS = {"fp32": "vqa", "fp16": "nlvr2", "bf16": "irtr"}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The source (model.toml) and the bundle (`bundle`) of a precision, one task each."""
    made: dict[str, Path] = {}

    def make(precision: str) -> Path:
        if precision not in made:
            made[precision] = tmp_path_factory.mktemp(precision)
            write_source(made[precision], SIZES, TASKS[precision])
            export_onnx(read_source(made[precision]), made[precision] / "bundle", precision)
        return made[precision]

    return make


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = []
    for index, (height, width) in enumerate(((90, 120), (200, 60), (64, 64))):
        paths.append(folder / f"{index}.png")
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(paths[-1])
    return paths


@pytest.mark.parametrize("precision", TASKS)
def test_a_bundle_passes_its_check(folder_of: Callable[[str], Path], precision: str) -> None:
    folder = folder_of(precision)
    report = check(folder / "bundle", source=read_source(folder))
    assert report.passed, report.failures
    kinds = {result.reference for result in report.outputs}
    assert len(kinds) == 2 and {result.component for result in report.outputs} == {"model"}
    worst = max(result.distance.relative_l2 for result in report.outputs)
    assert worst <= (1e-5 if precision == "fp32" else 5e-2)
    assert report.image_effect is not None and report.image_effect > 1e-2
    # Scores are compared as numbers.
    assert len(report.answers) == (0 if TASKS[precision] == "irtr" else 3)


def test_a_fault_in_the_weights_fails_the_check(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = folder_of("fp32")
    write_source(tmp_path, SIZES, "vqa", seed=1)
    shutil.copy(folder / "vocab.txt", tmp_path)
    report = check(folder / "bundle", source=read_source(tmp_path))
    assert not report.passed and {r.passed for r in report.outputs if r.reference != GOLDEN} == {False}


def test_graph_and_reference_agree_on_padded_batches(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("fp32")
    model, session = load(read_source(folder)), OnnxSession(Bundle.open(folder / "bundle"), threads=1)
    reference = TorchReference(model.components, model.reference_weights)
    random = np.random.default_rng(3)
    height, width, batch = model.config.height, model.config.width, 5
    inputs: dict[str, Any] = {
        "input_ids": random.integers(0, SIZES.vocab, (batch, 11)),
        "attention_mask": (np.arange(11) < random.integers(2, 12, (batch, 1))).astype(np.int64),
        "pixel_values": random.standard_normal((batch, 3, height, width)).astype(np.float32),
        "pixel_mask": np.zeros((batch, height, width), np.int64),
    }
    for row, mask in enumerate(inputs["pixel_mask"]):
        mask[: 16 * (1 + row % 4), : 16 * (6 - row)] = 1
    found, expected = (each.run("model", inputs)["logits"] for each in (session, reference))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
    for name in inputs:
        changed = {**inputs, name: np.roll(inputs[name], 1, 0)}
        assert np.abs(session.run("model", changed)["logits"] - found).max() > 1e-3, name


def test_a_constant_text_row_is_no_division_by_zero(folder_of: Callable[[str], Path]) -> None:
    """The variance of its LayerNorm is 0 and its epsilon 1e-12, which an optimizer may take for 0."""
    graph = onnx.load(str(Bundle.open(folder_of("fp32") / "bundle").graph("model")), load_external_data=False).graph
    (added,) = (node for node in graph.node if TEXT_EPS in node.input)
    (taken,) = (node for node in graph.node if added.output[0] in node.input)
    assert (added.op_type, taken.op_type) == ("Add", "Sqrt")


@pytest.mark.parametrize("precision", TASKS)
def test_the_prompts_are_one_function_and_folded(folder_of: Callable[[str], Path], precision: str) -> None:
    bundle = Bundle.open(folder_of(precision) / "bundle")
    model = onnx.load(str(bundle.graph("model")), load_external_data=False)
    assert [function.name for function in model.functions] == ["ApproximatedPrompt"]
    assert sum(node.op_type == "ApproximatedPrompt" for node in model.graph.node) == SIZES.blocks
    names = {tensor.name for tensor in model.graph.initializer}
    assert "transformer.blocks.0.attn.APT.keys" in names
    assert not any("APT.mm" in name or "scale" in name or "token4classifier" in name for name in names)
    shapes = {port["name"]: port["dims"] for port in bundle.manifest["components"]["model"]["inputs"]}
    assert shapes["pixel_mask"] == ["batch", 64, 96] and ("pixel_mask_2" in shapes) == (precision == "fp16")


@pytest.mark.parametrize("precision", TASKS)
def test_golden_bytes_are_those_of_the_recorded_tensors(folder_of: Callable[[str], Path], precision: str) -> None:
    bundle = Bundle.open(folder_of(precision) / "bundle")
    components = components_of(bundle.manifest["family"], bundle.manifest["config"])
    stored = to_arrays(read_cases(bundle))
    assert golden_bytes(components) == sum(array.nbytes for array in stored.values())
    for request, _ in read_samples(bundle):
        assert (request.image is not None) and (request.image_2 is not None) == (precision == "fp16")


def test_deep_prompts_are_counted_at_every_site(folder_of: Callable[[str], Path]) -> None:
    report = inspect_path(folder_of("fp32") / "bundle", shapes={"sequence": 9, "batch": 3})
    cost = report["components"]["model"]["graphs"]["fp32"]["cost"]
    rows, tokens, width = 9 + 1 + SIZES.rows * SIZES.columns, SIZES.prompt_rows, SIZES.dim
    assert cost["memory"]["macs"] == 3 * SIZES.blocks * 2 * rows * tokens * width
    assert cost["deep_prompt"]["macs"] == 3 * SIZES.blocks * (3 * tokens * width**2 + 2 * rows * tokens * width)


def test_a_question_has_the_label_of_the_largest_logit(
    folder_of: Callable[[str], Path], pictures: list[Path], tmp_path: Path
) -> None:
    folder = folder_of("fp32")
    bundle, model = Bundle.open(folder / "bundle"), load(read_source(folder))
    answer = run(bundle, "ab?", pictures[1])
    words = {word: index for index, word in enumerate((folder / "vocab.txt").read_text().splitlines())}
    ids = open_pipeline(bundle).tokenizer.encode("ab?")
    assert ids[0] == words["[CLS]"] and ids[-1] == words["[SEP]"]
    image = load_image(pictures[1])
    inputs = {
        "input_ids": np.array([ids]),
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "pixel_values": preprocess(image, model.preprocessing)[None],
        "pixel_mask": pixel_mask(image, model.preprocessing)[None],
    }
    logits = TorchReference(model.components, model.reference_weights).run("model", inputs)["logits"][0]
    assert answer.text == f"answer {logits.argmax()}" and answer.ids == (logits.argmax(),) and not answer.truncated
    np.savez(tmp_path / "in.npz", **inputs)
    raw = run_component(bundle, "model", tmp_path / "in.npz", tmp_path / "out.npz")
    np.testing.assert_allclose(raw["logits"][0], logits, rtol=2e-5, atol=2e-6)
    assert run(bundle, "ab " * 40, pictures[1]).truncated


def test_a_file_of_questions_is_answered_in_batches(
    folder_of: Callable[[str], Path], pictures: list[Path], tmp_path: Path
) -> None:
    bundle = Bundle.open(folder_of("fp32") / "bundle")
    lines = [{"id": str(i), "text": "ab" * i, "image": str(pictures[i % 3])} for i in range(10)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert run_file(bundle, tmp_path / "in.jsonl", tmp_path / "out.jsonl") == 10
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    alone = [run(bundle, str(line["text"]), Path(str(line["image"]))).text for line in lines]
    assert [answer["text"] for answer in answers] == alone
    report = check(bundle, data=tmp_path / "in.jsonl")
    assert report.passed and len(report.answers) == 13


def test_two_images_are_compared_in_order(folder_of: Callable[[str], Path], pictures: list[Path]) -> None:
    pipeline = open_pipeline(Bundle.open(folder_of("fp16") / "bundle"))
    (answer,) = pipeline.answer([Request("1", "ab", pictures[0], pictures[1])])
    assert answer.text in ("False", "True") and answer.ids == (int(answer.text == "True"),)
    session = OnnxSession(Bundle.open(folder_of("fp16") / "bundle"), threads=1)
    requests = [Request("1", "ab", *pair) for pair in (pictures[:2], pictures[1::-1])]
    forth, back = session.run("model", pipeline.inputs(requests))["logits"]  # type: ignore[union-attr]
    assert np.abs(forth - back).max() > 1e-3


def test_requests_that_do_not_fit_the_model_are_refused(folder_of: Callable[[str], Path], pictures: list[Path]) -> None:
    bundle = Bundle.open(folder_of("fp32") / "bundle")
    with pytest.raises(InputError, match="'1' has 0 images; this model looks at 1"):
        run(bundle, "ab")
    with pytest.raises(InputError, match="'1' has 2 images; this model looks at 1"):
        run(bundle, "ab", pictures[0], image_2=pictures[1])
    with pytest.raises(InputError, match="classes of its own"):
        run(bundle, "ab", pictures[0], choices=["a", "b"])


def test_a_samples_file_must_have_the_images(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_text('{"id": "a", "text": "what?"}\n')
    with pytest.raises(InputError, match="the request 'a' lacks an image; this model needs 1 of them"):
        export_onnx(read_source(folder_of("fp32")), tmp_path / "out", samples=tmp_path / "samples.jsonl")
    assert not (tmp_path / "out").exists()
