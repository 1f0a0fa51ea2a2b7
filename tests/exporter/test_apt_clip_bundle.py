"""APT-CLIP the whole way: files -> bundle -> check, run, calibrate, and engines built without a GPU."""

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
from memvp_export.calibration.calibrate import calibrate
from memvp_export.examples.random_clip import LABELS, PRESETS, write_source
from memvp_export.exporter.bundle import Bundle, BundleWriter
from memvp_export.exporter.data import Request, read_requests
from memvp_export.exporter.engines.build import build_engines
from memvp_export.exporter.engines.request import Request as Engines
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.images import load_image, preprocess
from memvp_export.exporter.models.family import load
from memvp_export.exporter.models.reference import TorchReference
from memvp_export.exporter.parity.check import GOLDEN, check
from memvp_export.exporter.run import open_pipeline, run, run_file
from PIL import Image

from ..conftest import Result
from .engines.conftest import tensorrt_here  # noqa: F401

MADE = {
    "labelled": ("fp32", replace(PRESETS["odd"], layers=2, image_prompts=1, text_layers=1)),
    "bare": ("fp16", replace(PRESETS["both-towers"], layers=1, text_layers=1, image_prompts=1, text_prompts=1)),
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The source (model.toml) and the bundle (`bundle`), with labels or without."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name], (precision, sizes) = tmp_path_factory.mktemp(name), MADE[name]
            write_source(made[name], sizes, labels=name == "labelled")
            export_onnx(read_source(made[name]), made[name] / "bundle", precision)
        return made[name]

    return make


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = [folder / f"{index}.png" for index in range(4)]
    for path in paths:
        areas = Image.fromarray(random.integers(0, 256, (4, 3, 3), np.uint8))
        areas.resize((90, 120), Image.Resampling.NEAREST).save(path)
    return paths


@pytest.fixture(scope="module")
def data(folder_of: Callable[[str], Path], pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve questions, every third with labels of its own; the bundle's own answer to all but one is right."""
    path, bundle = tmp_path_factory.mktemp("data") / "data.jsonl", folder_of("labelled") / "bundle"
    lines: list[dict[str, Any]] = []
    for number in range(12):
        lines.append({"id": str(number), "text": "" if number % 2 else "a {}", "image": str(pictures[number % 4])})
        lines[-1] |= {"choices": list(LABELS[:2])} if number % 3 == 0 else {}
        labels = lines[-1].get("choices")
        answer = run(bundle, lines[-1]["text"], lines[-1]["image"], labels=labels).text
        lines[-1]["answer"] = answer if number else next(label for label in LABELS[:2] if label != answer)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("name", MADE)
def test_a_bundle_passes_its_check(folder_of: Callable[[str], Path], name: str) -> None:
    folder = folder_of(name)
    report = check(folder / "bundle", source=read_source(folder))
    assert report.passed, report.failures
    assert {result.component for result in report.outputs} == {"image_encoder", "text_encoder"}
    assert len({result.reference for result in report.outputs}) == 2
    worst = max(result.distance.relative_l2 for result in report.outputs)
    assert worst <= (1e-5 if name == "labelled" else 2e-2)
    assert len(report.answers) == 3 and report.image_effect is not None and report.image_effect > 1e-2
    questions = list(read_requests(folder / "bundle" / "samples" / "requests.jsonl"))
    assert [bool(one.choices) for one in questions] == [name == "bare"] * 3


def test_another_source_fails_the_check(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    write_source(tmp_path, MADE["labelled"][1], seed=1)
    shutil.copytree(folder_of("labelled") / "clip", tmp_path / "clip", dirs_exist_ok=True)
    # The same CLIP with other prompts.
    report = check(folder_of("labelled") / "bundle", source=read_source(tmp_path))
    failed = {r.component for r in report.outputs if r.reference != GOLDEN and not r.passed}
    assert not report.passed and failed == {"image_encoder"}
    toml = tmp_path / "model.toml"
    toml.write_text(toml.read_text() + 'template = "{}"\n')
    with pytest.raises(InputError, match="they differ in similarity"):
        check(folder_of("labelled") / "bundle", source=read_source(tmp_path))


@pytest.mark.parametrize(("name", "sites"), [("labelled", (1, 0)), ("bare", (1, 1))])
def test_the_prompts_are_one_function_and_folded(
    folder_of: Callable[[str], Path], name: str, sites: tuple[int, int]
) -> None:
    bundle = Bundle.open(folder_of(name) / "bundle")
    for component, count in zip(("image_encoder", "text_encoder"), sites, strict=True):
        model = onnx.load(str(bundle.graph(component)), load_external_data=False)
        assert [function.name for function in model.functions] == ["ApproximatedPrompt"][:count]
        assert sum(node.op_type == "ApproximatedPrompt" for node in model.graph.node) == count
        names = {tensor.name for tensor in model.graph.initializer}
        tower = "vision_model" if component == "image_encoder" else "text_model"
        assert (f"{tower}.encoder.layers.0.self_attn.APT.keys" in names) == bool(count)
        assert not any("APT.mm" in name or name.endswith("scale") for name in names)
    assert bundle.manifest["similarity"] == {"logit_scale": 2.5, "template": "a photo of a {}."}
    ports = {part: entry["outputs"] for part, entry in bundle.manifest["components"].items()}
    assert [ports[part][0]["name"] for part in ports] == ["image_embeds", "text_embeds"]
    assert {port["dtype"] for part in ports.values() for port in part} == {"float32"}


def test_a_picture_has_the_label_of_the_largest_logit(
    folder_of: Callable[[str], Path], pictures: list[Path], command: Callable[..., Result], tmp_path: Path
) -> None:
    folder = folder_of("labelled")
    model, bundle = load(read_source(folder)), Bundle.open(folder / "bundle")
    reference, tokenizer = TorchReference(model.components, model.reference_weights), open_pipeline(bundle).tokenizer
    pixels = np.stack([preprocess(load_image(path), model.preprocessing) for path in pictures])
    (images,) = reference.run("image_encoder", {"pixel_values": pixels}).values()
    rows = [tokenizer.encode(f"a photo of a {label}.") for label in LABELS]  # type: ignore[arg-type]
    points = []
    for row in rows:
        text = {"input_ids": np.array([row]), "attention_mask": np.ones((1, len(row)), np.int64)}
        points.append(reference.run("text_encoder", text)["text_embeds"][0])
    logits = np.exp(2.5) * images @ np.stack(points).T
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    answers = [run(bundle, "", path) for path in pictures]
    assert [answer.ids for answer in answers] == [(int(row.argmax()),) for row in logits]
    for answer, row in zip(answers, shares, strict=True):
        assert dict(answer.top) == pytest.approx(dict(zip(LABELS, row, strict=True)), rel=1e-4)
    assert len({answer.top for answer in answers}) == len(pictures), "another picture is another answer"

    shown = command("run", bundle.root, "--image", pictures[0])
    best, share = answers[0].top[0]
    assert shown.out.splitlines()[0] == best and f"{share:.2%}  {best}" in shown.out
    (tmp_path / "labels.txt").write_text("dog\ncat\n")
    given = command("run", bundle.root, "--image", pictures[0], "--labels", tmp_path / "labels.txt", "--json")
    found = json.loads(given.out)
    assert [label for label, _ in found["top"]] == [label for label, _ in answers[0].top if label in ("cat", "dog")]
    assert found["text"] == found["top"][0][0] and found["ids"] == [["dog", "cat"].index(found["text"])]


def test_a_file_of_pictures_is_judged(
    folder_of: Callable[[str], Path], data: Path, command: Callable[..., Result], tmp_path: Path
) -> None:
    root, out = folder_of("labelled") / "bundle", tmp_path / "out.jsonl"
    done = command("run", root, "--data", data, "-o", out)
    assert done.verdict == f"done: 12 requests answered into {out}; 11 of 12 are right (91.7%)"
    first, second = (json.loads(line) for line in out.read_text().splitlines()[:2])
    assert first["choice"] in (0, 1) and len(first["top"]) == 2
    assert second["choice"] is None and len(second["top"]) == 5
    (tmp_path / "labels.txt").write_text("whale\n")
    assert run_file(root, data, out, labels=["whale"]) == 12
    assert [json.loads(line)["text"] for line in out.read_text().splitlines()][1:3] == ["whale"] * 2
    report = check(root, data=data)
    assert report.passed, report.failures
    assert report.quality is not None and report.quality.accuracy is not None and report.quality.kl is None
    assert (report.quality.questions, report.quality.accuracy.share) == (12, pytest.approx(11 / 12))
    cases = [(result.component, result.case) for result in report.outputs if result.case.startswith("data")]
    # The second batch asks about the labels of the first.
    assert cases == [
        ("image_encoder", "data, requests 1 to 8"),
        ("text_encoder", "data, requests 1 to 8"),
        ("image_encoder", "data, requests 9 to 12"),
    ]


def test_wrong_use_is_refused(
    folder_of: Callable[[str], Path], pictures: list[Path], command: Callable[..., Result], tmp_path: Path
) -> None:
    bare, labels = folder_of("bare") / "bundle", tmp_path / "labels.txt"
    labels.write_text("\n")
    other = Path(shutil.copytree(bare, tmp_path / "other"))
    manifest = Bundle.open(other).manifest
    writer = BundleWriter(other)
    writer.files = dict(manifest["files"])
    writer.write_manifest({**manifest, "family": "apt-meter"})
    for words, message in (
        ((bare, "--image", pictures[0]), "names no labels, and the bundle has none: give --labels"),
        ((bare, "--image", pictures[0], "--labels", labels), "is no set of labels: label 1 is blank"),
        ((bare, "--image", pictures[0], "--labels", tmp_path / "none"), "is not a file. Give labels"),
        ((bare, "--image", pictures[0], "--text", "cat?"), "must have one {}, where the label goes"),
        ((bare, "--image", pictures[0], "--text", "{}", "--choices", "a"), "give these as labels, not as choices"),
        ((other, "--image", pictures[0]), "give --text: "),
        ((bare,), "give one of --text, --data and --component"),
    ):
        found = command("run", *words)
        assert found.code == 2 and message in found.err, found.err
    for line, more, message in (
        ({"text": "a {}", "choices": ["a"]}, [], "holds 1 requests; nothing was answered"),
        ({"text": "a", "choices": ["a"]}, [], "'1': the template 'a' must have one {}"),
        ({"text": ""}, [], "names no labels, and the bundle has none"),
        ({"text": "", "image": None}, [], "has 0 images; this model looks at 1"),
        ({"text": ""}, ["--labels", labels], "is no set of labels: label 1 is blank"),
    ):
        asked = {"id": "1", "image": str(pictures[0]), **line}
        (tmp_path / "in.jsonl").write_text(
            json.dumps({key: value for key, value in asked.items() if value is not None})
        )
        found = command("run", bare, "--data", tmp_path / "in.jsonl", "--dry-run", *more)
        assert (found.code == 0) == message.startswith("holds") and message in found.verdict, found.err
    with pytest.raises(InputError, match=r"labels go with models that compare an image with them; .* is of apt-meter"):
        run(other, "cat?", pictures[0], labels=["cat"])


def test_samples_without_labels_are_refused(
    folder_of: Callable[[str], Path], pictures: list[Path], tmp_path: Path
) -> None:
    for text, message in (("", "'7' has no choices, and the source names no labels"), ("what?", "'7' has not one {},")):
        (tmp_path / "in.jsonl").write_text(json.dumps({"id": "7", "text": text, "image": str(pictures[0])}))
        with pytest.raises(InputError, match=message):
            export_onnx(read_source(folder_of("bare")), tmp_path / "bundle", samples=tmp_path / "in.jsonl")


@pytest.mark.parametrize(("name", "precision"), [("labelled", "fp32"), ("bare", "fp16"), ("bare", "bf16")])
def test_engines_hold_both_towers(
    tensorrt_here: None,  # noqa: F811
    folder_of: Callable[[str], Path],
    tmp_path: Path,
    name: str,
    precision: str,
) -> None:
    sizes = MADE[name][1]
    root = Path(shutil.copytree(folder_of(name) / "bundle", tmp_path / "bundle"))
    build_engines(root, Engines(target="tensorrt", precision=precision, max_batch=4))
    bundle = Bundle.open(root, verify=True)
    entries = {entry["component"]: entry for entry in bundle.manifest["engines"]}
    assert entries.keys() == {"image_encoder", "text_encoder"}
    for part, entry in entries.items():
        built = json.loads(bundle.path(entry["layers"]).read_text())
        layers, asked = built["layers"], bundle.manifest["components"][part]
        assert {port["name"]: port["dtype"] for port in built["outputs"]} == {
            port["name"]: port["dtype"] for port in asked["outputs"]
        }
        onnx_names = [node for layer in layers for node in layer["onnx"]]
        prompted = name == "bare" or part == "image_encoder"
        assert any("self_attn.out_proj/ApproximatedPrompt" in node for node in onnx_names) == prompted, part
        weights = {
            constant["dtype"]
            for layer in layers
            if layer["type"] == "gemm"
            for constant in layer["constants"]
            if min(constant["dims"]) >= sizes.text_width
        }
        assert weights == {{"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[precision]}, part
    (profile,) = entries["text_encoder"]["profiles"]
    assert [profile["shapes"]["input_ids"][point] for point in ("min", "max")] == [[1, 2], [4, sizes.positions]]


def test_it_is_calibrated_and_accepted_by_its_answers(
    folder_of: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(folder_of("labelled") / "bundle", tmp_path / "bundle"))
    requests: list[Request] = list(read_requests(data))
    report = calibrate(root, requests, "int8", rest="fp32", sensitivity=False)
    layers = {row.layer for row in report.layers if row.reason is None}
    blocks = {layer.partition(".encoder")[0] for layer in layers}
    assert blocks == {"vision_model", "text_model"} and not any("APT" in layer for layer in layers)
    found = check(root, precision="int8", data=data)
    assert found.quality is not None and found.quality.accuracy is not None
    assert found.quality.accuracy.reference == pytest.approx(11 / 12)
    assert 0 < max(result.distance.relative_l2 for result in found.outputs) < 0.5
    # Points may be far off and answers stay: it is the logits over each request's labels that say what is kept.
    assert found.quality.rows == 12 and found.quality.kl is not None and 0 < found.quality.kl < 0.05
    assert [r.case for r in found.outputs if r.output == "logits"] == [
        f"data, requests {batch}, over {count} labels" for batch in ("1 to 8", "9 to 12") for count in (2, 5)
    ]
