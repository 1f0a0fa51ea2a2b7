"""A session takes what the graph takes, and says what is wrong with anything else before ONNX Runtime does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memvp_export.exporter import onnx_session
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.errors import EnvironmentLack, InputError
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.run import open_session

PIXELS = {
    "pixel_values": np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype(np.float32),
    "image_indicator": np.array([1, 0], np.float32),
}


@pytest.fixture(scope="module")
def session(bundle_of: Callable[[str], Path]) -> OnnxSession:
    return OnnxSession(Bundle.open(bundle_of("fp32")), threads=1)


def decoder(**changes: Any) -> dict[str, np.ndarray]:
    """One row of three tokens and an empty past."""
    columns = np.arange(3)[None]
    past = {f"past_key_values.{i}.{kind}": np.zeros((1, 6, 0, 16), np.float32) for i in range(3) for kind in KINDS}
    inputs = {
        "input_ids": columns + 5,
        "attention_mask": np.ones((1, 3), np.int64),
        "position_ids": columns,
        "logits_positions": np.array([[2]]),
        "visual_memory": np.zeros((1, 256, 96), np.float32),
    }
    return inputs | past | changes


KINDS = ("key", "value")


def test_all_outputs_or_those_that_are_named(session: OnnxSession) -> None:
    assert list(session.run("decoder", decoder())) == [
        "logits",
        *(f"present.{i}.{kind}" for i in range(3) for kind in KINDS),
    ]
    assert list(session.run("decoder", decoder(), ["logits"])) == ["logits"]


def test_a_row_without_an_image_has_exactly_no_visual_memory(session: OnnxSession) -> None:
    visual = session.run("vision", PIXELS)["visual_memory"]
    assert visual.shape == (2, 256, 96)
    assert np.abs(visual[0]).max() > 0 and not visual[1].any()


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_another_floating_type_is_cast(session: OnnxSession, dtype: type) -> None:
    pixels = PIXELS["pixel_values"].astype(np.float16)
    found = session.run("vision", {**PIXELS, "pixel_values": pixels.astype(dtype)})["visual_memory"]
    expected = session.run("vision", {**PIXELS, "pixel_values": pixels.astype(np.float32)})["visual_memory"]
    assert np.array_equal(found, expected)


def test_smaller_integers_are_cast(session: OnnxSession) -> None:
    small = session.run("decoder", decoder(input_ids=(np.arange(3) + 5)[None].astype(np.int32)), ["logits"])
    assert np.array_equal(small["logits"], session.run("decoder", decoder(), ["logits"])["logits"])


def without(name: str) -> dict[str, np.ndarray]:
    return {key: array for key, array in decoder().items() if key != name}


BATCH = r"'pixel_values' has the shape .*, whose batch is 65; vision takes 1 to 64"
BAD: dict[str, tuple[str, dict[str, np.ndarray], str]] = {
    "no such component": ("model", decoder(), "no component 'model'; there is vision, decoder"),
    "an input missing": ("decoder", without("position_ids"), "decoder needs the input 'position_ids'"),
    "an input too many": ("decoder", decoder(pixels=np.zeros(1)), "decoder has no input 'pixels'; it takes input_ids"),
    "floats for ids": ("decoder", decoder(input_ids=np.ones((1, 3))), "'input_ids' is float64, the graph takes int64"),
    "ids for floats": ("decoder", decoder(visual_memory=np.ones((1, 256, 96), int)), "the graph takes float32"),
    "texts": ("decoder", decoder(visual_memory=np.full((1, 256, 96), "x")), "'visual_memory' is <U1"),
    "complex numbers": ("decoder", decoder(visual_memory=np.ones((1, 256, 96), complex)), "the graph takes float32"),
    "objects": ("decoder", decoder(input_ids=np.full((1, 3), None)), "'input_ids' is object"),
    "too few axes": ("decoder", decoder(input_ids=np.arange(3)), r"shape \[3\]; it takes \[batch, seq"),
    "wrong width": ("decoder", decoder(visual_memory=np.ones((1, 256, 95))), r"\[1, 256, 95\]; .* \[1, 256, 96\]"),
    "a token that is none": ("decoder", decoder(input_ids=np.full((1, 3), 150)), "cannot run decoder on these inputs"),
    "rows that differ": ("decoder", decoder(position_ids=np.zeros((2, 3), int)), r"'position_ids' .* takes \[1, 3\]"),
    "too many rows": ("vision", {name: array[[0] * 65] for name, array in PIXELS.items()}, BATCH),
}


@pytest.mark.parametrize(("component", "inputs", "message"), BAD.values(), ids=list(BAD))
def test_bad_inputs_are_named(
    session: OnnxSession, component: str, inputs: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        session.run(component, inputs)
    assert "\n" not in str(caught.value)


def test_an_output_that_the_graph_does_not_have_is_refused(session: OnnxSession) -> None:
    with pytest.raises(InputError, match="nothing"):
        session.run("decoder", decoder(), ["nothing"])


def test_a_half_graph_takes_and_gives_its_own_type(bundle_of: Callable[[str], Path]) -> None:
    visual = OnnxSession(Bundle.open(bundle_of("fp16")), threads=1).run("vision", PIXELS)["visual_memory"]
    assert visual.dtype == np.float16


def test_without_optimization_the_answers_are_the_same(bundle_of: Callable[[str], Path], session: OnnxSession) -> None:
    plain = OnnxSession(Bundle.open(bundle_of("fp32")), optimize=False, threads=1)
    found, expected = (one.run("decoder", decoder(), ["logits"])["logits"] for one in (plain, session))
    assert np.allclose(found, expected, atol=1e-4)


def test_bf16_is_refused_with_the_reason(bundle_of: Callable[[str], Path]) -> None:
    with pytest.raises(EnvironmentLack, match="no bfloat16 kernels"):
        OnnxSession(Bundle.open(bundle_of("bf16"))).run("vision", PIXELS)


def test_a_precision_or_backend_that_is_not_there(bundle_of: Callable[[str], Path]) -> None:
    bundle = Bundle.open(bundle_of("fp32"))
    with pytest.raises(InputError, match="no fp16 graph of vision; it has fp32"):
        OnnxSession(bundle, "fp16")
    with pytest.raises(InputError, match="backend 'abacus' is not known"):
        open_session(bundle, "abacus")
    with pytest.raises(InputError, match="no component 'model'; it has vision, decoder"):
        bundle.graph("model")


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"garbage")
    with pytest.raises(InputError, match=r"ONNX Runtime cannot open .*x\.onnx"):
        OnnxSession({"x": tmp_path / "x.onnx"}).run("x", {})


@pytest.mark.parametrize(
    ("optimize", "available", "mapped"),
    [
        (None, 1 << 40, False),
        (None, 1 << 10, True),
        (None, None, False),
        (True, 1 << 10, False),
        (False, 1 << 40, True),
    ],
)
def test_weights_stay_in_their_file_where_memory_is_short(
    bundle_of: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    optimize: bool | None,
    available: int | None,
    mapped: bool,
) -> None:
    monkeypatch.setattr(onnx_session, "available_memory", lambda: available)
    session = OnnxSession(Bundle.open(bundle_of("fp32")), optimize=optimize, threads=1)
    assert session.mapped == set()
    session.run("vision", PIXELS)
    assert session.mapped == ({"vision"} if mapped else set())


def test_the_optimized_mode_is_counted_as_three_times_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.onnx.data").write_bytes(bytes(100))
    for available, fits in ((300, True), (299, False)):
        monkeypatch.setattr(onnx_session, "available_memory", lambda value=available: value)
        assert onnx_session.fits_optimized(tmp_path / "x.onnx") is fits


NO_MEMORY = [
    "[ONNXRuntimeError] : 1 : FAIL : bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 42",
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: std::bad_alloc",
    "[ONNXRuntimeError] : 1 : FAIL : mmap failed: Cannot allocate memory",
]


@pytest.mark.parametrize("words", NO_MEMORY)
def test_too_little_memory_is_no_fault_of_the_input(
    bundle_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise RuntimeError(words)

    session = OnnxSession(Bundle.open(bundle_of("fp32")), threads=1)
    session.run("vision", PIXELS)
    monkeypatch.setattr(type(session._open["vision"]), "run", fail)
    with pytest.raises(EnvironmentLack, match=r"too little memory to run vision on 2 rows .*--batch"):
        session.run("vision", PIXELS)
    monkeypatch.setattr("onnxruntime.InferenceSession", fail)
    with pytest.raises(EnvironmentLack, match=r"too little memory to open .*decoder\.onnx"):
        session.run("decoder", decoder())
