"""A session gives an engine what it takes, on the narrowest profile, and gives all it took from the GPU back."""

import gc
import shutil
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from memvp_export.exporter.bundle import Bundle, change
from memvp_export.exporter.engines.cuda_runtime import Cuda
from memvp_export.exporter.engines.device_memory import NO_MEMORY
from memvp_export.exporter.engines.engine_error import EngineError
from memvp_export.exporter.engines.session import TensorRTSession
from memvp_export.exporter.engines.shapes import NoProfile
from memvp_export.exporter.errors import EnvironmentLack, InputError
from memvp_export.exporter.onnx_session import OnnxSession

from .fake_bundle import decoder_inputs, enter, entry_of, with_engines
from .fake_tensorrt import HERE, FakeRuntime

RANDOM = np.random.default_rng(0)
PIXELS = {
    "pixel_values": RANDOM.standard_normal((2, 3, 224, 224)).astype(np.float32),
    "image_indicator": np.array([1, 0], np.float32),
}


@pytest.fixture
def session(roots: Callable[[str], Path], runtime: FakeRuntime) -> Iterator[TensorRTSession]:
    with TensorRTSession(Bundle.open(roots("fp32")), runtime=runtime) as opened:  # type: ignore[arg-type]
        yield opened


@pytest.mark.parametrize(("past", "columns", "rows"), [(0, 3, 1), (0, 1, 2), (5, 1, 2), (5, 4, 4)])
def test_results_are_those_of_the_graph(
    session: TensorRTSession, roots: Callable[[str], Path], past: int, columns: int, rows: int
) -> None:
    inputs = decoder_inputs(past, columns, rows)
    found = session.run("decoder", inputs)
    expected = OnnxSession(Bundle.open(roots("fp32")), threads=1).run("decoder", inputs)
    assert list(found) == list(expected)
    for name, array in expected.items():
        # The engine's cache is of kind delta: it returns the new columns alone.
        array = array if name == "logits" else array[:, :, past:]
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-4)
    moved = session.run("decoder", {**inputs, "visual_memory": -inputs["visual_memory"]}, ["logits"])
    assert list(moved) == ["logits"] and np.abs(moved["logits"] - found["logits"]).max() > 0.01


def test_the_narrowest_profile_that_holds_the_shapes_runs(session: TensorRTSession, runtime: FakeRuntime) -> None:
    for past, columns in ((0, 3), (3, 1), (4, 2), (0, 1)):
        session.run("decoder", decoder_inputs(past, columns))
    prefill, decode = runtime.engines["decoder"].contexts
    assert (prefill.profile, decode.profile) == (0, 1)
    assert [run["input_ids"] for run in prefill.runs] == [(1, 3), (1, 2)]
    assert [run["input_ids"] for run in decode.runs] == [(1, 1), (1, 1)]
    session.run("decoder", decoder_inputs(3, 1), profile="prefill")
    assert len(prefill.runs) == 3
    with pytest.raises(InputError, match="no profile 'chunks'; it has prefill, decode"):
        session.run("decoder", decoder_inputs(), profile="chunks")


def test_contexts_share_one_buffer_for_activations(session: TensorRTSession, runtime: FakeRuntime) -> None:
    session.run("decoder", decoder_inputs(0, 3))
    session.run("decoder", decoder_inputs(3, 1))
    session.run("vision", PIXELS)
    contexts = [context for engine in runtime.engines.values() for context in engine.contexts]
    assert len(contexts) == 3 and len({context.memory[0] for context in contexts}) == 1


