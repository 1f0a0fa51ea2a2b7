"""Engines are described by their record, and by themselves where it is lost and a GPU is there."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from memvp_export.exporter.bundle import Bundle, change, new_bundle
from memvp_export.exporter.child_process import ChildFailed
from memvp_export.exporter.doctor.trials import two_nodes
from memvp_export.exporter.engines import build_engine, entering
from memvp_export.exporter.engines.entering import Built, enter
from memvp_export.exporter.engines.source_graph import graph_digests
from memvp_export.exporter.errors import EnvironmentLack, InputError
from memvp_export.exporter.inspection import engine_report
from memvp_export.exporter.inspection.path_report import inspect_path
from memvp_export.exporter.inspection.render import print_report

from ..tensorrt_cpu import environment, needs_tensorrt

NAME = "decoder.fp16.plugin"
ENGINE = b"vtrt" + b" but not a real engine" * 3
PAST, PRESENT = "past_key_values.0.key", "present.0.key"


def tensor(name: str, dtype: str, *dims: int | str) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "dims": list(dims)}


def layer(name: str, kind: str, dtype: str, constants: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    tensors = {"inputs": [tensor("x", dtype, 1, 8)], "constants": constants, "outputs": [tensor("y", dtype, 1, 8)]}
    return {"name": name, "type": kind, **tensors, "onnx": [], "matrix": False, "plugin": False, **more}


LAYERS = [
    layer("projection", "gemm", "float16", [tensor("w", "float16", 8, 16)], matrix=True),
    layer("score", "gemm", "float32", [tensor("k", "float32", 4, 8)], matrix=True),
    layer("mask", "kgen", "bool", []),
    layer("lookup", "PluginV3", "float16", [], plugin=True, onnx=["layer.0/VisualMemoryFFN"]),
]
STEP = [
    layer("projection [profile 1]", "gemm", "float16", [tensor("w", "float16", 8, 16)], matrix=True),
    {**layer("signal", "signal", "float16", []), "inputs": [], "outputs": []},
    layer("lookup [profile 1]", "PluginV3", "float16", [], plugin=True, onnx=["layer.0/VisualMemoryFFN"]),
]
PROFILES = [
    {"name": name, "shapes": {"x": {"min": [1, 8], "opt": [2, 8], "max": [rows, 8]}}}
    for name, rows in (("prefill", 64), ("decode", 4))
]
RECIPE = {
    "schema": build_engine.SCHEMA,
    "component": "decoder",
    "source": {},
    "target": "tensorrt",
    "precision": "fp16",
    "lowering": "plugin",
    "ranges": {"batch": [1, 8]},
    "inputs": [tensor("x", "float16", "batch", 8), tensor(PAST, "float16", "batch", 2, "past", 4)],
    "outputs": [tensor("y", "float16", "batch", 8), tensor(PRESENT, "float16", "batch", 2, "sequence", 4)],
    "cache": {"kind": "delta", "axis": 2, "layers": 1, "capacity": 64},
    "profiles": PROFILES,
}
RECORD = {
    "schema": build_engine.SCHEMA,
    "engine": {"file": f"{NAME}.engine", "size": len(ENGINE), "sha256": hashlib.sha256(ENGINE).hexdigest()},
    "recipe_sha256": hashlib.sha256(json.dumps(RECIPE).encode()).hexdigest(),
    "tensorrt": "10.3.0",
    "module": "tensorrt",
    "flavor": "tensorrt",
    "gpu": {"name": "NVIDIA H200", "sm": "90", "driver": "13.0"},
    "plugin": {"operators": ["VisualMemoryFFN"], "build_id": "0123abcd", "sha256": "00", "embedded": False},
    "seconds": {"parse": 0.1, "build": 12.0},
    "read_from": "inspector",
    "inputs": [tensor("x", "float16", -1, 8), tensor(PAST, "float16", -1, 2, -1, 4)],
    "outputs": [tensor("y", "float16", -1, 8), tensor(PRESENT, "float16", -1, 2, -1, 4)],
    "profiles": PROFILES,
    "plugin_layers": 1,
    "network_plugin_layers": 1,
    "layers": [*LAYERS, *STEP],
    "activation": 1 << 20,
}


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """An engine's file with its record."""
    (tmp_path / f"{NAME}.engine").write_bytes(ENGINE)
    (tmp_path / f"{NAME}.json").write_text(json.dumps(RECORD))
    return tmp_path / f"{NAME}.engine"


