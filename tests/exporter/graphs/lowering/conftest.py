"""The odd source's components lowered in every way, and the published and lowered graphs run on the same inputs."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.graphs.lowering import Lowered, lower

LoweredOf = Callable[..., Lowered]
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def lowered_of(bundle_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> LoweredOf:
    """lower(component, precision, **options) of the odd source's bundle; made once, not to be changed.

    Portable unless said: ONNX Runtime reads no data through links.
    """

    @cache
    def make(component: str, precision: str, **options: object) -> Lowered:
        folder = tmp_path_factory.mktemp("lowered")
        options = {"plugin": False, "portable": True, **options}
        return lower(Bundle.open(bundle_of(precision)), component, precision, folder, **options)

    return make


@pytest.fixture(scope="session")
def run() -> Callable[[Path, Arrays], Arrays]:
    """Run an ONNX file in ONNX Runtime; inputs that it does not take are left out."""

    @cache
    def session(path: Path) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def results(path: Path, inputs: Arrays) -> Arrays:
        opened = session(path)
        names = [port.name for port in opened.get_outputs()]
        feed = {port.name: inputs[port.name] for port in opened.get_inputs()}
        return dict(zip(names, opened.run(names, feed), strict=True))

    return results
