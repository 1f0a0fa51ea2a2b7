"""MemVP-BART the whole way: source -> bundle -> check and run, beside transformers' own greedy generate()."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memvp_export import export_onnx, read_source
from memvp_export.calibration.calibrate import calibrate
from memvp_export.calibration.synthetic import synthetic_requests
from memvp_export.examples.random_bart import PRESETS, write_source
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.data import Request
from memvp_export.exporter.engines.build import build_engines
from memvp_export.exporter.engines.request import Request as EngineRequest
from memvp_export.exporter.errors import InputError, VerdictError
from memvp_export.exporter.graphs.lowering import lower
from memvp_export.exporter.models.family import components_of, load
from memvp_export.exporter.models.reference import TorchReference
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.parity.check import check
from memvp_export.exporter.parity.replay import replay
from memvp_export.exporter.parity.samples import read_cases
from memvp_export.exporter.pipelines import pipeline_from
from memvp_export.exporter.run import open_pipeline, run, run_file
from memvp_export.exporter.settings import Settings
from torch.nn import functional as F
from transformers import BartForConditionalGeneration, BartTokenizerFast

from .engines.conftest import tensorrt_here  # noqa: F401
from .models import memory_hooks
from .models.memory_hooks import bart_ffns, requests_of

SIZES = replace(PRESETS["odd"], decoder_layers=1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bart")
    write_source(folder, SIZES)
    return folder


@pytest.fixture(scope="module")
def bundle(source: Path) -> Bundle:
    return export_onnx(read_source(source), source / "bundle", "fp32")


def generated(source: Path, requests: Sequence[Request], **settings: Any) -> list[list[int]]:
    """What transformers writes from the files of the source: by the rules that it reads there."""
    model = BartForConditionalGeneration.from_pretrained(source / "base").eval()
    tokenizer = BartTokenizerFast.from_pretrained(source / "base", add_prefix_space=False)
    return memory_hooks.generated(model, tokenizer, bart_ffns(model), F.gelu, source, requests, **settings)


def until_end(ids: Sequence[int]) -> tuple[int, ...]:
    return tuple(ids[: ids.index(2)]) if 2 in ids else tuple(ids)


def test_answers_are_those_of_transformers(source: Path, bundle: Bundle) -> None:
    requests = requests_of(source)
    answers = open_pipeline(bundle).answer(requests, Settings(max_new_tokens=19, batch=4))
    expected = [until_end(ids) for ids in generated(source, requests)]
    assert [answer.ids for answer in answers] == expected
    assert [answer.truncated for answer in answers] == [False] * 3 + [True] * 3 + [False] * 3
    assert len(set(expected)) > 6


def test_features_that_are_too_large_are_at_fault_not_the_widest_precision(bundle: Bundle, tmp_path: Path) -> None:
    spec = bundle.manifest["preprocessing"]
    np.save(tmp_path / "large.npy", np.full((spec["rows"], spec["width"]), 3e38, np.float32))
    with pytest.raises(VerdictError, match=r"not finite, in float32.* values of this input are too large"):
        run(bundle, "what?", tmp_path / "large.npy")


def test_several_layers_keep_their_caches_apart(bundle: Bundle, tmp_path: Path) -> None:
    """The graphs above have one; these run in PyTorch."""
    write_source(tmp_path, PRESETS["odd"])
    model, requests = load(read_source(tmp_path)), requests_of(tmp_path)[:3]
    assert model.config.host.decoder_layers == 2
    parts = {
        part.name: bundle.manifest["components"][part.name]
        | {"inputs": [*map(asdict, part.inputs)], "outputs": [*map(asdict, part.outputs)]}
        for part in model.components
    }
    parts["decoder"]["cache"] = {**parts["decoder"]["cache"], "layers": 2}
    reference = TorchReference(model.components, model.reference_weights)
    found = pipeline_from(reference, {**bundle.manifest, "components": parts}, bundle.root).answer(requests)
    assert [answer.ids for answer in found] == [until_end(ids) for ids in generated(tmp_path, requests)]


def test_fewer_new_tokens_end_as_transformers_ends_them(source: Path, bundle: Bundle) -> None:
    request = requests_of(source)[0]
    (answer,) = open_pipeline(bundle).answer([request], Settings(max_new_tokens=5))
    (expected,) = generated(source, [request], max_new_tokens=5)
    assert answer.ids == until_end(expected) and len(answer.ids) == 4


def test_beams_find_what_those_of_transformers_find(source: Path, bundle: Bundle) -> None:
    """How early they stop is in the base's config, as it is in that of bart-base."""
    requests, pipeline = requests_of(source)[:4], open_pipeline(bundle)
    found = [answer.ids for answer in pipeline.answer(requests, Settings(max_new_tokens=19, beams=4, batch=2))]
    assert found == [until_end(ids) for ids in generated(source, requests, num_beams=4)]
    assert found != [answer.ids for answer in pipeline.answer(requests)]
    assert bundle.manifest["generation"]["early_stopping"] is True


def test_a_bundle_passes_its_check(source: Path, bundle: Bundle) -> None:
    report = check(bundle, source=read_source(source))
    assert report.passed, report.failures
    assert max(result.distance.relative_l2 for result in report.outputs) <= 1e-5
    assert {"prefill", "chunks", "prefill, then steps", "one row, padding removed"} <= {
        result.case.removeprefix("rows: ") for result in report.outputs if result.component == "decoder"
    }
    assert len(report.answers) == 3 and report.image_effect is not None and report.image_effect > 1e-2