@pytest.fixture
def bundle(engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle with that engine, which moves into it, and nothing else, not even the engine's graph."""
    monkeypatch.setattr(entering, "graph_digests", lambda bundle, component, precision: RECIPE["source"])
    root = tmp_path / "bundle"
    dicts = {key: {} for key in ("options", "config", "preprocessing", "components")}
    with new_bundle(root) as writer:
        writer.write_manifest(
            {**dicts, "family": "memvp-llama", "task": "vqa", "precision": "fp16", "labels": None, "memory": None}
            | {"tokenizer": {"type": "sentencepiece", "file": "none"}, "engines": [], "samples": None, "sources": []}
            | {"generation": {"max_new_tokens": 1, "max_sequence": 8}}
        )
    enter(root, [Built(engine, engine.with_suffix(".json"), RECIPE, RECORD)])
    return root


def test_an_engine_and_its_record_are_described_alike(engine: Path) -> None:
    report = inspect_path(engine)
    assert json.loads(json.dumps(report)) == report == inspect_path(engine.with_suffix(".json"))
    assert (report["kind"], report["target"], report["tensorrt"], report["gpu"]["sm"]) == (
        *("engine", "tensorrt", "10.3.0", "90"),
    )
    prefill = report["by_profile"]["prefill"]
    assert prefill["layers"] == 4
    assert prefill["layers_by_type"] == {"gemm": {"float16": 1, "float32": 1}, "kgen": {"bool": 1}} | {
        "PluginV3": {"float16": 1}
    }
    assert prefill["product_weight_bytes"] == {"float16": 256, "float32": 128}
    assert report["memory_sites"] == ["layer.0/VisualMemoryFFN"] and prefill["plugin_layers"] == ["lookup"]
    # In a second profile, layers are marked, or follow one that is.
    step = report["by_profile"]["decode"]
    assert (step["layers"], step["products_by_precision"]) == (3, {"float16": 1})
    assert step["layers_by_type"] == {"gemm": {"float16": 1}, "signal": {"none": 1}, "PluginV3": {"float16": 1}}
    assert step["plugin_layers"] == ["lookup [profile 1]"]
    assert report["profiles"][1]["shapes"]["x"]["max"] == [4, 8]
    assert (report["engine"]["size"], report["activation"]) == (len(ENGINE), 1 << 20)


def test_the_record_moves_the_report(engine: Path) -> None:
    changed = [{**LAYERS[0], "constants": [tensor("w", "float32", 8, 16)]}, *LAYERS[1:3]]
    engine.with_suffix(".json").write_text(json.dumps({**RECORD, "layers": changed, "tensorrt": "11.4"}))
    report = inspect_path(engine)
    part = report["by_profile"]["prefill"]
    assert part["products_by_precision"] == {"float32": 2} and report["tensorrt"] == "11.4"
    assert report["memory_sites"] == part["plugin_layers"] == [] and report["by_profile"]["decode"]["layers"] == 0


def test_what_was_asked_for_comes_from_the_recipe_it_was_built_from(engine: Path) -> None:
    assert [inspect_path(engine)[key] for key in ("component", "precision", "lowering", "cache")] == [None] * 4
    recipe = engine.with_name(f"{NAME}.recipe.json")
    recipe.write_text(json.dumps(RECIPE))
    report = inspect_path(engine)
    assert (report["component"], report["precision"], report["lowering"]) == ("decoder", "fp16", "plugin")
    assert report["cache"]["capacity"] == 64 and report["cache_copies"] == {"prefill": [], "decode": []}
    recipe.write_text(json.dumps({**RECIPE, "component": "another"}))
    assert inspect_path(engine)["component"] is None


def test_a_bundle_describes_its_engines(bundle: Path) -> None:
    (report,) = inspect_path(bundle)["engines"]
    assert (report["component"], report["precision"]) == ("decoder", "fp16")
    assert {name: part["layers"] for name, part in report["by_profile"].items()} == {"prefill": 4, "decode": 3}
    alone = inspect_path(next(bundle.glob("engines/*/*.engine")))
    assert alone == {"kind": "engine", **report}
    assert alone["ranges"] == {"batch": [1, 8]}


def test_an_engine_of_a_replaced_graph_is_marked(
    engine: Path, bundle_of: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(bundle_of("fp16"), tmp_path / "odd"))
    recipe = {**RECIPE, "source": graph_digests(Bundle.open(root), "decoder", "fp16")}
    enter(root, [Built(engine, engine.with_suffix(".json"), recipe, RECORD)])
    inside = next(root.glob("engines/*/*.engine"))
    for stale in (False, True):
        if stale:
            with change(root) as (writer, manifest):
                weights = writer.path(f"{manifest['components']['decoder']['graphs']['fp16']['file']}.data")
                weights.write_bytes(weights.read_bytes()[::-1])
                writer.record(str(weights.relative_to(root)))
                writer.write_manifest(manifest)
        whole, alone = inspect_path(root), inspect_path(inside)
        assert whole["engines"][0]["stale"] is alone["stale"] is stale
        for report in (whole, alone):
            print_report(report)
            shown = " ".join(capsys.readouterr().out.split())
            assert ("its graph was replaced since" in shown) is stale


def test_all_of_it_is_printed(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_report(inspect_path(next(bundle.glob("engines/*/*.engine"))))
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        *("component decoder", "precision fp16", "lowering plugin", "TensorRT 10.3.0", "NVIDIA H200 (sm_90)"),
        *("cache delta, 1 layers, 64 columns", "build 0123abcd", "parse 0.1 s, build 12.0 s", "1.0 MB for activations"),
        *("past_key_values.{i}.key float16 [batch, 2, past, 4]", "output y float16 [batch, 8]", "profiles 2"),
        *("prefill x [1, 8] [2, 8] [64, 8]", "layers prefill 4, decode 3, from", "plugin layers prefill 1, decode 1"),
        *("layers of prefill count types gemm 2 float16 1, float32 1", "layers of decode count types gemm 1 float16 1"),
        *("their weights float16 256", "products and convolutions prefill float16 1, float32 1, decode float16 1"),
    ):
        assert words in shown
    print_report(inspect_path(bundle))
    shown = " ".join(capsys.readouterr().out.split())
    assert "decoder fp16 plugin TensorRT 10.3.0" in shown and "prefill 4, decode 3" in shown


def test_dims_without_names_are_shown_as_the_profiles_have_them(
    engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = inspect_path(engine)
    assert report["inputs"][0]["dims"] == [-1, 8]
    print_report(report)
    shown = " ".join(capsys.readouterr().out.split())
    assert "input x float16 [1 to 64, 8]" in shown and "output y float16 [dynamic, 8]" in shown and "[-1" not in shown


def test_a_record_and_an_engine_that_do_not_belong_together_are_refused(engine: Path, bundle: Path) -> None:
    inside = next(bundle.glob("engines/*/*.engine"))
    assert inspect_path(inside, verify=True)["kind"] == "engine"
    inside.write_bytes(ENGINE.upper())
    with pytest.raises(InputError, match="is not the engine that"):
        inspect_path(inside, verify=True)
    inside.write_bytes(ENGINE + b"!")
    with pytest.raises(InputError, match="is not the engine that"):
        inspect_path(inside)


def test_a_record_is_enough_unless_bytes_are_to_be_verified(engine: Path) -> None:
    engine.unlink()
    record = engine.with_suffix(".json")
    assert inspect_path(record)["engine"]["size"] == len(ENGINE)
    with pytest.raises(InputError, match="nothing to verify"):
        inspect_path(record, verify=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged: it is not whole JSON"),
        ("[]", "is not the record of an engine"),
        (json.dumps(RECIPE), "is not the record of an engine"),
        (json.dumps({**RECORD, "engine": {**RECORD["engine"], "file": "../x.engine"}}), "is not the record of an"),
        (json.dumps({**RECORD, "schema": 99}), "has schema 99, this tool reads 1"),
        (json.dumps({**RECORD, "layers": [{}]}), "is damaged"),
        (
            json.dumps({key: value for key, value in RECORD.items() if key != "profiles"}),
            "is damaged: profiles is missing",
        ),
    ],
)
def test_what_is_no_record_is_refused(engine: Path, text: str, message: str) -> None:
    engine.with_suffix(".json").write_text(text)
    for path in (engine, engine.with_suffix(".json")):
        with pytest.raises(InputError, match=message):
            inspect_path(path)


def test_shapes_are_for_graphs(engine: Path) -> None:
    with pytest.raises(InputError, match="--shape is for graphs"):
        inspect_path(engine, shapes={"batch": 2})


def test_an_engine_that_lost_its_record_needs_a_gpu(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.with_suffix(".json").unlink()
    # These bytes are no engine on any machine: the real child refuses them.
    with pytest.raises(EnvironmentLack, match=rf"has no record beside it \({NAME}.json\).*copy its record"):
        inspect_path(engine)

    def crash(*words: str, timeout: float) -> dict[str, Any]:
        raise ChildFailed("crashed (SIGSEGV)")

    monkeypatch.setattr(engine_report, "ask_module", crash)
    with pytest.raises(EnvironmentLack, match=r"crashed \(SIGSEGV\)"):
        inspect_path(engine)
    # The engine may need no plugin: a library that is not there ends nothing, and is said beside the reason.
    monkeypatch.setenv("MEMVP_PLUGIN", str(engine.with_name("gone.so")))
    with pytest.raises(EnvironmentLack, match=r"SIGSEGV\) there is no plugin library .*gone.so \(MEMVP_PLUGIN\)\. Ins"):
        inspect_path(engine)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "is empty"),
        (ENGINE[:63], "is no engine: it has 63 bytes"),
        (b"PK\x03\x04" * 99, "is no engine: it begins with b'PK"),
    ],
)
def test_what_is_plainly_no_engine_is_bad_input(engine: Path, data: bytes, what: str) -> None:
    engine.with_suffix(".json").unlink()
    engine.write_bytes(data)
    with pytest.raises(InputError, match=rf"{NAME}\.engine {what}"):
        inspect_path(engine)


