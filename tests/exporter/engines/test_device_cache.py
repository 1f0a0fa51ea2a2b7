"""Caches and inputs that stay on the device: the same bytes as through host memory, nothing of them on the bus, and
all memory given back."""

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memvp_export.exporter.bench.inputs import feed_of
from memvp_export.exporter.bench.loads import Load
from memvp_export.exporter.cache import KINDS
from memvp_export.exporter.data import Request
from memvp_export.exporter.encoder_decoder import EncoderDecoder
from memvp_export.exporter.engines.device_cache import DeviceCache, Workspace
from memvp_export.exporter.engines.on_device import OnDevice
from memvp_export.exporter.engines.session import TensorRTSession
from memvp_export.exporter.errors import EnvironmentLack, InputError
from memvp_export.exporter.image_features import features_preprocessing
from memvp_export.exporter.kv_cache import KVCache
from memvp_export.exporter.settings import Settings

from ...runtime import closed_form
from .closed_form_engines import open_session
from .fake_tensorrt import FakeGpu, FakeRuntime

Open = Callable[..., tuple[TensorRTSession, FakeRuntime]]
ROWS = 3
# New ids of each call; before the last two, rows go on from others.
CALLS = [np.arange(12).reshape(3, 4) + 3, np.array([[5, 9], [6, 8], [7, 7]]), *np.arange(9).reshape(3, 3, 1)]
ORDERS = {3: np.array([2, 0, 0]), 4: np.array([0, 1, 1])}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    made: list[TensorRTSession] = []

    def make(kind: str = "delta", **options: Any) -> tuple[TensorRTSession, FakeRuntime]:
        session, runtime = open_session(tmp_path, closed_form.entry(kind), **options)
        made.append(session)
        return session, runtime

    yield make
    for session in made:
        session.close()


def call(cache: Any, ids: np.ndarray, **changes: Any) -> dict[str, Any]:
    rows, columns = ids.shape
    return {
        "input_ids": ids,
        "position_ids": np.tile(np.arange(cache.length, cache.length + columns), (rows, 1)),
        "attention_mask": np.ones((rows, cache.length + columns), np.int64),
        "logits_positions": np.full((rows, 1), columns - 1),
        "visual_memory": np.full((rows, 2, 2), 4, np.float32),
        **cache.inputs(),
        **changes,
    }


def written(session: TensorRTSession, cache: Any, calls: list[np.ndarray]) -> list[np.ndarray]:
    """The logits of all calls, each on the past of those before."""
    found = []
    for number, ids in enumerate(calls):
        if number in ORDERS:
            cache.reorder(ORDERS[number])
        outputs = session.run("decoder", call(cache, ids))
        cache.update(outputs, ids.shape[1])
        found.append(outputs["logits"])
    return found


