"""Commands answer through engines as they do through graphs, whatever the kind of cache."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memvp_export.exporter.bench.measure import bench
from memvp_export.exporter.bench.options import Options
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.data import Request
from memvp_export.exporter.engines import session as session_module
from memvp_export.exporter.engines.session import TensorRTSession
from memvp_export.exporter.engines.shapes import NoProfile
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.pipeline import Pipeline
from memvp_export.exporter.run import open_session, run, run_component
from memvp_export.exporter.settings import Settings

from .fake_bundle import decoder_inputs, with_engines
from .fake_tensorrt import FakeRuntime


def test_answers_through_engines_are_those_of_the_graphs(
    roots: Callable[[str], Path], runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "process_runtime", lambda: runtime)
    for text in ("what is this?", "the answer is"):
        expected = run(roots("fp32"), text)
        assert run(roots("fp32"), text, backend="tensorrt") == expected and expected.ids
    prefill, decode = runtime.engines["decoder"].contexts
    assert prefill.runs and [r["input_ids"] for r in decode.runs] == [(1, 1)] * len(decode.runs)


def test_a_prompt_longer_than_a_prefill_is_run_in_pieces(
    roots: Callable[[str], Path], runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "process_runtime", lambda: runtime)
    bundle, settings = Bundle.open(roots("fp32")), Settings(max_new_tokens=4)
    text = "what is this? " * 40
    with TensorRTSession(bundle) as opened:
        pipeline = Pipeline.from_manifest(opened, opened.manifest, bundle.root)
        assert pipeline.max_sequence == 96 < len(pipeline.tokenizer.encode(text))
        (found,) = pipeline.answer([Request("1", text)], settings)
    pieces = [run["input_ids"][1] for run in runtime.engines["decoder"].contexts[0].runs]
    assert pieces == [44, 48] and found.truncated
    # The graph takes the same 92 tokens in one call.
    graph = Pipeline.from_manifest(OnnxSession(bundle, threads=1), bundle.manifest, bundle.root)
    graph.max_sequence = 96
    assert graph.answer([Request("1", text)], settings) == [found] and found.ids


def test_the_choice_of_engines_is_told_and_a_lowering_is_of_engines_alone(
    roots: Callable[[str], Path], runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "process_runtime", lambda: runtime)
    told: list[str] = []
    run(roots("fp32"), "what is this?", backend="tensorrt", note=told.append)
    (words,) = told
    assert words.startswith("the engines that run, for tensorrt: ") and words.count("(native)") == 2
    with pytest.raises(InputError, match=r"no fp32 engine of decoder with plugin lowering.*--plugin on"):
        run(roots("fp32"), "what is this?", backend="tensorrt", lowering="plugin")
    with pytest.raises(InputError, match="a lowering is of engines: onnxruntime runs the bundle's graphs"):
        run(roots("fp32"), "what is this?", lowering="native")


def test_a_cache_in_place_has_one_buffer_and_gives_the_same_answers(
    roots: Callable[[str], Path],
    bundle_of: Callable[[str], Path],
    runtime: FakeRuntime,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    root = with_engines(bundle_of("fp32"), tmp_path, "fp32", cache="in_place", capacity=96)
    monkeypatch.setattr(session_module, "process_runtime", lambda: runtime)
    for text in ("what is this?", "the answer is"):
        expected = run(roots("fp32"), text)
        assert run(root, text, backend="tensorrt") == expected and expected.ids
    prefill, decode = runtime.engines["decoder"].contexts
    assert prefill.runs and {r["past_key_values.0.key"] for r in decode.runs} == {(1, 6, 96, 16)}
    addresses = [decode.addresses[f"{kind}.2.value"] for kind in ("past_key_values", "present")]
    assert addresses[0] == addresses[1]
    with TensorRTSession(Bundle.open(root), runtime=runtime) as session:  # type: ignore[arg-type]
        assert session.manifest["components"]["decoder"]["ranges"]["past_sequence"] == [0, 95]
        inputs = decoder_inputs(96, 3) | {"attention_mask": np.ones((1, 2), np.int64)}
        with pytest.raises(InputError, match="leave -1 for past_sequence"):
            session.run("decoder", inputs)
        with pytest.raises(NoProfile, match="94 columns of past and 3 new ones are more than the 96 that the engine"):
            session.run("decoder", inputs | {"attention_mask": np.ones((1, 97), np.int64)})


def test_raw_tensors_through_an_engine(
    roots: Callable[[str], Path], runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(session_module, "process_runtime", lambda: runtime)
    np.savez(tmp_path / "in.npz", **decoder_inputs(4, 1))  # type: ignore[arg-type]
    found = run_component(roots("fp32"), "decoder", tmp_path / "in.npz", tmp_path / "out.npz", backend="tensorrt")
    assert found["present.0.key"].shape == (1, 6, 1, 16)


def test_a_bench_says_which_components_ran_as_graphs(
    roots: Callable[[str], Path], runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "process_runtime", lambda: runtime)
    options = Options(batch=1, past=5, prompt_tokens=3, warmup=1, iterations=2, duration=0, cuda_graphs=True)

    def lane(**changes: Any) -> dict[str, Any]:
        runtime.cuda.graphs.clear()
        (found,) = bench(roots("fp32"), ("tensorrt",), options=replace(options, **changes)).lanes
        return found

    found = lane(stages=("decode",))
    assert found["cuda_graphs"] == ["decoder"] and found["runs"].endswith("; CUDA graphs of decoder")
    # The first call is an ordinary one, like those that fill the cache.
    assert runtime.cuda.graphs == {"captured": 1, "launched": 3}
    found = lane(stages=("answer",), new_tokens=3)
    assert found["cuda_graphs"] == ["vision"], "each step of an answer has a longer past than the one before"
    found = lane(stages=("decode",), cuda_graphs=False)
    assert found["cuda_graphs"] is None and "CUDA graphs" not in found["runs"] and not runtime.cuda.graphs
    with pytest.raises(InputError, match="CUDA graphs are of engines: onnxruntime runs on the CPU"):
        open_session(Bundle.open(roots("fp32")), cuda_graphs=True)