def test_where_a_gpu_is_the_engine_itself_is_read(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.with_suffix(".json").unlink()
    asked = []

    def info(*words: str, timeout: float) -> dict[str, Any]:
        asked.append(words)
        keys = ("tensorrt", "flavor", "gpu", "inputs", "outputs", "profiles", "activation")
        unmarked = [{k: v for k, v in one.items() if k != "matrix"} for one in LAYERS]
        return {**{key: RECORD[key] for key in keys}, "layers": unmarked}

    monkeypatch.setattr(engine_report, "ask_module", info)
    report = inspect_path(engine)
    assert asked[0][:5] == (build_engine.__name__, "info", str(engine), "--module", "tensorrt")
    assert report["record"] is None and report["read_from"] == "inspector" and report["target"] == "tensorrt"
    assert report["by_profile"]["prefill"]["plugin_layers"] == ["lookup"] and report["engine"]["size"] == len(ENGINE)
    print_report(report)


def test_reading_loads_neither_torch_nor_tensorrt(engine: Path) -> None:
    code = (
        "import sys; from memvp_export.exporter.inspection.path_report import inspect_path; inspect_path(sys.argv[1]);"
        "print([m for m in ('torch', 'tensorrt', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, engine], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def build(tmp_path: Path) -> Callable[[], Path]:
    """Build the engine of two nodes with the real TensorRT."""

    def run() -> Path:
        trial = two_nodes()
        inputs, outputs = trial.ports()
        files = {"onnx": "two.onnx", "engine": "two.engine", "record": "two.json"}
        nothing = dict.fromkeys(("cache", "workspace", "builder_effort", "timing_cache", "plugin"))
        recipe = {**RECIPE, **files, **nothing, "precision": "fp32", "lowering": "native", "memory_sites": 0}
        recipe |= {"inputs": inputs, "outputs": outputs, "profiles": [trial.profile()]}
        (tmp_path / "two.onnx").write_bytes(trial.model)
        (tmp_path / "two.recipe.json").write_text(json.dumps(recipe))
        command = [sys.executable, "-m", build_engine.__name__, "build", str(tmp_path / "two.recipe.json")]
        subprocess.run(command, env=environment(), check=True, capture_output=True)
        return tmp_path / "two.engine"

    return run


@needs_tensorrt
def test_a_real_engine_is_described(build: Callable[[], Path], capsys: pytest.CaptureFixture[str]) -> None:
    engine = build()
    assert engine.read_bytes()[1:4] == b"trt", "it begins as `inspect` expects of engines"
    report = inspect_path(engine, verify=True)
    assert (report["component"], report["precision"]) == ("decoder", "fp32")
    assert [part["products_by_precision"] for part in report["by_profile"].values()] == [{"float32": 1}]
    assert [port["name"] for port in (*report["inputs"], *report["outputs"])] == ["x", "y"]
    assert report["profiles"] == [two_nodes().profile()]
    assert report["engine"]["size"] == engine.stat().st_size
    print_report(report)
    assert "gemm" in capsys.readouterr().out
