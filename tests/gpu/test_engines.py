"""Engines of the shipped model, built and run on the GPU that is here: parity in every profile, the same answers."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.demo import SHAPES
from memvp_export.exporter.engines.build import build_engines
from memvp_export.exporter.engines.engine_error import EngineError
from memvp_export.exporter.engines.request import Request
from memvp_export.exporter.engines.tensorrt_module import import_tensorrt

WAYS = {
    "native": Request("fp16", plugin="off", max_batch=4, max_seq=256),
    "plugin": Request("fp16", plugin="on", max_batch=4, max_seq=256),
    "in place": Request("fp16", plugin="off", cache="in_place", max_batch=4, max_seq=256),
    "whole caches": Request("fp16", plugin="off", cache="concat", max_batch=4, max_seq=256),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model's bundle in fp16, with golden samples of its questions."""
    from memvp_export import export_onnx, read_source

    try:
        import_tensorrt("tensorrt")
    except EngineError as lack:
        pytest.skip(str(lack))
    root = tmp_path_factory.mktemp("demo") / "shapes.bundle"
    export_onnx(read_source(SHAPES / "model"), root, "fp16", samples=SHAPES / "questions.jsonl")
    return root


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin library that MEMVP_PLUGIN names, else compiled for the GPU that is here."""
    if named := os.environ.get("MEMVP_PLUGIN"):
        return Path(named)
    import torch
    from memvp_export.exporter.errors import EnvironmentLack
    from memvp_export.plugins.build import build_plugin

    major, minor = torch.cuda.get_device_capability()
    try:
        return build_plugin(tmp_path_factory.mktemp("plugin") / "libmemvp.so", archs=[f"{major}{minor}"]).path
    except EnvironmentLack as lack:
        pytest.skip(f"the plugin cannot be compiled here: {str(lack).splitlines()[0]}")


@pytest.fixture
def built(
    exported: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], Bundle]:
    """A copy of the bundle with engines made in one of WAYS."""

    def make(way: str) -> Bundle:
        if way == "plugin":
            monkeypatch.setenv("MEMVP_PLUGIN", str(request.getfixturevalue("plugin")))
        root = Path(shutil.copytree(exported, tmp_path / "bundle"))
        build_engines(root, WAYS[way])
        return Bundle.open(root)

    return make


@pytest.mark.parametrize("way", WAYS)
def test_engines_pass_the_check_and_answer_as_the_graphs_do(way: str, built: Callable[[str], Bundle]) -> None:
    from memvp_export.exporter.data import read_requests
    from memvp_export.exporter.parity.check import check
    from memvp_export.exporter.run import open_pipeline

    bundle = built(way)
    report = check(bundle, "tensorrt", lowering="plugin" if way == "plugin" else "native")
    assert report.passed, report.failures
    points = {result.case.split(":")[0] for result in report.outputs if result.case.startswith("profile ")}
    assert {f"profile {name} at its max" for name in ("default", "prefill", "decode")} <= points
    assert not [note for note in report.notes if "not run" in note or "was not compared" in note]
    questions = list(read_requests(SHAPES / "questions.jsonl"))[:16]
    found, expected = (
        [answer.text for answer in open_pipeline(bundle, backend).answer(questions)]
        for backend in ("tensorrt", "onnxruntime")
    )
    assert found == expected and len({*found}) > 1
