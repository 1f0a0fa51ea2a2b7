"""Engines of the shipped model, built and run on the GPU that is here: parity in every profile, the same answers."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
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
        [answer.text for answer in open_pipeline(bundle, backend=backend).answer(questions)]
        for backend in ("tensorrt", "onnxruntime")
    )
    assert found == expected and len({*found}) > 1


def test_calls_that_come_again_are_launches_of_a_graph_that_sees_new_inputs(built: Callable[[str], Bundle]) -> None:
    from memvp_export.exporter.engines.session import TensorRTSession

    bundle = built("native")
    size = bundle.manifest["preprocessing"]["height"], bundle.manifest["preprocessing"]["width"]
    with TensorRTSession(bundle) as plain, TensorRTSession(bundle, cuda_graphs=True) as graphs:
        seen = []
        for seed in range(4):
            pixels = np.random.default_rng(seed).standard_normal((1, 3, *size)).astype(np.float32)
            inputs = {"pixel_values": pixels, "image_indicator": np.ones(1, np.float32)}
            found, expected = (
                session.run("vision", inputs)["visual_memory"].astype(np.float32) for session in (graphs, plain)
            )
            assert np.linalg.norm(found - expected) <= 1e-3 * np.linalg.norm(expected)
            seen.append(found)
        assert graphs.replayed["vision"] == 3 and not plain.replayed["vision"]
        assert np.linalg.norm(seen[3] - seen[2]) > 1e-2 * np.linalg.norm(seen[2])


@pytest.mark.parametrize("way", ["native", "plugin", "in place"])
def test_decode_steps_are_measured_as_graphs(way: str, built: Callable[[str], Bundle]) -> None:
    from memvp_export.exporter.bench.measure import bench
    from memvp_export.exporter.bench.options import Options

    report = bench(built(way), ["tensorrt"], options=Options(stages=("decode",), duration=0, cuda_graphs=True))
    (lane,) = report.lanes
    assert lane["cuda_graphs"] == ["decoder"] and {result.load.stage for result in report.results} == {"decode"}
