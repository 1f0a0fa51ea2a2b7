"""A call that comes again is captured once and launched from then on, with the same results; what changes ends its
graph. The fakes refuse what TensorRT leaves undefined."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memvp_export.exporter.cache import KINDS
from memvp_export.exporter.engines.session import TensorRTSession
from memvp_export.exporter.errors import EnvironmentLack, InputError
from memvp_export.exporter.kv_cache import KVCache

from ...runtime import closed_form
from .closed_form_engines import open_session
from .fake_tensorrt import FakeRuntime
from .test_device_cache import CALLS, ROWS, call, held, written

Open = Callable[..., tuple[TensorRTSession, FakeRuntime]]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    made: list[TensorRTSession] = []

    def make(kind: str = "delta", cuda_graphs: bool = True, **options: Any) -> tuple[TensorRTSession, FakeRuntime]:
        entries = closed_form.encoder_entry(), closed_form.entry(kind)
        session, runtime = open_session(tmp_path, *entries, cuda_graphs=cuda_graphs, **options)
        made.append(session)
        return session, runtime

    yield make
    for session in made:
        session.close()


def graphs_live(runtime: FakeRuntime) -> int:
    return sum(isinstance(held, list) for held in runtime.cuda.live.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_comes_again_is_captured_once(opened: Open, kind: str) -> None:
    """A step on a cache on the device, with the copies that join its columns, and then the next one."""
    (session, runtime), (plain, beside) = opened(kind), opened(kind, cuda_graphs=False)
    caches = session.cache("decoder", ROWS), plain.cache("decoder", ROWS)
    for cache, each in zip(caches, (session, plain), strict=True):
        cache.update(each.run("decoder", call(cache, CALLS[0])), 4)
    for ids in (CALLS[2], CALLS[3], CALLS[4], CALLS[2]):
        # Other ids in the same buffers are the same call.
        found, expected = (
            each.run("decoder", call(cache, ids)) for cache, each in zip(caches, (session, plain), strict=True)
        )
        np.testing.assert_array_equal(found["logits"], expected["logits"])
    assert runtime.cuda.graphs == {"captured": 1, "launched": 3}
    assert (session.replayed, plain.replayed) == ({"decoder": 3}, {"decoder": 0})
    # What a launch left is the past of the next call.
    for cache, outputs in zip(caches, (found, expected), strict=True):
        cache.update(outputs, 1)
    past, other = (held(each, cache) for each, cache in zip((runtime, beside), caches, strict=True))
    for name, array in past.items():
        np.testing.assert_array_equal(array, other[name])


@pytest.mark.parametrize("kind", KINDS)
def test_generating_is_the_same_with_graphs(opened: Open, kind: str) -> None:
    (session, runtime), (plain, _) = opened(kind), opened(kind, cuda_graphs=False)
    found, expected = (written(each, each.cache("decoder", ROWS), CALLS) for each in (session, plain))
    np.testing.assert_array_equal(found, expected)
    # Every step has other shapes than the one before.
    assert not runtime.cuda.graphs


def test_other_shapes_and_buffers_end_a_graph(opened: Open) -> None:
    session, runtime = opened("concat")
    entry = session.entries["decoder"]

    def runs(rows: int, times: int) -> None:
        feed = call(KVCache(entry, "fp32", rows), CALLS[0][:rows])
        expected = closed_form.compute(feed, "concat")
        for _ in range(times):
            np.testing.assert_array_equal(session.run("decoder", feed)["logits"], expected["logits"])

    runs(2, 3)
    assert runtime.cuda.graphs == {"captured": 1, "launched": 2} and graphs_live(runtime) == 1
    runs(3, 1)
    assert graphs_live(runtime) == 0
    # Back again it is a call like any first one.
    runs(2, 1)
    assert runtime.cuda.graphs == {"captured": 1, "launched": 2}
    runs(2, 1)
    assert runtime.cuda.graphs == {"captured": 2, "launched": 3} and graphs_live(runtime) == 1
    # The profiles are contexts of their own.
    other = KVCache(entry, "fp32", 1)
    for _ in range(2):
        session.run("decoder", call(other, CALLS[2][:1]), profile="decode")
    runs(2, 1)
    assert runtime.cuda.graphs == {"captured": 3, "launched": 5} and graphs_live(runtime) == 2
    # A larger call in the other profile moves the buffers that both have.
    session.run("decoder", call(other, CALLS[2][:1], visual_memory=np.zeros((1, 2, 2), np.float32)), profile="prefill")
    assert graphs_live(runtime) == 1


def test_buffers_that_moved_are_another_call(opened: Open) -> None:
    session, runtime = opened("concat")
    entry, cache = session.entries["decoder"], session.cache("decoder", 1)
    step = CALLS[2][:1]
    feed = call(KVCache(entry, "fp32", 1), step)
    for _ in range(3):
        expected = session.run("decoder", feed, profile="decode")["logits"]
    assert runtime.cuda.graphs["launched"] == 2
    found = session.run("decoder", call(cache, step), profile="decode")["logits"]
    np.testing.assert_array_equal(found, expected)
    assert runtime.cuda.graphs["launched"] == 2 and graphs_live(runtime) == 0


def test_presents_that_are_wanted_are_another_call(opened: Open) -> None:
    session, runtime = opened("delta")
    cache = session.cache("decoder", ROWS)
    cache.update(session.run("decoder", call(cache, CALLS[0])), 4)
    for _ in range(3):
        session.run("decoder", call(cache, CALLS[2]), ["logits"])
    assert runtime.cuda.copies == 0 and runtime.cuda.graphs == {"captured": 1, "launched": 2}
    cache.update(session.run("decoder", call(cache, CALLS[2])), 1)
    assert runtime.cuda.copies == 4 * closed_form.LAYERS and runtime.cuda.graphs["launched"] == 2


def test_each_component_has_its_own(opened: Open) -> None:
    session, runtime = opened("delta")
    ids = np.array([[5, 3]])
    text = {"input_ids": ids, "attention_mask": np.ones_like(ids), "visual_memory": np.zeros((1, 2, 2), np.float32)}
    step = call(KVCache(session.entries["decoder"], "fp32", 1), CALLS[2][:1])
    for _ in range(3):
        session.run("encoder", text)
        session.run("decoder", step)
    assert session.replayed == {"encoder": 2, "decoder": 2} and graphs_live(runtime) == 2
    session.close()
    assert not runtime.cuda.live


def test_a_session_that_is_dropped_ends_its_graphs(tmp_path: Path) -> None:
    session, runtime = open_session(tmp_path, closed_form.entry("delta"), cuda_graphs=True)
    feed = call(KVCache(session.entries["decoder"], "fp32", 1), CALLS[2][:1])
    for _ in range(2):
        session.run("decoder", feed)
    assert graphs_live(runtime) == 1
    del session
    gc.collect()
    assert not runtime.cuda.live


def test_what_cannot_be_captured_is_said(opened: Open) -> None:
    session, runtime = opened()
    feed = call(KVCache(session.entries["decoder"], "fp32", 1), CALLS[2][:1])
    session.run("decoder", feed)
    runtime.cuda.graph_fault = "cudaStreamEndCapture failed: operation not permitted"
    for _ in range(2):
        with pytest.raises(InputError) as caught:
            session.run("decoder", feed)
        assert str(caught.value) == (
            "the engine of decoder cannot be captured in a CUDA graph: cudaStreamEndCapture failed: operation not "
            "permitted. Run it without them (leave --cuda-graphs out)."
        )
    runtime.cuda.graph_fault, runtime.cuda.graph_fault_kind = "graphs need CUDA 11.4 or newer", "environment"
    with pytest.raises(EnvironmentLack, match=r"CUDA graph: graphs need CUDA 11\.4 or newer\. Run it without"):
        session.run("decoder", feed)
    runtime.cuda.graph_fault = ""
    for context in runtime.engines["decoder"].contexts:
        context.execute_async_v3 = lambda stream: False  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"in a CUDA graph: .* cannot be run on these inputs\. TensorRT's own words"):
        session.run("decoder", feed)
    assert not runtime.cuda.graphs and graphs_live(runtime) == 0