def test_memory_held_for_activations_is_not_asked_for_again(roots: Callable[[str], Path], tmp_path: Path) -> None:
    root = Path(shutil.copytree(roots("fp32"), tmp_path / "bundle"))
    with change(root) as (writer, manifest):
        manifest["engines"] = [{**entry, "activation": 1000} for entry in manifest["engines"]]
        writer.write_manifest(manifest)
    weights = {one["component"]: (root / one["file"]).stat().st_size for one in Bundle.open(root).manifest["engines"]}
    gpu = HERE.gpu
    assert gpu is not None

    def after_decoder(room: int) -> TensorRTSession:
        runtime = FakeRuntime(replace(HERE, gpu=replace(gpu, free=weights["decoder"] + 1000)))
        opened = TensorRTSession(Bundle.open(root), runtime=runtime)  # type: ignore[arg-type]
        opened.run("decoder", decoder_inputs())
        runtime.here = replace(HERE, gpu=replace(gpu, free=room))
        return opened

    with after_decoder(weights["vision"]) as session:
        assert session.run("vision", PIXELS)["visual_memory"].shape[0] == 2
    with (
        after_decoder(weights["vision"] - 1) as session,
        pytest.raises(EnvironmentLack, match="MiB for weights, NVIDIA"),
    ):
        session.run("vision", PIXELS)


def test_an_engine_is_loaded_when_it_is_first_run(session: TensorRTSession, runtime: FakeRuntime) -> None:
    assert not runtime.engines
    session.run("decoder", decoder_inputs())
    assert list(runtime.engines) == ["decoder"]
    (first,) = runtime.engines.values()
    session.run("decoder", decoder_inputs())
    assert runtime.engines["decoder"] is first


def test_buffers_are_kept_grow_and_are_given_back(session: TensorRTSession, runtime: FakeRuntime) -> None:
    session.run("decoder", decoder_inputs(0, 4))
    first = runtime.cuda.mallocs
    for _ in range(3):
        session.run("decoder", decoder_inputs(0, 4))
    assert runtime.cuda.mallocs == first
    before = len(runtime.cuda.live)
    for past in range(4, 40):
        session.run("decoder", decoder_inputs(past, 1))
    # A cache that grows a column at each step is not a new buffer at each step.
    assert len(runtime.cuda.live) == before and runtime.cuda.mallocs - first < 10 * 9
    session.close()
    assert not runtime.cuda.live


def test_a_session_that_is_dropped_gives_everything_back_too(
    roots: Callable[[str], Path], runtime: FakeRuntime
) -> None:
    session = TensorRTSession(Bundle.open(roots("fp32")), runtime=runtime)  # type: ignore[arg-type]
    session.run("decoder", decoder_inputs())
    assert runtime.cuda.live
    del session
    gc.collect()
    assert not runtime.cuda.live


def test_contexts_go_before_their_memory(session: TensorRTSession, runtime: FakeRuntime) -> None:
    session.run("decoder", decoder_inputs())
    context = weakref.ref(runtime.engines["decoder"].contexts.pop())
    runtime.engines.clear()
    alive: list[bool] = []
    free = runtime.cuda.free

    def noted(pointer: int) -> None:
        alive.append(context() is not None)
        free(pointer)

    runtime.cuda.free = noted  # type: ignore[method-assign]
    assert context() is not None
    session.close()
    assert alive and not any(alive)


def test_timings_are_told_apart(session: TensorRTSession) -> None:
    inputs = decoder_inputs()
    arrays, timing = session.timed_run("decoder", inputs, ["logits"])
    np.testing.assert_array_equal(arrays["logits"], session.run("decoder", inputs, ["logits"])["logits"])
    assert (timing.h2d, timing.gpu, timing.d2h) == (1e-6, 1e-6, 1e-6) and timing.host > 0


