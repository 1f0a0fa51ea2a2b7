"""The cache grows as its kind says, and notices a decoder of another kind."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.kv_cache import KVCache


def component(kind: str = "concat", layers: int = 2, dtype: str = "graph") -> dict[str, Any]:
    names = [f"{i}.{part}" for i in range(2) for part in ("key", "value")]

    def ports(prefix: str, columns: str) -> list[dict[str, Any]]:
        return [{"name": prefix + n, "dtype": dtype, "dims": ["batch", 3, columns, 4]} for n in names]

    return {
        "inputs": [
            {"name": "input_ids", "dtype": "int64", "dims": ["batch", "sequence"]},
            *ports("past_key_values.", "p"),
        ],
        "outputs": [{"name": "logits", "dtype": "float32", "dims": ["batch", "k", 9]}, *ports("present.", "p + s")],
        "cache": {"kind": kind, "axis": 2, "layers": layers},
    }


def columns(cache: KVCache, first: int, last: int) -> dict[str, np.ndarray]:
    every = {name: np.arange(2 * 3 * 10 * 4).reshape(2, 3, 10, 4) + 1000 * i for i, name in enumerate(cache.present)}
    return {name: array[:, :, first:last].astype(np.float32) for name, array in every.items()}


def test_it_is_empty_at_first() -> None:
    cache = KVCache(component(), "fp16", 2)
    assert (cache.past[3], cache.present[3]) == ("past_key_values.1.value", "present.1.value")
    assert cache.length == 0
    assert {(a.shape, a.dtype.name) for a in cache.inputs().values()} == {((2, 3, 0, 4), "float16")}


@pytest.mark.parametrize(
    ("dtype", "precision", "found"),
    [("graph", "fp32", np.float32), ("graph", "bf16", ml_dtypes.bfloat16), ("float16", "fp32", np.float16)],
)
def test_dtypes(dtype: str, precision: str, found: Any) -> None:
    assert KVCache(component(dtype=dtype), precision, 1).inputs()["past_key_values.0.key"].dtype == found


def test_both_kinds_hold_the_same_columns() -> None:
    concat, delta = (KVCache(component(kind), "fp32", 2) for kind in ("concat", "delta"))
    for start, end in ((0, 5), (5, 6), (6, 9)):
        concat.update(columns(concat, 0, end), end - start)
        delta.update(columns(delta, start, end), end - start)
        assert concat.length == delta.length == end
        for name, array in concat.inputs().items():
            np.testing.assert_array_equal(array, delta.inputs()[name])
    assert not np.array_equal(concat.inputs()["past_key_values.0.key"], concat.inputs()["past_key_values.1.key"])


def test_rows_go_on_from_others() -> None:
    cache = KVCache(component("delta"), "fp32", 2)
    held = columns(cache, 0, 5)
    cache.update(held, 5)
    cache.reorder(np.array([1, 1]))
    for name, array in cache.inputs().items():
        np.testing.assert_array_equal(array, held[name.replace("past_key_values", "present")][[1, 1]])
    cache.update(columns(cache, 5, 6), 1)
    assert cache.length == 6


def test_a_decoder_of_the_other_kind_is_noticed() -> None:
    concat, delta = (KVCache(component(kind), "fp32", 2) for kind in ("concat", "delta"))
    for cache in (concat, delta):
        cache.update(columns(cache, 0, 5), 5)
    with pytest.raises(InputError, match="kind concat"):
        concat.update(columns(concat, 5, 6), 1)
    with pytest.raises(InputError, match="kind delta"):
        delta.update(columns(delta, 0, 6), 1)
    assert concat.length == delta.length == 5


def test_missing_and_misshaped_outputs_are_refused() -> None:
    cache = KVCache(component(), "fp32", 2)
    whole = columns(cache, 0, 5)
    with pytest.raises(InputError, match=r"present\.0\.key"):
        cache.update({name: array for name, array in whole.items() if name != "present.0.key"}, 5)
    with pytest.raises(InputError, match=r"present\.0\.key"):
        cache.update({**whole, "present.0.key": whole["present.0.key"][:1]}, 5)
    with pytest.raises(InputError, match=r"present\.1\.key came back as \[2, 3, 2, 4\] after 0 columns of past and 5"):
        cache.update({**whole, "present.1.key": whole["present.1.key"][:, :, :2]}, 5)
    assert cache.length == 0


def in_place() -> KVCache:
    described = component("in_place")
    for port in (*described["inputs"], *described["outputs"]):
        port["dims"] = [6 if dim in ("p", "p + s") else dim for dim in port["dims"]]
    described["cache"]["capacity"] = 6
    return KVCache(described, "fp32", 2)


def test_in_place_buffers_are_whole_and_their_first_columns_are_held() -> None:
    cache, grown = in_place(), KVCache(component(), "fp32", 2)
    assert {array.shape for array in cache.inputs().values()} == {(2, 3, 6, 4)}
    assert not any(array.any() for array in cache.inputs().values()), "0 times what a masked slot holds must be 0"
    for start, end in ((0, 4), (4, 5)):
        written = columns(cache, 0, 6)
        for array in written.values():
            array[:, :, end:] = -1
        cache.update(written, end - start)
        grown.update(columns(grown, 0, end), end - start)
        assert cache.length == end
        for name, array in grown.held().items():
            np.testing.assert_array_equal(array, grown.inputs()[name])
            np.testing.assert_array_equal(array, cache.held()[name])
            assert (cache.inputs()[name][:, :, end:] == -1).all()
    with pytest.raises(InputError, match=r"the cache holds 6 columns: 5 \+ 2 are more"):
        cache.update(columns(cache, 0, 6), 2)
    with pytest.raises(InputError, match="kind in_place"):
        cache.update(columns(cache, 0, 5), 1)
    assert cache.length == 5


def test_descriptions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="3 cached layers"):
        KVCache(component(layers=3), "fp32", 1)
    with pytest.raises(InputError, match="'paged' cannot be run here; it can be concat or delta or in_place"):
        KVCache(component("paged"), "fp32", 1)
    with pytest.raises(InputError, match="may be dynamic"):
        KVCache(component("in_place"), "fp32", 1)
    odd = component()
    odd["inputs"][1]["dims"][1] = "heads"
    with pytest.raises(InputError, match="may be dynamic"):
        KVCache(odd, "fp32", 1)


def test_a_single_pass_decoder_has_none() -> None:
    plain = {"inputs": component()["inputs"][:1], "outputs": component()["outputs"][:1], "cache": None}
    cache = KVCache(plain, "fp32", 1)
    assert (cache.past, cache.present, cache.inputs()) == ([], [], {})
