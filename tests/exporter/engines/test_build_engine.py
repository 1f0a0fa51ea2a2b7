"""The builder that stands alone: what it needs, what it writes, and what it says of bad input."""

import ast
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.engines import build_engine
from memvp_export.exporter.engines.build_failure import build_failure
from memvp_export.exporter.engines.child import build_in_child
from memvp_export.exporter.engines.readback import verdict
from memvp_export.exporter.engines.targets import TARGETS
from memvp_export.exporter.engines.tensorrt_module import MODULES
from memvp_export.exporter.errors import EnvironmentLack, InputError, VerdictError
from memvp_export.exporter.graphs.lowering import lower
from onnx import TensorProto, helper, numpy_helper

from ... import tensorrt_cpu

FOLDER = Path(build_engine.__file__).parent
TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}
NAMES = {"fp32": "float32", "fp16": "float16"}


def write_graph(path: Path, precision: str, extra: Sequence[onnx.NodeProto] = (), output: str = "y") -> None:
    """y = x @ w, with the weights in a file beside it; x and y [rows,8] and [rows,4]."""
    ports = [
        helper.make_tensor_value_info(name, TYPES[precision], ["rows", width])
        for name, width in (("x", 8), (output, 4))
    ]
    weights = numpy_helper.from_array(np.ones((8, 4), NAMES[precision]), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "layer/MatMul"), *extra]
    graph = helper.make_graph(nodes, "small", ports[:1], ports[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)


def write_recipe(folder: Path, precision: str = "fp32", built: str | None = None, **changes: Any) -> Path:
    """A recipe for that graph; `built` is the precision of the graph where that is another."""
    folder.mkdir(exist_ok=True)
    write_graph(folder / "small.onnx", built or precision, changes.pop("extra", ()), changes.pop("output", "y"))
    dtype = NAMES[precision]
    recipe = {
        "schema": 1,
        "component": "small",
        "onnx": "small.onnx",
        "engine": "small.engine",
        "record": "small.json",
        "target": "tensorrt",
        "precision": precision,
        "lowering": "native",
        "memory_sites": 0,
        "inputs": [{"name": "x", "dtype": dtype, "dims": ["rows", 8]}],
        "outputs": [{"name": "y", "dtype": dtype, "dims": ["rows", 4]}],
        "ranges": {"rows": [1, 8]},
        "cache": None,
        "profiles": [{"name": "default", "shapes": {"x": {"min": [1, 8], "opt": [4, 8], "max": [8, 8]}}}],
        "workspace": None,
        "builder_effort": None,
        "timing_cache": None,
        "plugin": None,
        **changes,
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return folder / "recipe.json"


def built(recipe: Path) -> dict[str, Any]:
    return json.loads(build_in_child(recipe, 100, lambda done: None).read_text())


def test_its_files_are_python_3_8_and_need_only_one_another() -> None:
    own = {Path(name).stem for name in build_engine.PARTS}
    for name in build_engine.PARTS:
        tree = ast.parse((FOLDER / name).read_text(), feature_version=(3, 8))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= sys.stdlib_module_names, name
            if isinstance(node, ast.ImportFrom):
                known = own if node.level else sys.stdlib_module_names
                assert node.module and node.module.split(".")[0] in known and node.level <= 1, name
        # Annotations are text there; anywhere else `X | Y` of types would be evaluated.
        assert "from __future__ import annotations" in (FOLDER / name).read_text()


@pytest.mark.parametrize("python", [sys.executable, "python3.8"])
def test_it_runs_from_its_files_alone(python: str, tmp_path: Path) -> None:
    (tmp_path / "memvp_engine").mkdir()
    for name in build_engine.PARTS:
        shutil.copy(FOLDER / name, tmp_path / "memvp_engine" / name)
    # -S: no installed package is found.
    words = [python, "-S", "-m", "memvp_engine.build_engine", "info"]
    if shutil.which(python) is None or subprocess.run([python, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"there is no {python} here")
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert "pip install 'memvp-export[rtx]'" in said["tensorrt_rtx"] and "gpu" in said


def test_targets_are_those_of_the_tool() -> None:
    assert {name: target.module for name, target in TARGETS.items()} == {
        name: held[0] for name, held in MODULES.items()
    }


def test_without_tensorrt_it_ends_with_3_and_the_command_that_installs_it(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    command = [sys.executable, "-m", build_engine.__name__, "build", str(recipe)]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": ""})
    said = json.loads(done.stdout.splitlines()[-1])
    if "cannot be loaded" not in said.get("error", ""):
        pytest.skip("TensorRT is installed here")
    assert done.returncode == 3 and said["kind"] == "environment" and "memvp-export[gpu]" in said["error"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no recipe that can be read"),
        ("[1]", "no recipe that can be read"),
        ('{"schema": 2, "target": "tensorrt"}', "has schema 2"),
        ('{"schema": 1, "target": "tensorrt-9"}', "target 'tensorrt-9'; here are tensorrt, tensorrt-rtx, tensorrt-8"),
    ],
)
def test_recipes_that_cannot_be_used_are_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(InputError) as failure:
        build_in_child(tmp_path / "recipe.json", 1, lambda done: None)
    assert words in str(failure.value)


@pytest.mark.parametrize(("key", "held", "lacks"), [("cache", {}, "kind"), ("plugin", {"operators": []}, "library")])
def test_a_recipe_that_lacks_something_is_bad_input(
    key: str, held: dict[str, Any], lacks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").write_text(
        "__version__ = '11.4.0'\nclass ILogger:\n    def __init__(self): pass\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    content = json.loads(write_recipe(tmp_path / "work").read_text())
    recipe = tmp_path / "work" / "recipe.json"
    for changed, missing in (({**content, key: {"axis": 2, **held}}, lacks), (content, key)):
        if missing == key:
            del changed[key]
        recipe.write_text(json.dumps(changed))
        with pytest.raises(InputError, match=rf"recipe\.json is damaged: '{missing}' is missing"):
            built(recipe)


def test_a_tensorrt_without_caches_in_place_says_which_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = SimpleNamespace(__name__="tensorrt", __version__="10.13.3", LayerType=SimpleNamespace())
    monkeypatch.setattr(build_engine, "import_tensorrt", lambda *names: module)
    cache = {"kind": "in_place", "axis": 2, "layers": 1, "capacity": 8}
    with pytest.raises(
        build_engine.EngineError, match=r"10\.13\.3 .* takes TensorRT 10\.15 .* --cache delta"
    ) as failure:
        build_engine.build(write_recipe(tmp_path, cache=cache))
    assert failure.value.kind == "environment"


@tensorrt_cpu.needs_tensorrt
def test_a_cache_that_was_not_written_in_place_is_a_failure(tensorrt_here: None, tmp_path: Path) -> None:
    cache = {"kind": "in_place", "axis": 2, "layers": 1, "capacity": 8}
    with pytest.raises(VerdictError, match="was to write 2 caches in place; TensorRT made 0 of its graph"):
        build_in_child(write_recipe(tmp_path, cache=cache), 1, lambda done: None)
    assert not (tmp_path / "small.engine").exists()


@pytest.mark.parametrize(
    ("said", "kind", "advice"),
    [
        ("Error Code 1: Cuda Runtime (out of memory)", "environment", "--max-batch"),
        ("Error Code 2: OutOfMemory (Requested size was 9 bytes.)", "environment", "--workspace"),
        (
            "Could not find any implementation for node a due to insufficient workspace.",
            "environment",
            "its kernels need more memory to work in",
        ),
        ("Target GPU SM 61 is not supported by this TensorRT release.", "environment", "another GPU"),
        ("API Usage Error (Cannot find plugin: VisualMemoryFFN)", "environment", "memvp-export plugin build"),
        ("x: optimization profile is missing values", "input", "--opt-shapes"),
        ("Assertion n < 3 failed", "verdict", "TensorRT says: Assertion n < 3 failed"),
    ],
)
def test_what_tensorrt_says_of_a_failed_build_comes_with_what_to_do(said: str, kind: str, advice: str) -> None:
    module = SimpleNamespace(__name__="tensorrt", __version__="10.3.0")
    failure = build_failure(module, "decoder", ["an earlier one", said])
    assert failure.kind == kind and advice in str(failure) and said in str(failure)
    assert str(failure).startswith("tensorrt 10.3.0 could not build decoder")


def test_a_workspace_that_was_asked_for_is_what_is_too_small() -> None:
    module = SimpleNamespace(__name__="tensorrt", __version__="11.4.0")
    said = ["Myelin (no tactics to implement the operation within workspace limit. Consider increase the allowed size)"]
    found = [build_failure(module, "vision", said, workspace) for workspace in (4096, None)]
    assert [failure.kind for failure in found] == ["input", "environment"]
    assert "workspace of 4096 bytes: give --workspace more" in str(found[0]) and "--workspace" not in str(found[1])
    other = build_failure(module, "vision", ["out of memory"], 4096)
    assert other.kind == "environment" and "too little memory" in str(other)


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", EnvironmentLack, ("too little memory", "--max-batch", "--lower-only")),
        ("print('a log', file=sys.stderr); os.abort()", VerdictError, ("TensorRT crashed (SIGABRT)", "a log")),
    ],
    ids=["killed", "crashed"],
)
def test_an_end_without_an_answer_is_a_message(
    code: str, kind: type[Exception], words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").write_text(f"import os, signal, sys\n{code}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(kind) as failure:
        built(write_recipe(tmp_path / "work"))
    assert all(word in str(failure.value) for word in words)


@pytest.mark.usefixtures("tensorrt_here")
class TestBuilds:
    def test_the_record_says_what_was_built(self, tmp_path: Path) -> None:
        recipe = write_recipe(tmp_path, "fp16")
        steps: list[int] = []
        record = json.loads(build_in_child(recipe, 1000, steps.append).read_text())
        assert sum(steps) == 1000 and min(steps) >= 0 and len(steps) > 3
        engine = (tmp_path / "small.engine").read_bytes()
        digest = hashlib.sha256(engine).hexdigest()
        assert record["engine"] == {"file": "small.engine", "size": len(engine), "sha256": digest}
        assert record["recipe_sha256"] == hashlib.sha256(recipe.read_bytes()).hexdigest()
        assert record["inputs"] == [{"name": "x", "dtype": "float16", "dims": [-1, 8]}]
        assert record["outputs"] == [{"name": "y", "dtype": "float16", "dims": [-1, 4]}]
        assert record["profiles"] == json.loads(recipe.read_text())["profiles"]
        (product,) = [layer for layer in record["layers"] if layer["matrix"]]
        assert product["onnx"] == ["layer/MatMul"]
        assert [part["dims"] for part in product["constants"] if len(part["dims"]) > 1] == [[8, 4]]
        assert record["flavor"] == "tensorrt-rtx" and record["read_from"] == "log" and record["gpu"] is None
        assert verdict(json.loads(recipe.read_text()), record) == []
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            *("recipe.json", "small.engine", "small.json", "small.onnx", "small.onnx.data"),
        ]

    def test_another_precision_than_asked_for_is_found_in_the_engine(self, tmp_path: Path) -> None:
        recipe = write_recipe(tmp_path, "fp16", built="fp32")
        failures = verdict(json.loads(recipe.read_text()), built(recipe))
        assert any("fp16 was asked for, and 0% of the weights" in failure for failure in failures)
        assert any("x is float32 in the engine, float16 was asked for" in failure for failure in failures)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            (
                {"extra": [helper.make_node("Frobnicate", ["y"], ["z"], "odd/Frobnicate")], "output": "z"},
                "odd/Frobnicate (Frobnicate)",
            ),
            ({"profiles": [{"name": "p", "shapes": {}}]}, "profile p and the graph do not have the same inputs: x"),
            (
                {"profiles": [{"name": "p", "shapes": {"x": {"min": [4, 8], "opt": [1, 8], "max": [8, 8]}}}]},
                "--min-shapes",
            ),
            ({"timing_cache": "cache"}, "has no timing cache"),
            ({"onnx": "other.onnx"}, "other.onnx does not exist"),
        ],
    )
    def test_bad_input_is_named(self, changes: dict[str, Any], words: str, tmp_path: Path) -> None:
        recipe = write_recipe(tmp_path, **changes)
        with pytest.raises(InputError) as failure:
            built(recipe)
        assert words in str(failure.value)
        assert not (tmp_path / "small.engine").exists() and not (tmp_path / "small.json").exists()

    @pytest.mark.parametrize("file", ["small.onnx", "small.onnx.data"])
    def test_damaged_graphs_are_refused(self, file: str, tmp_path: Path) -> None:
        recipe = write_recipe(tmp_path)
        path = tmp_path / file
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(InputError, match=r"cannot take .*small\.onnx"):
            built(recipe)

    def test_a_failed_build_leaves_the_old_engine_alone(self, tmp_path: Path) -> None:
        recipe = write_recipe(tmp_path)
        built(recipe)
        before = {path.name: path.read_bytes() for path in tmp_path.glob("small.[ej]*")}
        recipe.write_text(
            recipe.read_text().replace('"memory_sites": 0, ', '"memory_sites": 0, "lowering": "plugin", ')
        )
        recipe.write_text(recipe.read_text().replace('"small.onnx"', '"gone.onnx"'))
        with pytest.raises(InputError):
            built(recipe)
        assert {path.name: path.read_bytes() for path in tmp_path.glob("small.[ej]*")} == before

    def test_workspace_and_effort_are_taken(self, tmp_path: Path) -> None:
        assert built(write_recipe(tmp_path, workspace=1 << 24, builder_effort=1))["layers"]

    def test_what_it_was_built_with_is_gone_before_it_is_read_back(self, tmp_path: Path) -> None:
        """On a GPU the weights are loaded then: there must not be others of them."""
        script = Path(__file__).with_name("held_at_read_back.py")
        assert json.loads(tensorrt_cpu.run(script, write_recipe(tmp_path)).splitlines()[-1]) == {
            "held": [],
            "watched": ["builder", "network", "plan"],
        }

    @pytest.mark.parametrize("version", ["8.6.1", "10.2.0", "12.0.1"])
    def test_another_tensorrt_is_refused(self, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "tensorrt").mkdir()
        (tmp_path / "tensorrt" / "__init__.py").write_text(f"__version__ = '{version}'\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        with pytest.raises(
            EnvironmentLack, match=rf"tensorrt {version} is not known to work: from 10\.3 to below 12\.0"
        ):
            built(write_recipe(tmp_path / "work"))

    def test_the_plugins_way_through_parser_and_builder(self, bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
        """With a stand-in in Python for the library, so that it is tested where that cannot be compiled."""
        recipe = lowered_recipe(Bundle.open(bundle_of("fp16")), tmp_path, plugin=True)
        assert stand_in(recipe) == {
            "plugin": {"operators": ["VisualMemoryFFN"], "embedded": False, "sha256": None, "build_id": None},
            "plugin_layers": 3,
            "network_plugin_layers": 3,
        }
        for lowering, sites, asked in (("native", 3, "0 plugin layers"), ("plugin", 4, "4 plugin layers")):
            changed = json.loads(recipe.read_text()) | {"lowering": lowering, "memory_sites": sites}
            recipe.write_text(json.dumps(changed))
            said = stand_in(recipe)
            assert said["kind"] == "verdict" and asked in said["error"] and "TensorRT made 3" in said["error"]

    def test_a_graph_for_the_plugin_does_not_build_without_it(
        self, bundle_of: Callable[[str], Path], tmp_path: Path
    ) -> None:
        recipe = lowered_recipe(Bundle.open(bundle_of("fp16")), tmp_path, plugin=True)
        with pytest.raises(EnvironmentLack, match=r"no creator of VisualMemoryFFN.*memvp-export plugin build"):
            built(recipe)
        recipe.write_text(json.dumps(json.loads(recipe.read_text()) | {"plugin": None}))
        with pytest.raises(InputError, match=r"layers\.0\.mlp\.down_proj/VisualMemoryFFN \(VisualMemoryFFN\)"):
            built(recipe)


def lowered_recipe(bundle: Bundle, folder: Path, plugin: bool) -> Path:
    """A recipe of the decoder in its smallest shapes, whose plugin is whatever the process registered."""
    lowered = lower(bundle, "decoder", "fp16", folder, plugin=plugin)
    lengths = {"batch": 2, "sequence": 3, "past_sequence": 4, "positions": 1}
    shapes = {
        port["name"]: [
            dim if isinstance(dim, int) else sum(lengths[part] for part in dim.split(" + ")) for dim in port["dims"]
        ]
        for port in lowered.inputs
    }
    recipe = write_recipe(
        folder,
        "fp16",
        component="decoder",
        onnx=lowered.path.name,
        lowering=lowered.lowering,
        memory_sites=lowered.memory_sites,
        inputs=lowered.inputs,
        outputs=lowered.outputs,
        cache=lowered.cache,
        profiles=[
            {"name": "one", "shapes": {name: dict.fromkeys(("min", "opt", "max"), s) for name, s in shapes.items()}}
        ],
        plugin={"library": None, "sha256": None, "build_id": None, "operators": ["VisualMemoryFFN"], "embed": False},
    )
    return recipe


def stand_in(recipe: Path) -> dict[str, Any]:
    return json.loads(tensorrt_cpu.run(Path(__file__).with_name("stand_in.py"), recipe).splitlines()[-1])