def test_positions_that_have_no_angles_are_refused(
    session: TensorRTSession,
    runtime: FakeRuntime,
    roots: Callable[[str], Path],
    bundle_of: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    last = session.run("decoder", decoder_inputs(4, 2, position_ids=np.array([[0, 511]])))["logits"]
    assert np.abs(last - session.run("decoder", decoder_inputs(4, 2))["logits"]).max() > 1e-3
    ran = len(runtime.engines["decoder"].contexts[0].runs)
    for ids, range_ in (([0, 512], "0 to 512"), ([-1, 3], "-1 to 3")):
        with pytest.raises(InputError, match=rf"'position_ids' has {range_}; .* has angles for positions 0 to 511"):
            session.run("decoder", decoder_inputs(4, 2, position_ids=np.array([ids])))
    assert len(runtime.engines["decoder"].contexts[0].runs) == ran
    # The published form computes its angles.
    root = with_engines(bundle_of("fp32"), tmp_path, "fp32", cache="concat")
    with TensorRTSession(Bundle.open(root), runtime=FakeRuntime()) as whole:  # type: ignore[arg-type]
        assert np.isfinite(
            whole.run("decoder", decoder_inputs(4, 2, position_ids=np.array([[-1, 600]])))["logits"]
        ).all()


def test_more_columns_than_the_decoder_has_are_refused_whatever_the_profile_admits(
    roots: Callable[[str], Path], tmp_path: Path, runtime: FakeRuntime
) -> None:
    """As with engines whose prefill takes its longest sequence after its longest past."""
    root = Path(shutil.copytree(roots("fp32"), tmp_path / "bundle"))
    with change(root) as (writer, manifest):
        (entry,) = [one for one in manifest["engines"] if one["component"] == "decoder"]
        for name, shapes in entry["profiles"][0]["shapes"].items():
            dims = next(port["dims"] for port in entry["inputs"] if port["name"] == name)
            longest = {"sequence": 512, "past_sequence": 511, "past_sequence + sequence": 1023, "positions": 512}
            shapes["max"] = [longest.get(dim, size) for dim, size in zip(dims, shapes["max"], strict=True)]
        writer.write_manifest(manifest)
    with TensorRTSession(Bundle.open(root), runtime=runtime) as opened:  # type: ignore[arg-type]
        assert opened.run("decoder", decoder_inputs(511, 1), ["logits"])["logits"].shape == (1, 1, 150)
        with pytest.raises(InputError, match="509 columns of past and 4 new ones are more than the 512 that"):
            opened.run("decoder", decoder_inputs(509, 4, position_ids=np.zeros((1, 4), int)))


def without(name: str) -> dict[str, np.ndarray]:
    return {key: array for key, array in decoder_inputs().items() if key != name}


BAD: dict[str, tuple[str, dict[str, np.ndarray], str]] = {
    "no such component": ("model", decoder_inputs(), "no component 'model'; its components are vision, decoder"),
    "an input missing": ("decoder", without("position_ids"), "decoder needs the input 'position_ids'"),
    "an input too many": (
        "decoder",
        decoder_inputs(pixels=np.zeros(1)),
        "decoder has no input 'pixels'; it takes input_ids",
    ),
    "floats for ids": (
        "decoder",
        decoder_inputs(input_ids=np.ones((1, 3))),
        "'input_ids' is float64, the graph takes int64",
    ),
    "ids for floats": ("decoder", decoder_inputs(visual_memory=np.ones((1, 256, 96), int)), "the graph takes float32"),
    "too few axes": (
        "decoder",
        decoder_inputs(input_ids=np.arange(3)),
        r"the shape \[3\]; it takes \[batch, sequence\]",
    ),
    "wrong width": (
        "decoder",
        decoder_inputs(visual_memory=np.ones((1, 256, 95))),
        r"\[1, 256, 95\].* takes \[1, 256, 96\]",
    ),
    "rows that differ": (
        "decoder",
        decoder_inputs(position_ids=np.zeros((2, 3), int)),
        r"'position_ids' .* takes \[1, 3\]",
    ),
    "one cache of another length": (
        "decoder",
        decoder_inputs(4, 1, **{"past_key_values.2.value": np.zeros((1, 6, 3, 16), np.float32)}),
        r"'past_key_values.2.value' has the shape \[1, 6, 3, 16\]; beside the other inputs it takes \[1, 6, 4, 16\]",
    ),
    "a mask too short": (
        "decoder",
        decoder_inputs(4, 1, attention_mask=np.ones((1, 4), int)),
        r"'attention_mask' has the shape \[1, 4\]; .* \[1, 5\], which is \[batch, past_sequence \+ sequence\]",
    ),
}


@pytest.mark.parametrize(("component", "inputs", "message"), BAD.values(), ids=list(BAD))
def test_bad_inputs_are_named(
    session: TensorRTSession, runtime: FakeRuntime, component: str, inputs: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        session.run(component, inputs)
    assert not isinstance(caught.value, NoProfile)
    assert not any(context.runs for engine in runtime.engines.values() for context in engine.contexts)


def test_an_output_that_the_engine_does_not_have_is_refused(session: TensorRTSession) -> None:
    with pytest.raises(InputError, match="decoder has no output 'nothing'; it gives logits"):
        session.run("decoder", decoder_inputs(), ["nothing"])


def test_shapes_that_no_profile_holds_are_refused_with_the_ranges(session: TensorRTSession) -> None:
    with pytest.raises(NoProfile, match="of decoder holds these shapes") as caught:
        session.run("decoder", decoder_inputs(0, 3, rows=5))
    assert "prefill takes input_ids [1-4, 1-48], not [5, 3]" in str(caught.value)
    assert "decode takes input_ids [1-4, 1], not [5, 3]" in str(caught.value)
    with pytest.raises(NoProfile, match="decode takes input_ids") as caught:
        session.run("decoder", decoder_inputs(0, 3), profile="decode")
    assert "prefill" not in str(caught.value)


def test_a_half_engine_takes_and_gives_its_own_type(roots: Callable[[str], Path], runtime: FakeRuntime) -> None:
    with TensorRTSession(Bundle.open(roots("fp16")), runtime=runtime) as session:  # type: ignore[arg-type]
        found = session.run("decoder", decoder_inputs(2, 1))
        assert found["logits"].dtype == np.float32 and found["present.0.key"].dtype == np.float16
        assert session.run("vision", PIXELS)["visual_memory"].dtype == np.float16


def sum_entry(dtype: str, ids: str = "int64", rows: tuple[int, int] = (1, 4)) -> dict[str, Any]:
    """The entry of an engine that is to give y = x + ids for so many rows."""
    inputs: list[dict[str, Any]] = [
        {"name": "x", "dtype": dtype, "dims": ["batch", 4]},
        {"name": "ids", "dtype": ids, "dims": ["batch"]},
    ]
    low, high = ([size, 4] for size in rows)
    shapes = {"x": {"min": low, "opt": high, "max": high}, "ids": {"min": low[:1], "opt": high[:1], "max": high[:1]}}
    outputs = [{"name": "y", "dtype": dtype, "dims": ["batch", 4]}]
    return entry_of("vision", "fp32", inputs, outputs, [{"name": "default", "shapes": shapes}])


@pytest.fixture
def summing(bundle_of: Callable[[str], Path], tmp_path: Path) -> Callable[..., TensorRTSession]:
    """A session whose `vision` is an engine of its own."""

    def make(entry: dict[str, Any], runtime: FakeRuntime | None = None, **options: Any) -> TensorRTSession:
        root = Path(shutil.copytree(bundle_of("fp32"), tmp_path / "bundle"))
        enter(root, [entry], {"vision": "an engine"})
        compute = lambda feed: {"y": feed["x"] + feed["ids"][:, None].astype(feed["x"].dtype)}  # noqa: E731
        runtime = runtime or FakeRuntime(compute=compute)
        return TensorRTSession(Bundle.open(root), runtime=runtime, **options)  # type: ignore[arg-type]

    return make


def test_bfloat16_goes_in_and_comes_out(summing: Callable[..., TensorRTSession]) -> None:
    x = np.array([[1, 2, 3, 1000.5]], np.float32)
    found = summing(sum_entry("bfloat16")).run("vision", {"x": x, "ids": np.array([1])})["y"]
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found.astype(np.float32), [[2, 3, 4, 1000]])


def test_integers_are_cast_where_they_fit(summing: Callable[..., TensorRTSession]) -> None:
    session = summing(sum_entry("float32", "int32"))
    x = np.zeros((1, 4), np.float32)
    assert session.run("vision", {"x": x, "ids": np.array([7], np.int64)})["y"][0, 0] == 7
    with pytest.raises(InputError, match="'ids' has values that int32 cannot hold"):
        session.run("vision", {"x": x, "ids": np.array([1 << 32])})


def test_a_call_of_no_rows_at_all_has_addresses_too(summing: Callable[..., TensorRTSession]) -> None:
    found = summing(sum_entry("float32", rows=(0, 4))).run(
        "vision", {"x": np.zeros((0, 4), np.float32), "ids": np.zeros(0, np.int64)}
    )["y"]
    assert found.shape == (0, 4)


def test_a_component_without_an_engine_is_named(summing: Callable[..., TensorRTSession]) -> None:
    with pytest.raises(InputError, match="has no fp32 engine of 'decoder'"):
        summing(sum_entry("float32")).run("decoder", decoder_inputs())


def test_an_engine_that_is_not_what_its_entry_says_is_refused(summing: Callable[..., TensorRTSession]) -> None:
    class Other(FakeRuntime):
        def load(self, entry: Any, path: Path) -> Any:
            return super().load({**entry, **changed}, path)

    changed: dict[str, Any] = {"inputs": sum_entry("float16")["inputs"]}
    session = summing(sum_entry("float32"), Other(compute=dict))
    inputs = {"x": np.zeros((1, 4), np.float32), "ids": np.array([1])}
    with pytest.raises(InputError, match="has other inputs than its manifest says"):
        session.run("vision", inputs)
    changed = {"profiles": []}
    with pytest.raises(InputError, match="has other profiles than its manifest says"):
        session.run("vision", inputs)


def test_a_gpu_that_is_full_is_said(summing: Callable[..., TensorRTSession]) -> None:
    runtime = FakeRuntime(compute=dict, capacity=4096)
    session = summing(sum_entry("float32", rows=(1, 500)), runtime)
    with pytest.raises(EnvironmentLack, match=r"vision cannot run on 400 rows .* too little .*--batch") as caught:
        session.run("vision", {"x": np.zeros((400, 4), np.float32), "ids": np.zeros(400, np.int64)})
    assert "\n" not in str(caught.value)
    session.close()
    assert not runtime.cuda.live


def test_a_full_gpu_is_told_from_other_failures(summing: Callable[..., TensorRTSession]) -> None:
    cuda = object.__new__(Cuda)
    cuda._library = SimpleNamespace(cudaMalloc=lambda pointer, size: 2, cudaGetLastError=lambda: 2)
    with pytest.raises(EngineError, match=NO_MEMORY):
        cuda.malloc(8)
    session = summing(sum_entry("float32"), FakeRuntime(compute=broken_device))
    with pytest.raises(EnvironmentLack) as caught:
        session.run("vision", {"x": np.zeros((1, 4), np.float32), "ids": np.array([1])})
    assert str(caught.value) == "cudaStreamSynchronize failed: an illegal memory access was encountered"


def broken_device(feed: Any) -> Any:
    raise EngineError("cudaStreamSynchronize failed: an illegal memory access was encountered", "environment")


def test_a_device_that_refuses_everything_afterwards_does_not_hide_why(
    summing: Callable[..., TensorRTSession],
) -> None:
    runtime, refused = FakeRuntime(compute=broken_device), []

    def refuse(handle: int) -> None:
        refused.append(handle)
        raise EngineError("cudaFree failed: an illegal memory access was encountered", "environment")

    for call in ("free", "destroy_event", "destroy_stream"):
        setattr(runtime.cuda, call, refuse)
    with (
        pytest.raises(EnvironmentLack, match=r"^cudaStreamSynchronize failed"),
        summing(sum_entry("float32"), runtime) as session,
    ):
        session.run("vision", {"x": np.zeros((1, 4), np.float32), "ids": np.array([1])})
    # Each was tried: what one refuses another may take.
    assert sorted(refused) == sorted(runtime.cuda.live)


@pytest.mark.parametrize("runs", [0, 1])
def test_nothing_is_run_after_the_end(summing: Callable[..., TensorRTSession], runs: int) -> None:
    runtime = FakeRuntime(compute=lambda feed: {"y": feed["x"]})
    session = summing(sum_entry("float32"), runtime)
    inputs = {"x": np.zeros((1, 4), np.float32), "ids": np.array([1])}
    for _ in range(runs):
        session.run("vision", inputs)
    session.close()
    runtime.engines.clear()
    with pytest.raises(InputError, match="this session is closed: open another"):
        session.run("vision", inputs)
    session.close()
    assert not runtime.engines and not runtime.cuda.live


def test_what_tensorrt_says_is_passed_on(summing: Callable[..., TensorRTSession]) -> None:
    runtime = FakeRuntime(compute=dict)
    session = summing(sum_entry("float32"), runtime)
    inputs = {"x": np.zeros((1, 4), np.float32), "ids": np.array([1])}
    session.run("vision", inputs)
    context = runtime.engines["vision"].contexts[0]
    context.execute_async_v3 = lambda stream: False  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"engine of vision cannot be run on these inputs\. TensorRT's own words"):
        session.run("vision", inputs)