def test_data_is_compared_from_features_to_answers(source: Path, bundle: Bundle, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    lines = [{"id": r.id, "text": r.text, **({"image": str(r.image)} if r.image else {})} for r in requests_of(source)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = check(bundle, data=data)
    assert report.passed, report.failures
    assert {r.component for r in report.outputs if r.case.startswith("data")} == {"vision", "encoder", "decoder"}
    assert run_file(bundle, data, tmp_path / "answers.jsonl") == len(lines)
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    one = run(bundle, lines[0]["text"], lines[0]["image"])
    assert answers[0]["ids"] == list(one.ids)


def test_an_edited_weight_fails_the_check(bundle: Bundle, tmp_path: Path) -> None:
    components = components_of("memvp-bart", bundle.manifest["config"])
    tensors = load(read_source(bundle.root.parent)).weights
    name = "model.decoder.layers.0.encoder_attn.v_proj.weight"
    wrong = TorchReference(components, {**tensors, name: tensors[name].mapped(tensors[name].shape, lambda t: 2 * t)})
    pairs = [
        pair
        for case in read_cases(bundle)
        for pair in replay(wrong, case, bundle.manifest["components"][case.component])
    ]
    worse = {
        (pair.component, pair.output)
        for pair in pairs
        if pair.actual.shape != pair.expected.shape or not np.allclose(pair.actual, pair.expected, atol=1e-4)
    }
    assert worse == {("encoder", "present.*.value")}


def test_made_up_questions_have_features(bundle: Bundle, tmp_path: Path) -> None:
    requests = synthetic_requests(bundle, 3, 0, tmp_path / "made")
    assert [np.load(request.image).shape for request in requests if request.image] == [(SIZES.rows, SIZES.width)] * 3
    answers = open_pipeline(bundle).answer(requests)
    assert len({answer.ids for answer in answers}) == 3


def test_it_can_be_quantized_but_for_its_memory(source: Path, bundle: Bundle, tmp_path: Path) -> None:
    root = Path(shutil.copytree(bundle.root, tmp_path / "bundle"))
    calibrate(root, requests_of(source), "int8", rest="fp32", sensitivity=False)
    part = Bundle.open(root).manifest["components"]
    layers = {name: part[name]["graphs"]["int8"]["layers"] for name in part}
    # q, k, v, the output and two FFN products in each layer; k and v of cross-attention are the encoder's.
    assert layers == {
        "vision": 0,
        "encoder": 6 * SIZES.layers + 2 * SIZES.decoder_layers,
        "decoder": 8 * SIZES.decoder_layers,
    }
    exact, quantized = (
        open_pipeline(Bundle.open(root), precision=precision).read(requests_of(source)[:2])
        for precision in ("fp32", "int8")
    )
    name = "past_key_values.0.encoder.value"
    gap = np.linalg.norm(quantized[name] - exact[name]) / np.linalg.norm(exact[name])
    assert 1e-4 < gap < 5e-2


@pytest.mark.parametrize("component", ["encoder", "decoder"])
def test_what_an_engine_is_built_of_answers_as_published(bundle: Bundle, tmp_path: Path, component: str) -> None:
    """Native, and of the decoder's cache the new columns alone: in one call, in chunks and in steps."""
    lowered = lower(bundle, component, "fp32", tmp_path, plugin=False, cache="delta", portable=True)
    assert lowered.memory_sites == (SIZES.layers if component == "encoder" else SIZES.decoder_layers)
    entry = bundle.manifest["components"][component] | {"inputs": lowered.inputs, "cache": lowered.cache}
    session = OnnxSession({component: lowered.path}, "fp32")
    (case,) = (case for case in read_cases(bundle) if (case.component, case.name) == (component, "rows"))
    pairs = list(replay(session, case, entry))
    assert len(pairs) == (4 if component == "encoder" else 10)
    assert all(np.linalg.norm(p.actual - p.expected) <= 1e-5 * np.linalg.norm(p.expected) for p in pairs)


@pytest.mark.usefixtures("tensorrt_here")
def test_a_decoders_engine_has_its_sites_and_profiles(bundle: Bundle, tmp_path: Path) -> None:
    """All components of one in a half type are in `engines/test_memvp_t5_engines.py`."""
    root = Path(shutil.copytree(bundle.root, tmp_path / "bundle"))
    asked = {"components": ["decoder"], "precision": "fp32", "max_batch": 4, "max_seq": 22}
    build_engines(root, EngineRequest(target="tensorrt", **asked))
    built = Bundle.open(root, verify=True)
    (decoder,) = built.manifest["engines"]
    record = json.loads(built.path(decoder["layers"]).read_text())
    nodes = {node.removeprefix("node_of_") for layer in record["layers"] for node in layer["onnx"]}
    sites = {node.split("/")[0] for node in nodes if "VisualMemoryFFN" in node}
    assert sites == {f"model.decoder.layers.{i}.fc2" for i in range(SIZES.decoder_layers)}
    capacity = SIZES.max_sequence
    assert decoder["cache"] == {"kind": "delta", "axis": 2, "layers": SIZES.decoder_layers, "capacity": capacity}
    profiles = {profile["name"]: profile["shapes"] for profile in decoder["profiles"]}
    heads, width = [4, SIZES.heads], SIZES.dim // SIZES.heads
    assert profiles["decode"]["input_ids"]["max"] == [4, 1]
    assert profiles["decode"]["past_key_values.0.decoder.key"]["max"] == [*heads, 21, width]
    assert profiles["decode"]["past_key_values.0.encoder.value"]["max"] == [*heads, 20, width]
    assert profiles["prefill"]["encoder_attention_mask"] == {"min": [1, 1], "opt": [2, 20], "max": [4, 20]}


def test_a_buffer_in_place_is_refused_with_what_to_do(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="use --cache delta"):
        lower(bundle, "decoder", "fp32", tmp_path, plugin=False, cache="in_place", capacity=20)
