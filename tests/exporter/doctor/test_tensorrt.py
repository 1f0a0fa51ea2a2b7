"""TensorRT is tried in children: the real one without a GPU, and ones that fail in every way."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memvp_export.exporter.child_process import ChildFailed, ask_module
from memvp_export.exporter.doctor import Check, engine_trial, probes
from memvp_export.exporter.doctor import tensorrt as subject
from memvp_export.exporter.doctor.trials import Trial, memory_lookup, two_nodes

from ...plugins.fake_library import put_library
from ...tensorrt_cpu import environment, needs_tensorrt


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Let this code be the package tensorrt of all children, and let nobody have a plugin."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(subject, "find_library", lambda: None)

    def write(code: str) -> None:
        (tmp_path / "tensorrt").mkdir()
        (tmp_path / "tensorrt" / "__init__.py").write_text(code)

    return write


@pytest.fixture
def cpu_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let children have the real TensorRT that needs no GPU."""
    for name, value in (environment() or {}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(subject, "find_library", lambda: None)


def test_without_any_tensorrt_its_extras_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = ask_module(probes.__name__, "tensorrt", "a_module_that_nobody_has", "tensorrt")
    monkeypatch.setattr(subject, "ask_module", lambda *words, **options: absent)
    for check, extra in ((subject.check_tensorrt, "gpu"), (subject.check_tensorrt_rtx, "rtx")):
        (found,) = check()
        assert (found.status, found.needed) == ("missing", False)
        assert found.fix == f"pip install 'memvp-export[{extra}]'"


@needs_tensorrt
def test_the_real_one_parses_builds_and_reads_back(cpu_tensorrt: None) -> None:
    imported, builds, runs = subject.check_tensorrt()
    assert imported.status == "ok" and imported.detail.startswith("11.") and "libtensorrt_rtx" in imported.detail
    assert (builds.name, builds.status) == ("tensorrt builds", "ok") and "gemm" in builds.detail
    assert runs.status in ("missing", "ok")


@needs_tensorrt
def test_a_library_that_is_loaded_from_two_files_is_broken(
    cpu_tensorrt: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = Path((environment() or {})["LD_LIBRARY_PATH"]) / "libcudart.so.13"
    copy = tmp_path / library.name
    shutil.copyfile(library, copy)
    monkeypatch.setenv("LD_PRELOAD", f"{copy}:{library}")
    monkeypatch.setattr(engine_trial, "check_engine", lambda *words: [])
    imported, duplicate = subject.check_tensorrt()
    assert imported.status == "ok"
    assert (duplicate.name, duplicate.status) == ("tensorrt loads libcudart once", "broken")
    assert str(copy) in duplicate.detail and str(library.resolve()) in duplicate.detail and duplicate.fix


def test_wheels_over_each_other_are_broken(module: Callable[[str], None], installed: Callable[..., None]) -> None:
    module("__version__ = '10.3.0'")
    installed(tensorrt_cu12="10.3.0", tensorrt_cu13="11.4.0")
    conflict = next(check for check in subject.check_tensorrt() if check.name == "tensorrt alone")
    assert conflict.status == "broken"
    assert conflict.fix == "pip uninstall -y tensorrt-cu12 tensorrt-cu13 && pip install 'memvp-export[gpu]'"


def test_where_a_package_comes_from_is_told(module: Callable[[str], None], tmp_path: Path) -> None:
    module("__version__ = '10.3.0'")
    imported, _ = subject.check_tensorrt()
    assert imported.detail == f"10.3.0, no wheel in {tmp_path / 'tensorrt'}"
    metadata = tmp_path / "tensorrt_cu12-10.3.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorrt-cu12\nVersion: 10.3.0\n")
    (metadata / "INSTALLER").write_text("pip\n")
    imported, *_ = subject.check_tensorrt()
    assert imported.detail.startswith("10.3.0, wheel tensorrt-cu12 in ")


@pytest.mark.parametrize(
    ("code", "detail"),
    [
        ("import os; os.abort()", "crashed (SIGABRT)"),
        ("import time; time.sleep(60)", "did not answer within"),
        ("x", "NameError"),
        ("import libraries_that_are_absent", "libraries_that_are_absent"),
        ("__version__ = '8.6.1'", "tensorrt 8.6.1 is"),
        ("import os; print('no object', flush=True); os._exit(0)", "no answer that can be read: 'no object'"),
    ],
)
def test_one_that_cannot_be_imported_is_broken(
    module: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, code: str, detail: str
) -> None:
    module(code)
    monkeypatch.setattr(engine_trial, "TIMEOUT_S", 1.0 if "sleep" in code else 60.0)
    (check,) = subject.check_tensorrt()
    assert (check.name, check.status, check.needed) == ("tensorrt", "broken", False)
    assert detail in check.detail and check.fix


_IMPORTED = """
__version__ = "10.3.0"
class ILogger:
    Severity = type("Severity", (), dict(ERROR=1, INTERNAL_ERROR=0))
    def __init__(self): pass
def Builder(logger):
"""


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ("import os; os.kill(os.getpid(), 11)", "crashed (SIGSEGV)"),
        ("import time; time.sleep(60)", "did not answer within"),
        ("raise TypeError('factory function returned nullptr')", "it needs an NVIDIA GPU and"),
        ('import os; print(\'{"record": "/no/record"}\', flush=True); os._exit(0)', "record of the engine"),
    ],
)
def test_one_that_cannot_build_is_broken(
    module: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, body: str, detail: str
) -> None:
    module(f"{_IMPORTED}    {body}")
    monkeypatch.setattr(engine_trial, "TIMEOUT_S", 5.0 if "sleep" in body else 60.0)
    imported, builds = subject.check_tensorrt()
    assert imported.status == "ok"
    assert (builds.name, builds.status, builds.needed) == ("tensorrt builds", "broken", False)
    assert detail in builds.detail and builds.fix


