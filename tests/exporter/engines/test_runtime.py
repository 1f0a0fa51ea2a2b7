"""What the preflight is told of this machine is what the machine says; engines get the plugin they were built with."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from memvp_export.exporter.engines import runtime as module
from memvp_export.exporter.engines.engine_error import EngineError
from memvp_export.exporter.engines.preflight import Environment, Gpu, InstalledPlugin
from memvp_export.exporter.engines.runtime import Runtime, process_runtime
from memvp_export.exporter.errors import EnvironmentLack
from memvp_export.plugins import loader
from memvp_export.plugins.loader import PluginInfo

TRT = SimpleNamespace(__name__="tensorrt", __version__="10.13.3.9")
PLUGIN = PluginInfo(
    path=Path("libmemvp_plugins.so"),
    sha256="d" * 64,
    operators=("VisualMemoryFFN",),
    version="1",
    schema=1,
    types=("float16",),
    archs=("90",),
    ptx=(),
    build_id="a1b2c3",
    headers_version="10.0.0",
    cuda_version="13.0",
)


class Gpu90:
    """The part of Cuda that describes a GPU."""

    free = 5 << 30

    @staticmethod
    def available() -> None:
        return None

    def device(self) -> dict[str, Any]:
        return {"name": "NVIDIA H200", "sm": "90", "driver": "13.0", "runtime": "12.8", "memory": 9 << 30, "l2": 1}

    def memory(self) -> tuple[int, int]:
        return self.free, 9 << 30


NATIVE: dict[str, Any] = {"target": "tensorrt", "plugin": None}
PLUGGED: dict[str, Any] = {"target": "tensorrt", "plugin": {"operators": ["VisualMemoryFFN"], "embedded": False}}
EMBEDDED: dict[str, Any] = {"target": "tensorrt", "plugin": {"operators": ["VisualMemoryFFN"], "embedded": True}}


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A file in the place of the plugin library."""
    (tmp_path / "libmemvp_plugins.so").write_bytes(b"a library")
    return tmp_path / "libmemvp_plugins.so"


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch, library: Path) -> None:
    """A machine with TensorRT, a GPU and the plugin."""
    monkeypatch.setattr(module, "import_tensorrt", lambda name: {"tensorrt": TRT}[name])
    monkeypatch.setattr(module, "flavor", lambda trt: "tensorrt")
    monkeypatch.setattr(module, "Cuda", Gpu90)
    monkeypatch.setattr(module, "find_library", lambda: library)
    monkeypatch.setattr(module, "library_info", lambda path: PLUGIN)


@pytest.mark.usefixtures("whole")
def test_the_environment_is_what_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime()
    gpu = Gpu("NVIDIA H200", "90", "13.0", "12.8", 9 << 30, 5 << 30)
    plugin = InstalledPlugin("a1b2c3", "d" * 64, ["VisualMemoryFFN"], True)
    assert runtime.environment(PLUGGED) == Environment("10.13.3.9", "tensorrt", gpu, "", plugin)
    assert runtime.environment(NATIVE) == Environment("10.13.3.9", "tensorrt", gpu, "", None)
    monkeypatch.setattr(Gpu90, "free", 1)
    later = runtime.environment(NATIVE).gpu
    assert later is not None and later.free == 1
    monkeypatch.setattr(module, "find_library", lambda: None)
    assert runtime.environment(PLUGGED).plugin is None and runtime.environment(PLUGGED).why_no_plugin == ""


@pytest.mark.usefixtures("whole")
def test_a_library_is_asked_again_only_when_it_changed(monkeypatch: pytest.MonkeyPatch, library: Path) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(module, "library_info", lambda path: asked.append(path) or replace(PLUGIN, archs=("80",)))
    for _ in range(3):
        plugin = Runtime().environment(PLUGGED).plugin
        assert plugin is not None and not plugin.runs_here
    assert asked == [library]
    os.utime(library, ns=(1, 1))
    Runtime().environment(PLUGGED)
    assert asked == [library] * 2


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("named", ["gone.so", "text.so"])
def test_a_bad_library_concerns_no_native_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str) -> None:
    (tmp_path / "text.so").write_text("not a library")
    monkeypatch.setenv("MEMVP_PLUGIN", str(tmp_path / named))
    monkeypatch.setattr(module, "find_library", loader.find_library)
    monkeypatch.setattr(module, "library_info", loader.library_info)
    native, plugged = (Runtime().environment(entry) for entry in (NATIVE, PLUGGED))
    assert native.tensorrt == plugged.tensorrt == "10.13.3.9" and not native.why_no_plugin
    assert plugged.plugin is None and named in plugged.why_no_plugin
    assert Runtime().known_code(EMBEDDED, tmp_path / "text.so") is False


@pytest.mark.usefixtures("whole")
def test_host_code_is_looked_for_in_the_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, library: Path) -> None:
    monkeypatch.setattr(module, "holds_only", lambda engine, code: (engine.name, code) == ("a.engine", library))
    assert Runtime().known_code(EMBEDDED, tmp_path / "a.engine") is True
    assert Runtime().known_code(EMBEDDED, tmp_path / "b.engine") is False
    assert Runtime().known_code(PLUGGED, tmp_path / "a.engine") is None
    monkeypatch.setattr(module, "find_library", lambda: None)
    assert Runtime().known_code(EMBEDDED, tmp_path / "a.engine") is False


def test_a_bare_machine_is_described_and_refuses_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoGpu:
        def __init__(self) -> None:
            raise EngineError("no driver.", "environment")

        @staticmethod
        def available() -> str:
            return "no driver."

    monkeypatch.setattr(module, "Cuda", NoGpu)
    monkeypatch.setattr(module, "find_library", lambda: None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    entry = {"target": "tensorrt-rtx", "plugin": None}
    assert Runtime().environment(entry) == Environment(None, "tensorrt-rtx", None, "no driver.", None)
    with pytest.raises(EnvironmentLack, match="no driver"):
        _ = Runtime().cuda
    with pytest.raises(EnvironmentLack, match="pip install 'memvp-export"):
        Runtime().load(entry, Path("decoder.engine"))


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize(
    ("plugin", "loaded", "host_code"),
    [
        (None, [], False),
        ({"operators": ["VisualMemoryFFN"], "embedded": False}, ["VisualMemoryFFN"], False),
        ({"operators": ["VisualMemoryFFN"], "embedded": True}, [], True),
    ],
    ids=["native", "plugin", "embedded plugin"],
)
def test_an_engine_gets_its_plugin_and_no_more(
    monkeypatch: pytest.MonkeyPatch, plugin: Any, loaded: list[str], host_code: bool
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(module, "load_plugin", lambda trt, library, operators: seen.extend(operators))
    monkeypatch.setattr(module, "load_engine", lambda trt, path, host_code: (path, host_code))
    found = Runtime().load({"target": "tensorrt", "plugin": plugin}, Path("decoder.engine"))
    assert found == (TRT, (Path("decoder.engine"), host_code)) and seen == loaded


def test_there_is_one_runtime_in_a_process() -> None:
    assert process_runtime() is process_runtime()
