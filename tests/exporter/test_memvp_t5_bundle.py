"""MemVP-T5 the whole way: source -> bundle -> check and run, beside transformers' own greedy generate()."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from memvp_export import export_onnx, read_source
from memvp_export.examples.random_t5 import PRESETS, write_source
from memvp_export.exporter.bundle import Bundle, change
from memvp_export.exporter.data import Request
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.parity.check import check
from memvp_export.exporter.pipelines import pipeline_from
from memvp_export.exporter.run import open_pipeline, open_session, run
from memvp_export.exporter.settings import Settings
from torch.nn import functional as F
from transformers import T5ForConditionalGeneration, T5Tokenizer

from .models import memory_hooks
from .models.memory_hooks import requests_of, t5_ffns

SIZES = replace(PRESETS["odd"], decoder_layers=1)
# What there is in the base's config.json is read by transformers as well as by the exporter.
RULES = {"no_repeat_ngram_size": 2, "min_length": 4}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    write_source(folder, SIZES)
    return folder


@pytest.fixture(scope="module")
def bundle(source: Path) -> Bundle:
    return export_onnx(read_source(source), source / "bundle", "fp32")


def generated(source: Path, requests: Sequence[Request], **settings: Any) -> list[list[int]]:
    """What transformers writes from the files of the source; the ids behind the pieces are in no text."""
    model = T5ForConditionalGeneration.from_pretrained(source / "base").eval()
    tokenizer = T5Tokenizer.from_pretrained(source / "base")
    settings["suppress_tokens"] = [*range(SIZES.pieces, SIZES.vocab)]
    return memory_hooks.generated(model, tokenizer, t5_ffns(model), F.relu, source, requests, **settings)


def until_end(ids: Sequence[int]) -> tuple[int, ...]:
    return tuple(ids[: ids.index(1)]) if 1 in ids else tuple(ids)


def test_answers_are_those_of_transformers(source: Path, bundle: Bundle) -> None:
    requests = requests_of(source)
    answers = open_pipeline(bundle).answer(requests, Settings(max_new_tokens=19, batch=4))
    expected = generated(source, requests)
    assert [answer.ids for answer in answers] == [until_end(ids) for ids in expected]
    tokenizer = T5Tokenizer.from_pretrained(source / "base")
    assert [answer.text for answer in answers] == tokenizer.batch_decode(expected, skip_special_tokens=True)
    assert [answer.truncated for answer in answers] == [False] * 3 + [True] * 3 + [False] * 3
    assert len({answer.ids for answer in answers}) > 6


def test_the_rules_of_the_base_are_followed(source: Path, bundle: Bundle) -> None:
    requests = requests_of(source)[:3]
    ruled = {**bundle.manifest, "generation": {**bundle.manifest["generation"], **RULES}}
    found = [answer.ids for answer in pipeline_from(open_session(bundle), ruled, bundle.root).answer(requests)]
    assert found == [until_end(ids) for ids in generated(source, requests, **RULES)]
    assert found != [answer.ids for answer in open_pipeline(bundle).answer(requests)]


@pytest.mark.parametrize("how", [{}, {"length_penalty": 2.0, "early_stopping": True, **RULES}], ids=["plain", "rules"])
def test_beams_find_what_those_of_transformers_find(source: Path, bundle: Bundle, how: dict[str, Any]) -> None:
    requests = requests_of(source)[:4]
    manifest = {**bundle.manifest, "generation": {**bundle.manifest["generation"], **how}}
    pipeline = pipeline_from(open_session(bundle), manifest, bundle.root)
    found = [answer.ids for answer in pipeline.answer(requests, replace(pipeline.defaults, beams=4))]
    assert found == [until_end(ids) for ids in generated(source, requests, num_beams=4, **how)]
    assert found != [answer.ids for answer in pipeline.answer(requests)]
    with pytest.raises(InputError, match=r"batch is 3 with 4 beams each; .* at most 8"):
        pipeline.answer(requests, replace(pipeline.defaults, beams=4, batch=3))


def test_a_bundle_is_used_with_its_beams_and_judged_without(source: Path, bundle: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle.root, tmp_path / "copy"))
    with change(copy) as (writer, manifest):
        manifest["generation"]["num_beams"] = 4
        writer.write_manifest(manifest)
    request = requests_of(source)[0]
    asked = (request.text, request.image)
    found = run(copy, *asked)
    assert found == run(bundle, *asked, settings=Settings(max_new_tokens=19, beams=4)) != run(bundle, *asked)
    assert check(copy).passed


def test_a_bundle_passes_its_check(source: Path, bundle: Bundle) -> None:
    report = check(bundle, source=read_source(source))
    assert report.passed, report.failures
    assert max(result.distance.relative_l2 for result in report.outputs) <= 1e-5
    assert len(report.answers) == 3 and report.image_effect is not None and report.image_effect > 1e-2
