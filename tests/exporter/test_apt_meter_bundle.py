"""APT-METER the whole way: checkpoint -> bundle -> check and run; the score of irtr is in
engines/test_apt_meter_engines.py."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from memvp_export import export_onnx, read_source
from memvp_export.examples.random_meter import PRESETS, write_source
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.data import Request
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.images import load_image, preprocess
from memvp_export.exporter.models.family import components_of, load
from memvp_export.exporter.models.reference import TorchReference
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.parity.check import GOLDEN, check
from memvp_export.exporter.run import open_pipeline, run, run_file
from PIL import Image

ODD = replace(PRESETS["odd"], layers=1, text_layers=1, blocks=1)
WIDE = PRESETS["wide-patches"]
MADE = {"vqa": ("fp32", ODD), "nlvr2": ("fp16", WIDE)}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The source (model.toml) and the bundle (`bundle`) of a task."""
    made: dict[str, Path] = {}

    def make(task: str) -> Path:
        if task not in made:
            made[task], (precision, sizes) = tmp_path_factory.mktemp(task), MADE[task]
            write_source(made[task], sizes, task)
            export_onnx(read_source(made[task]), made[task] / "bundle", precision)
        return made[task]

    return make


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = []
    for index, (height, width) in enumerate(((90, 120), (200, 60), (64, 64))):
        # Of large areas: what a crop cuts off must matter, noise would look alike everywhere.
        areas = Image.fromarray(random.integers(0, 256, (4, 3, 3), np.uint8))
        paths.append(folder / f"{index}.png")
        areas.resize((width, height), Image.Resampling.NEAREST).save(paths[-1])
    return paths


@pytest.mark.parametrize("task", MADE)
def test_a_bundle_passes_its_check(folder_of: Callable[[str], Path], task: str) -> None:
    folder = folder_of(task)
    report = check(folder / "bundle", source=read_source(folder))
    assert report.passed, report.failures
    assert len({result.reference for result in report.outputs}) == 2
    worst = max(result.distance.relative_l2 for result in report.outputs)
    assert worst <= (1e-5 if task == "vqa" else 2e-2)
    assert len(report.answers) == 3 and report.image_effect is not None and report.image_effect > 1e-2


