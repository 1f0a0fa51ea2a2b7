"""Engines of the odd model: real ones, built once a run by the TensorRT that needs no GPU, and a FakeRuntime's."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.engines.build import build_engines
from memvp_export.exporter.engines.request import Request

from ... import tensorrt_cpu

# The plugin library of the tests of the adapter: compiled parts are kept between runs.
from ...plugins.tensorrt.conftest import plugin_library  # noqa: F401
from .fake_bundle import with_engines
from .fake_tensorrt import FakeRuntime


@pytest.fixture(scope="session")
def tensorrt_here() -> Iterator[None]:
    """Child processes import that TensorRT; the test is skipped where it is not installed."""
    environment = tensorrt_cpu.environment()
    if environment is None:
        pytest.skip(str(tensorrt_cpu.needs_tensorrt.kwargs["reason"]))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("LD_LIBRARY_PATH", "PYTHONPATH"):
            patch.setitem(os.environ, name, environment[name])
        yield


@pytest.fixture(scope="session")
def engines_of(
    tensorrt_here: None, bundle_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Bundle]:
    """A bundle with native engines of both components in a precision. Tests must not change it: copy it."""
    made: dict[str, Path] = {}

    def make(precision: str) -> Bundle:
        if precision not in made:
            root = tmp_path_factory.mktemp("engines") / precision
            shutil.copytree(bundle_of(precision), root)
            build_engines(root, Request(target="tensorrt", max_batch=4, max_seq=64))
            made[precision] = root
        return Bundle.open(made[precision])

    return make


@pytest.fixture(scope="session")
def roots(bundle_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The odd model with engines of a precision that only a FakeRuntime can load. Tests must not change it."""
    made: dict[str, Path] = {}

    def make(precision: str) -> Path:
        if precision not in made:
            folder = tmp_path_factory.mktemp("engines")
            made[precision] = with_engines(bundle_of(precision), folder, precision)
        return made[precision]

    return make


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime()