def test_a_bundle_without_such_engines_says_what_it_has(bundle_of: Callable[[str], Path], roots: Any) -> None:
    with pytest.raises(InputError, match=r"no fp32 engine; it has no engines\. .*memvp-export trt .* --fp32"):
        TensorRTSession(Bundle.open(bundle_of("fp32")), runtime=FakeRuntime())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no bf16 engine; it has engines in fp32: give --precision"):
        TensorRTSession(Bundle.open(roots("fp32")), "bf16", runtime=FakeRuntime())  # type: ignore[arg-type]


def test_of_several_engines_the_last_that_can_be_loaded_is_taken(
    bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    root = Path(shutil.copytree(bundle_of("fp32"), tmp_path / "bundle"))
    for sm in ("80", "90", "90", "120"):
        entry = sum_entry("float32")
        entry |= {"gpu": {"name": f"GPU {sm}", "sm": sm, "driver": "13.0"}}
        entry["file"] = f"engines/{sm}/{len(Bundle.open(root).manifest['engines'])}.engine"
        enter(root, [entry], {"vision": "an engine"})
    session = TensorRTSession(Bundle.open(root), runtime=FakeRuntime())  # type: ignore[arg-type]
    assert session.entries["vision"]["file"] == "engines/90/2.engine"
    hopper = HERE.gpu
    assert hopper is not None
    thor = replace(HERE, gpu=replace(hopper, name="Thor", sm="110"))
    with pytest.raises(EnvironmentLack) as caught:
        TensorRTSession(Bundle.open(root), runtime=FakeRuntime(thor))  # type: ignore[arg-type]
    assert all(f"engines/{sm}/" in str(caught.value) for sm in ("80", "90", "120"))
    assert "was built for compute capability 12.0 (GPU 120), Thor has 11.0" in str(caught.value)


def test_an_engine_whose_bytes_changed_is_not_loaded(
    bundle_of: Callable[[str], Path], summing: Callable[..., TensorRTSession], tmp_path: Path
) -> None:
    runtime = FakeRuntime()
    session = summing(sum_entry("float32"), runtime)
    file = tmp_path / "bundle" / sum_entry("float32")["file"]
    file.write_text("an engina")
    with pytest.raises(InputError, match="the engine's bytes are not those of its manifest"):
        session.run("vision", {"x": np.zeros((1, 4), np.float32), "ids": np.array([1])})
    assert not runtime.engines


def test_host_code_is_judged_by_the_engine_and_not_by_its_manifest(summing: Callable[..., TensorRTSession]) -> None:
    plugin = {"operators": ["VisualMemoryFFN"], "build_id": "a1b2c3", "sha256": "d" * 64, "embedded": True}
    runtime = FakeRuntime(compute=lambda feed: {"y": feed["x"]})
    runtime.code = False
    session = summing({**sum_entry("float32"), "plugin": plugin}, runtime)
    inputs = {"x": np.zeros((1, 4), np.float32), "ids": np.array([1])}
    with pytest.raises(EnvironmentLack, match="not only, the one installed here, whatever the manifest says"):
        session.run("vision", inputs)
    assert not runtime.engines
    runtime.code = True
    assert session.run("vision", inputs)["y"].shape == (1, 4)