def test_another_source_or_tokenizer_fails_the_check(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = folder_of("vqa")
    write_source(tmp_path, ODD, "vqa", seed=1)
    with pytest.raises(InputError, match="they differ in the tokenizer's files"):
        check(folder / "bundle", source=read_source(tmp_path))
    shutil.copytree(folder / "roberta", tmp_path / "roberta", dirs_exist_ok=True)
    report = check(folder / "bundle", source=read_source(tmp_path))
    assert not report.passed and {r.passed for r in report.outputs if r.reference != GOLDEN} == {False}


@pytest.mark.parametrize("task", MADE)
def test_graph_and_reference_agree_with_padding_anywhere(folder_of: Callable[[str], Path], task: str) -> None:
    folder = folder_of(task)
    model, session = load(read_source(folder)), OnnxSession(Bundle.open(folder / "bundle"), threads=1)
    reference = TorchReference(model.components, model.reference_weights)
    random, batch, side = np.random.default_rng(3), 5, model.config.tower.image_size  # type: ignore[attr-defined]
    mask = (random.random((batch, 11)) < 0.7).astype(np.int64)
    mask[:, 3] = 1
    inputs = {"input_ids": np.where(mask, random.integers(4, 260, mask.shape), 1), "attention_mask": mask}
    for port in model.components[0].inputs[2:]:
        inputs[port.name] = random.standard_normal((batch, 3, side, side)).astype(np.float32)
    (found,), (expected,) = (each.run("model", inputs).values() for each in (session, reference))
    np.testing.assert_allclose(found, expected, atol=5e-3 if task == "nlvr2" else 1e-5)
    for name in inputs:
        (changed,) = session.run("model", {**inputs, name: np.roll(inputs[name], 1, 0)}).values()
        assert np.abs(changed - found).max() > 1e-3, name


def test_a_constant_row_is_no_division_by_zero(folder_of: Callable[[str], Path]) -> None:
    """The epsilon of the streams' norms is 1e-12, which an optimizer may take for 0: it is added in every one."""
    graph = onnx.load(str(Bundle.open(folder_of("vqa") / "bundle").graph("model")), load_external_data=False).graph
    added = [node for node in graph.node if any(name.endswith("LayerNorm.eps") for name in node.input)]
    taken = [node.op_type for node in graph.node for one in added if one.output[0] in node.input]
    assert [node.op_type for node in added] == ["Add"] * 6 and taken == ["Sqrt"] * 6
    assert added[0].name == "cross_modal_text_layers.0.attention.output.LayerNorm/Add"


@pytest.mark.parametrize("task", MADE)
def test_the_prompts_are_one_function_and_folded(folder_of: Callable[[str], Path], task: str) -> None:
    bundle = Bundle.open(folder_of(task) / "bundle")
    model = onnx.load(str(bundle.graph("model")), load_external_data=False)
    assert [function.name for function in model.functions] == ["ApproximatedPrompt"]
    assert sum(node.op_type == "ApproximatedPrompt" for node in model.graph.node) == 4
    names = {tensor.name for tensor in model.graph.initializer}
    assert "cross_modal_image_layers.0.crossattention.output.APT.keys" in names
    assert not any("APT.mm" in n or "scale" in n or "token4classifier" in n or n.startswith("vit_model") for n in names)
    manifest = bundle.manifest["components"]["model"]
    shapes = {port["name"]: port["dims"] for port in manifest["inputs"]}
    side = 48 if task == "vqa" else 64
    assert shapes["pixel_values"] == ["batch", 3, side, side] and ("pixel_values_2" in shapes) == (task == "nlvr2")
    assert manifest["outputs"][0]["name"] == "logits"
    again = components_of("apt-meter", json.loads(json.dumps(bundle.manifest["config"])))
    assert [port.name for port in again[0].inputs] == list(shapes)


def test_a_question_has_the_label_of_the_largest_logit(folder_of: Callable[[str], Path], pictures: list[Path]) -> None:
    folder = folder_of("vqa")
    bundle, model = Bundle.open(folder / "bundle"), load(read_source(folder))
    ids = open_pipeline(bundle).tokenizer.encode("ab?")
    assert ids[0] == 0 and ids[-1] == 2
    inputs = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
    inputs["pixel_values"] = preprocess(load_image(pictures[1]), model.preprocessing)[None]
    logits = TorchReference(model.components, model.reference_weights).run("model", inputs)["logits"][0]
    answer = run(bundle, "ab?", pictures[1])
    assert answer.text == f"answer {logits.argmax()}" and answer.ids == (logits.argmax(),) and not answer.truncated
    assert run(bundle, "ab " * 40, pictures[1]).truncated


def test_a_file_of_questions_is_answered_in_batches(
    folder_of: Callable[[str], Path], pictures: list[Path], tmp_path: Path
) -> None:
    bundle = Bundle.open(folder_of("vqa") / "bundle")
    lines = [{"id": str(i), "text": "ab" * i, "image": str(pictures[i % 3])} for i in range(10)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert run_file(bundle, tmp_path / "in.jsonl", tmp_path / "out.jsonl") == 10
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    alone = [run(bundle, str(line["text"]), Path(str(line["image"]))).text for line in lines[3:6]]
    assert [answer["text"] for answer in answers[3:6]] == alone
    assert len(set(alone)) == 3, "pictures that are mixed up would show"


def test_two_images_are_compared_in_order(folder_of: Callable[[str], Path], pictures: list[Path]) -> None:
    bundle = Bundle.open(folder_of("nlvr2") / "bundle")
    answer = run(bundle, "ab", pictures[0], image_2=pictures[1])
    assert answer.text in ("False", "True") and answer.ids == (int(answer.text == "True"),)
    requests = [Request("1", "ab", *pair) for pair in (pictures[:2], pictures[1::-1])]
    inputs = open_pipeline(bundle).inputs(requests)  # type: ignore[union-attr]
    forth, back = OnnxSession(bundle, threads=1).run("model", inputs)["logits"]
    assert np.abs(forth - back).max() > 1e-3
    with pytest.raises(InputError, match="'1' has 1 images; this model looks at 2"):
        run(bundle, "ab", pictures[0])
