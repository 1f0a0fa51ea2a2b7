"""The published graphs of the odd source, read without their weights."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import onnx
import pytest

GraphOf = Callable[[str, str], onnx.ModelProto]


@pytest.fixture(scope="session")
def graph_of(bundle_of: Callable[[str], Path]) -> GraphOf:
    """The graph of (precision, component) with the types of all its values."""

    @cache
    def read(precision: str, component: str) -> onnx.ModelProto:
        file = bundle_of(precision) / "graphs" / f"{component}.onnx"
        return onnx.shape_inference.infer_shapes(onnx.load(file, load_external_data=False), strict_mode=True)

    return read
