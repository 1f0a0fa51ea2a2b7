"""One message that names everything that does not fit."""

import pytest
import torch
from memvp_export.exporter.checkpoints.lazy import LazyTensor, concatenated
from memvp_export.exporter.checkpoints.matching import count_numbered, match, some
from memvp_export.exporter.errors import InputError


def lazy(*shape: int, dtype: torch.dtype = torch.float32) -> LazyTensor:
    return LazyTensor(shape, dtype, "test", lambda: torch.ones(shape, dtype=dtype))


def test_expected_order_and_ignored_names() -> None:
    found = {"rope.freqs": lazy(3), "b": lazy(2), "a": lazy(1), "x.0.inv": lazy(1)}
    matched = match(found, {"a": (1,), "b": (2,)}, "file", ["rope.*", "*.inv"])
    assert list(matched) == ["a", "b"] and matched["b"] is found["b"]


def test_every_problem_in_one_message() -> None:
    found = {"a": lazy(1), "b": lazy(2, 3), "extra": lazy(1), "c": lazy(1, dtype=torch.int8)}
    with pytest.raises(InputError) as error:
        match(found, {"a": (1,), "b": (3, 2), "c": (1,), "gone": (4,)}, "file.pth")
    text = str(error.value)
    assert text.startswith("file.pth does not hold")
    for line in (
        "missing (1): gone",
        "not expected (1): extra",
        "wrong shape (1): b is [2, 3], needs [3, 2]",
        "wrong type (1): c is torch.int8",
    ):
        assert line in text


def test_long_lists_are_cut() -> None:
    with pytest.raises(InputError, match=r"missing \(40\): k0, .*k11 and 28 more"):
        match({}, {f"k{i}": (1,) for i in range(40)}, "file")
    assert some(["a"] * 12) == ", ".join(["a"] * 12)


def test_numbered_parts() -> None:
    assert count_numbered([f"l.{i}.w" for i in range(3)], "l.") == 3
    assert count_numbered(["l.1.w", "l.1.b"], "l.") == 2
    assert count_numbered(["l.999999999.w", "l.x.w", "m.1.w"], "l.") == 0


def test_lazy_operations_run_when_loaded() -> None:
    loads: list[int] = []

    def load() -> torch.Tensor:
        loads.append(1)
        return torch.arange(6.0).reshape(2, 3)

    part = LazyTensor((2, 3), torch.float32, "test", load)
    joined = concatenated([part, part], 1).mapped((6, 2), lambda t: t.t()).reshape(12)
    assert joined.shape == (12,) and not loads
    assert torch.equal(joined.load(), torch.cat([load(), load()], 1).t().reshape(12))