@needs_tensorrt
def test_a_library_without_the_plugin_is_broken(cpu_tensorrt: None, tmp_path: Path) -> None:
    library = put_library(tmp_path / "foreign.so", "another_function")
    (check,) = engine_trial.check_engine("plugin in tensorrt", "tensorrt", memory_lookup(), library, "build it")
    assert (check.status, check.fix) == ("broken", "build it") and "VisualMemoryFFN" in check.detail


@needs_tensorrt
@pytest.mark.slow
def test_the_plugin_is_built_into_an_engine(
    cpu_tensorrt: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from memvp_export.exporter.errors import EnvironmentLack
    from memvp_export.plugins.build import build_plugin

    try:
        library = build_plugin(tmp_path / "plugins.so", archs=["90"]).path
    except EnvironmentLack as lack:
        pytest.skip(f"the plugin cannot be compiled here: {str(lack).splitlines()[0]}")
    monkeypatch.setattr(subject, "find_library", lambda: library)
    named = {check.name: check for check in subject.check_tensorrt()}
    assert named["plugin in tensorrt builds"].status == "ok"
    assert "custom_layer" in named["plugin in tensorrt builds"].detail


class Gpu:
    """build_engine on a machine with a GPU: writes a record, and what the engine gives."""

    def __init__(self, output: np.ndarray, dtype: str = "float32") -> None:
        self.output, self.dtype = output, dtype

    def __call__(self, name: str, *words: str, timeout: float) -> dict[str, Any]:
        options: Sequence[str] = words[2:]
        if words[0] == "run":
            given = dict(zip(options[::2], options[1::2], strict=True))
            x = np.load(Path(given["--inputs"]) / "x.npy")
            assert given["--module"] == "tensorrt" and x.tolist() == [[1, -2]]
            Path(given["--outputs"]).mkdir()
            np.save(Path(given["--outputs"]) / "y.npy", self.output)
            return {"profile": 0, "milliseconds": 0.25}
        recipe = json.loads(Path(words[1]).read_text())
        operands = [{"name": name, "dtype": self.dtype, "dims": [2, 2]} for name in "xwy"]
        product = {"name": "h", "type": "gemm", "onnx": [], "matrix": True, "plugin": False}
        product |= {"inputs": operands[:1], "constants": operands[1:2], "outputs": operands[2:]}
        ports = {kind: [{**port, "dims": [-1, 2]} for port in recipe[kind]] for kind in ("inputs", "outputs")}
        record = {"layers": [product], "plugin_layers": 0, "network_plugin_layers": 0, **ports}
        record |= {"profiles": recipe["profiles"], "gpu": {"name": "a GPU", "sm": "90", "driver": "13.0"}}
        path = Path(words[1]).parent / recipe["record"]
        path.write_text(json.dumps(record))
        return {"record": str(path)}


def on_gpu(monkeypatch: pytest.MonkeyPatch, output: Sequence[Sequence[float]], **options: str) -> list[Check]:
    monkeypatch.setattr(engine_trial, "ask_module", Gpu(np.array(output, np.float32), **options))
    return engine_trial.check_engine("it", "tensorrt", two_nodes(), None, "do this")


def test_numbers_are_compared_where_a_gpu_is(monkeypatch: pytest.MonkeyPatch) -> None:
    builds, runs = on_gpu(monkeypatch, [[2.0, 0.0]])
    assert (builds.status, runs.status) == ("ok", "ok") and "0.25 ms" in runs.detail
    builds, runs = on_gpu(monkeypatch, [[2.1, 0.0]])
    assert (builds.status, runs.status, runs.fix) == ("ok", "broken", "do this")
    assert runs.detail.endswith("in place of [[2.0, 0.0]]")
    assert on_gpu(monkeypatch, [[2.0], [0.0]])[-1].status == "broken"


def test_an_engine_of_another_type_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    (builds,) = on_gpu(monkeypatch, [[2.0, 0.0]], dtype="float16")
    assert builds.status == "broken" and "fp32 was asked for" in builds.detail


def test_an_engine_that_does_not_run_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Crashing(Gpu):
        def __call__(self, name: str, *words: str, timeout: float) -> dict[str, Any]:
            if words[0] == "run":
                raise ChildFailed("crashed (SIGSEGV)")
            return super().__call__(name, *words, timeout=timeout)

    monkeypatch.setattr(engine_trial, "ask_module", Crashing(np.zeros((1, 2), np.float32)))
    builds, runs = engine_trial.check_engine("it", "tensorrt", two_nodes(), None, "do this")
    assert (builds.status, runs.status, runs.detail) == ("ok", "broken", "crashed (SIGSEGV)")


def test_trials_state_what_their_graphs_give() -> None:
    import onnxruntime

    trial = two_nodes()
    session = onnxruntime.InferenceSession(trial.model, providers=["CPUExecutionProvider"])
    assert session.run(None, dict(trial.inputs))[0].tolist() == trial.output.tolist()
    memory: Trial = memory_lookup()
    # A plugin that only passed the additive base on would be seen.
    assert np.abs(memory.output - memory.inputs["ffn"]).max() > 100 * engine_trial._TOLERANCE