def held(runtime: FakeRuntime, cache: Any) -> dict[str, np.ndarray]:
    """The columns that a cache on the device holds."""
    found = {}
    for name, tensor in cache.inputs().items():
        size = int(np.prod(tensor.shape)) * tensor.dtype.itemsize
        data = runtime.cuda.buffer(cache.addresses()[name], size)
        found[name] = np.frombuffer(data.tobytes(), tensor.dtype).reshape(tensor.shape)[:, :, : cache.length]
    return found


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_holds_what_one_in_host_memory_holds(opened: Open, kind: str, dtype: str) -> None:
    session, runtime = opened(kind, dtype=dtype)
    entry = session.entries["decoder"]
    there, here = session.cache("decoder", ROWS), KVCache(entry, "fp32", ROWS)
    found, expected = (written(session, cache, CALLS) for cache in (there, here))
    np.testing.assert_array_equal(found, expected)
    assert there.length == here.length == 9
    for name, array in held(runtime, there).items():
        assert array.dtype == dtype and array.shape == (ROWS, closed_form.HEADS, 9, closed_form.HEAD_DIM)
        assert array.tobytes() == here.held()[name].tobytes()
        # In place there is more than what is held, and nothing in it may be no number.
        whole = runtime.cuda.buffer(there.addresses()[name], here.inputs()[name].nbytes)
        assert whole.tobytes() == here.inputs()[name].tobytes()
    # What was said first is a part of the last answer.
    changed = written(session, session.cache("decoder", ROWS), [CALLS[0] + 1, *CALLS[1:]])
    assert all((a != b).any() for a, b in zip(changed, found, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_only_small_inputs_and_logits_cross_the_bus(opened: Open, kind: str) -> None:
    session, runtime = opened(kind)
    cache, constant = session.cache("decoder", ROWS), {"visual_memory": np.full((ROWS, 2, 2), 4, np.float32)}
    seen = session.keep("decoder", constant)
    assert runtime.cuda.moved == {"up": constant["visual_memory"].nbytes}
    for ids in CALLS:
        runtime.cuda.moved.clear()
        feed = call(cache, ids, **seen)
        outputs = session.run("decoder", feed)
        cache.update(outputs, ids.shape[1])
        small = [array for array in feed.values() if isinstance(array, np.ndarray)]
        assert len(small) == 4
        assert runtime.cuda.moved == {"up": sum(a.nbytes for a in small), "down": outputs["logits"].nbytes}
    assert runtime.cuda.copies == {"concat": 0, "in_place": 0, "delta": 4 * 2 * 2 * closed_form.LAYERS}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_decode_step_is_measured_with_everything_where_an_application_has_it(opened: Open, kind: str) -> None:
    session, runtime = opened(kind)
    entry, load = session.manifest["components"]["decoder"], Load("decode", "decoder", "latency", 2, 1, 9)
    feed = feed_of(session, entry, load, 4, "fp32", {"input_ids": np.arange(5)})
    assert sum(len(context.runs) for context in runtime.engines["decoder"].contexts) == 3
    results = []
    for _ in range(3):
        runtime.cuda.moved.clear()
        copies, outputs = runtime.cuda.copies, session.timed_run("decoder", feed)[0]
        # Ids, position, position asked; a mask of ten columns.
        assert runtime.cuda.moved == {"up": 2 * 8 * (3 + 10), "down": outputs["logits"].nbytes}
        assert runtime.cuda.copies - copies == (4 * closed_form.LAYERS if kind == "delta" else 0)
        results.append(outputs["logits"])
    np.testing.assert_array_equal(*results[:2])
    np.testing.assert_array_equal(*results[1:])


def test_new_columns_that_nobody_wants_are_not_joined(opened: Open) -> None:
    session, runtime = opened("delta")
    cache = session.cache("decoder", ROWS)
    cache.update(session.run("decoder", call(cache, CALLS[0])), 4)
    first = session.run("decoder", call(cache, CALLS[1]), ["logits"])["logits"]
    assert runtime.cuda.copies == 0
    # A past that no update followed is still there, and a call can be made again.
    for _ in range(2):
        np.testing.assert_array_equal(session.run("decoder", call(cache, CALLS[1]))["logits"], first)
    assert runtime.cuda.copies == 2 * 2 * 2 * closed_form.LAYERS


@pytest.mark.parametrize(("lengths", "copies"), [((8, 8), 2), ((8, 8, 1), 2 + 8), ((3, 5), 8)])
def test_tensors_without_gaps_are_joined_by_two_copies(opened: Open, lengths: tuple[int, ...], copies: int) -> None:
    session, runtime = opened("delta")
    there, here = session.cache("decoder", 4), KVCache(session.entries["decoder"], "fp32", 4)
    # Eight columns of a tensor take three times what addresses are aligned to.
    for columns in lengths:
        ids = np.arange(4 * columns).reshape(4, columns) % 13
        for cache in (there, here):
            cache.update(session.run("decoder", call(cache, ids)), columns)
    assert runtime.cuda.copies == copies
    for name, array in held(runtime, there).items():
        np.testing.assert_array_equal(array, here.held()[name])


@pytest.mark.parametrize("kind", ["concat", "delta"])
def test_layers_may_differ_in_size(kind: str) -> None:
    random, gpu = np.random.default_rng(0), FakeGpu()
    # [heads, head_dim] of keys and values; the first two are alike, and are 256 bytes a column of both rows.
    sizes = {"0.key": (4, 8), "0.value": (4, 8), "1.key": (1, 3), "1.value": (2, 8)}

    def ports(prefix: str, columns: str) -> list[dict[str, Any]]:
        return [closed_form.port(prefix + name, "float32", "batch", h, columns, d) for name, (h, d) in sizes.items()]

    entry = {
        "component": "decoder",
        "precision": "fp32",
        "inputs": ports("past_key_values.", "p"),
        "outputs": ports("present.", "s" if kind == "delta" else "p + s"),
        "cache": {"kind": kind, "axis": 2, "layers": 2, "capacity": 9},
    }
    stream = gpu.stream()
    there, here = DeviceCache(entry, 2, Workspace(gpu, stream, threading.Lock())), KVCache(entry, "fp32", 2)
    for columns, rows in ((3, [0, 1]), (1, [1, 0]), (2, [1, 1])):
        for cache in (there, here):
            cache.reorder(np.array(rows))
        past = {name.partition(".")[2]: array for name, array in here.inputs().items()}
        new = {n: random.standard_normal((2, h, columns, d)).astype(np.float32) for n, (h, d) in sizes.items()}
        given = {n: np.concatenate([past[n], a], 2) if kind == "concat" else a for n, a in new.items()}
        present = {f"present.{name}": array for name, array in given.items()}
        shapes = {name: array.shape for name, array in present.items()}
        places, copies = there.bind(shapes, columns, wanted=True)
        for name, array in present.items():
            gpu.upload(places[name], array.ctypes.data, array.nbytes, stream)
        for one in copies:
            gpu.copy_rows(*one, stream)
        there.update(there.outputs(shapes), columns)
        here.update(present, columns)
    for name, array in here.held().items():
        found = gpu.buffer(there.addresses()[name], array.nbytes)
        np.testing.assert_array_equal(np.frombuffer(found.tobytes(), np.float32).reshape(array.shape), array)


def test_rows_that_stay_are_not_copied(opened: Open) -> None:
    session, runtime = opened("delta")
    cache = session.cache("decoder", ROWS)
    cache.reorder(np.array([1, 0, 2]))
    cache.update(session.run("decoder", call(cache, CALLS[0])), 4)
    before = held(runtime, cache)
    cache.reorder(np.arange(ROWS))
    assert runtime.cuda.copies == 0
    cache.reorder(np.array([0, 0, 1]))
    # The last two are neighbours as before, and one copy is of all tensors.
    assert runtime.cuda.copies == 2
    for name, array in held(runtime, cache).items():
        np.testing.assert_array_equal(array, before[name][[0, 0, 1]])
    for rows in ([0, 0, 3], [0, -1, 1], [0, 1]):
        with pytest.raises(InputError, match="a cache of 3 rows cannot go on from its rows"):
            cache.reorder(np.array(rows))


def test_inputs_that_are_kept_serve_every_call(opened: Open) -> None:
    session, runtime = opened()
    cache = session.cache("decoder", ROWS)
    seen = session.keep("decoder", {"visual_memory": np.arange(12).reshape(3, 2, 2).astype(np.float64)})
    feed = call(cache, CALLS[0])
    told, shown = (session.run("decoder", feed | more, ["logits"])["logits"] for more in ({}, seen))
    assert (told != shown).any() and isinstance(seen["visual_memory"], OnDevice)
    as_array = {"visual_memory": np.arange(12).reshape(3, 2, 2).astype(np.float32)}
    np.testing.assert_array_equal(session.run("decoder", feed | as_array, ["logits"])["logits"], shown)
    assert session.keep("decoder", seen) == seen
    with pytest.raises(InputError, match="position_ids are looked at before each call"):
        session.keep("decoder", {"position_ids": feed["position_ids"]})
    with pytest.raises(InputError, match="decoder has no input 'pixels'"):
        session.keep("decoder", {"pixels": feed["input_ids"]})
    live = len(runtime.cuda.live)
    del seen
    assert len(runtime.cuda.live) == live - 1


def test_what_belongs_elsewhere_is_refused(opened: Open) -> None:
    session, runtime = opened()
    cache, other = (session.cache("decoder", ROWS) for _ in range(2))
    first = call(cache, CALLS[0])
    outputs = session.run("decoder", first)
    cache.update(outputs, 4)
    strange = session.run("decoder", call(other, CALLS[0]))["present.0.key"]
    ran = len(runtime.engines["decoder"].contexts[0].runs)
    past = {name: tensor for name, tensor in cache.inputs().items() if name.endswith("key")}
    for feed in (first, call(cache, CALLS[1], **KVCache(session.entries["decoder"], "fp32", ROWS).inputs()) | past):
        with pytest.raises(InputError, match="takes the whole past of one cache of its own, as that is now"):
            session.run("decoder", feed)
    with pytest.raises(InputError, match="takes the whole past of one cache"):
        session.run("decoder", call(cache, CALLS[0]) | call(other, CALLS[0]) | past)
    with pytest.raises(InputError, match="takes the whole past of one cache"):
        session.run("decoder", call(cache, CALLS[1]) | {"visual_memory": strange})
    with pytest.raises(InputError, match=r"on the device for another session, or was given back"):
        opened()[0].run("decoder", call(cache, CALLS[1]))
    assert len(runtime.engines["decoder"].contexts[0].runs) == ran
    for wrong in (outputs, session.run("decoder", call(other, CALLS[0]))):
        with pytest.raises(InputError, match=r"after 4 columns of past and 4|is not what the last call"):
            cache.update(wrong, 4)
    assert (cache.length, other.length) == (4, 0)
    cache.free()
    with pytest.raises(InputError, match="or was given back"):
        session.run("decoder", call(cache, CALLS[1]))


def test_each_call_is_taken_in_once(opened: Open) -> None:
    session, _ = opened("in_place")
    cache = session.cache("decoder", ROWS)
    first, second = (session.run("decoder", call(cache, CALLS[0])) for _ in range(2))
    with pytest.raises(InputError, match=r"present\.0\.key is not what the last call on this cache returned"):
        cache.update(first, 4)
    cache.update(second, 4)
    with pytest.raises(InputError, match="is not what the last call on this cache returned"):
        cache.update(second, 4)
    with pytest.raises(InputError, match="did not return present"):
        cache.update({}, 1)
    assert cache.length == 4


def test_an_engine_of_another_kind_is_noticed_before_it_writes(opened: Open) -> None:
    session, runtime = opened("delta")
    cache = session.cache("decoder", ROWS)
    cache.update(session.run("decoder", call(cache, CALLS[0])), 4)
    context = runtime.engines["decoder"].contexts[0]
    known = context.get_tensor_shape
    context.get_tensor_shape = lambda name: known("past_key_values.0.key" if "present" in name else name)  # type: ignore
    ran = len(context.runs)
    with pytest.raises(
        InputError, match=r"came back as \[3, 2, 4, 3\] after 4 columns of past and 2 new ones: .* delta"
    ):
        session.run("decoder", call(cache, CALLS[1]), profile="prefill")
    assert len(context.runs) == ran


def test_memory_is_given_back_with_the_cache(opened: Open) -> None:
    session, runtime = opened("delta")
    session.run("decoder", call(KVCache(session.entries["decoder"], "fp32", ROWS), CALLS[0]))
    before = set(runtime.cuda.live)
    gc.disable()
    try:
        cache = session.cache("decoder", ROWS)
        written(session, cache, CALLS)
        last = cache.inputs()
        del cache
        # What it gave holds it.
        assert len(runtime.cuda.live) == len(before) + 3
        del last
        assert set(runtime.cuda.live) == before
    finally:
        gc.enable()


def test_a_growing_cache_is_not_a_new_buffer_at_each_step(opened: Open) -> None:
    session, runtime = opened("concat")
    cache = session.cache("decoder", ROWS)
    for _ in range(30):
        cache.update(session.run("decoder", call(cache, CALLS[2])), 1)
    made = runtime.cuda.mallocs
    assert cache.length == 30 and made < 45


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_of_it_after_the_session(opened: Open, kind: str) -> None:
    session, runtime = opened(kind)
    cache = session.cache("decoder", ROWS)
    seen = session.keep("decoder", {"visual_memory": np.ones((ROWS, 2, 2), np.float32)})
    cache.update(session.run("decoder", call(cache, CALLS[0], **seen)), 4)
    session.close()
    assert not runtime.cuda.live
    with pytest.raises(InputError, match="this session is closed: open another"):
        session.run("decoder", call(cache, CALLS[1], **seen))
    with pytest.raises(InputError, match="the session of this cache is closed"):
        cache.reorder(np.array([1, 0, 0]))
    for call_again in (lambda: session.cache("decoder", 1), lambda: session.keep("decoder", {})):
        with pytest.raises(InputError, match="this session is closed"):
            call_again()
    del cache, seen
    assert not runtime.cuda.live


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_gpu_is_said_as_of_any_call(opened: Open, kind: str) -> None:
    session, runtime = opened(kind, capacity=11_000)
    cache = session.cache("decoder", ROWS)
    with pytest.raises(EnvironmentLack, match=r"decoder cannot run on 3 rows at once: .*too little .*\(--batch\)"):
        for _ in range(32):
            cache.update(session.run("decoder", call(cache, CALLS[2])), 1)
    if kind != "in_place":
        runtime.cuda.capacity = 0
        with pytest.raises(EnvironmentLack, match="decoder cannot run on 3 rows at once"):
            cache.reorder(np.array([1, 1, 1]))


def test_a_component_without_a_cache_has_an_empty_one(opened: Open, tmp_path: Path) -> None:
    session, _ = open_session(tmp_path, closed_form.encoder_entry(), closed_form.behind_entry("delta"))
    with session:
        cache = session.cache("encoder", 2)
        assert (cache.past, cache.inputs()) == ([], {})
        with pytest.raises(InputError, match="no component 'ear'"):
            session.cache("ear", 2)


class Beside:
    """A session of engines beside a `vision` that is none of them; stays: it offers what lets tensors stay there."""

    def __init__(self, engines: TensorRTSession, stays: bool) -> None:
        self._engines, self._vision = engines, closed_form.ClosedFormSession("delta", [0, 0])
        if stays:
            self.cache, self.keep = engines.cache, engines.keep

    def run(self, component: str, inputs: Any, outputs: list[str] | None = None) -> Any:
        return (self._vision if component == "vision" else self._engines).run(component, inputs, outputs)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", ["concat", "delta"])
def test_answers_behind_an_encoder_are_the_same(tmp_path: Path, kind: str, beams: int) -> None:
    entries = closed_form.encoder_entry(6), closed_form.behind_entry(kind, 6)
    session, runtime = open_session(tmp_path, *entries)
    vision = {"inputs": [{"name": "image_features"}], "ranges": {"batch": [1, 99]}}
    components = {**session.manifest["components"], "vision": vision}
    generation = {"decoder_start_token_id": 1, "max_new_tokens": 7, "no_repeat_ngram_size": 2}
    asked = [Request("a", "5 3 9 1"), Request("b", "4 4 8 1 7 20 11")]

    def answers(stays: bool) -> tuple[list[tuple[int, ...]], int]:
        runtime.cuda.moved.clear()
        parts = Beside(session, stays), closed_form.IdTokenizer(9), features_preprocessing(4, 3), components, generation
        found = EncoderDecoder(*parts).answer(asked, Settings(max_new_tokens=7, batch=2, beams=beams))  # type: ignore
        return [answer.ids for answer in found], runtime.cuda.moved["up"]

    with session:
        (there, few), (here, many) = answers(True), answers(False)
    assert there == here and min(map(len, there)) > 3
    assert 4 * few < many
