"""The check before an engine is loaded, and the choice among a bundle's engines, are Python's."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from memvp_export.exporter.bundle import MANIFEST, Bundle, change
from memvp_export.exporter.engines.choice import choose_engines
from memvp_export.exporter.engines.source_graph import graph_digests
from memvp_export.exporter.errors import ToolError

from ..exporter.engines.fake_bundle import entry_of
from ..exporter.engines.fake_tensorrt import HERE
from .conftest import Refused
from .test_bundles import made  # noqa: F401

Host = Callable[..., Any]
TABLE = json.loads((Path(__file__).parents[1] / "exporter/engines/preflight_cases.json").read_text())
CASES = {case["name"]: case for case in TABLE["cases"]}


def parts(case: dict[str, Any]) -> dict[str, Any]:
    base = TABLE["base"]
    return {
        "entry": {**base["entry"], **case.get("entry", {})},
        "here": {**base["here"], **case.get("here", {})},
        "file": case.get("file", base["file"]),
        "trusted": case.get("trusted", False),
    }


@pytest.mark.parametrize("name", CASES)
def test_the_table_that_python_is_held_to(host: Host, name: str) -> None:
    assert host("problems", **parts(CASES[name])) == CASES[name]["problems"]


@pytest.mark.parametrize("name", CASES)
def test_what_has_a_problem_is_not_loaded(host: Host, name: str) -> None:
    case = CASES[name]
    if not case["problems"]:
        assert host("require", **parts(case)) is None
        return
    with pytest.raises(Refused) as refused:
        host("require", **parts(case))
    assert refused.value.kind == ("InputError" if name == "other bytes" else "EnvironmentLack")
    assert all(problem in str(refused.value) for problem in case["problems"])


def flavor_here(target: str) -> str:
    """Of the module that runs a target's engines: TensorRT has one for 8 to 11."""
    return "tensorrt-rtx" if target == "tensorrt-rtx" else "tensorrt"


def engine(number: int, component: str = "model", **changed: Any) -> dict[str, Any]:
    made_of = entry_of(component, "fp32", [], [], [])
    return {**made_of, "file": f"engines/{number}.engine", "layers": f"engines/{number}.json", **changed}


A100 = {"name": "NVIDIA A100", "sm": "80", "driver": "13.0"}
CHOICES: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "one": [engine(0)],
    "the last one built": [engine(0), engine(1)],
    "the last that can be loaded": [engine(0), engine(1, gpu=A100)],
    "none that can": [engine(0, tensorrt="10.3.0.1"), engine(1, gpu=A100)],
    "another precision": [engine(0, precision="fp16")],
    "of another graph": [engine(0, source={"a.txt": "other"})],
    "the last of another graph": [engine(0), engine(1, source={"a.txt": "other"})],
    "of more than its graph": [engine(0, source={"a.txt": "", "more": ""})],
    "gone": [engine(0, gone=True)],
    "the last gone": [engine(0), engine(1, gone=True)],
    "of a component that there is no more": [engine(0), engine(1, component="vision")],
    "two targets": [engine(0), engine(1, target="tensorrt-rtx", flavor="tensorrt-rtx", gpu=None)],
    "two targets, the later one not here": [engine(0), engine(1, target="tensorrt-8", tensorrt="8.6.1")],
    "with a plugin of another build": [
        engine(0, plugin={"operators": ["X"], "build_id": "ffff", "sha256": None, "embedded": False})
    ],
    "with code of its own": [engine(0, plugin={"operators": [], "build_id": None, "sha256": "e", "embedded": True})],
}


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("name", CHOICES)
def test_the_choice_is_pythons(host: Host, made: Path, tmp_path: Path, name: str, trusted: bool) -> None:  # noqa: F811
    root = Path(shutil.copytree(made, tmp_path / "b"))
    source = graph_digests(Bundle.open(root), "model", "fp32")
    entries = [{"source": source, **one} for one in CHOICES[name]]
    gone = [entry["file"] for entry in entries if entry.pop("gone", False)]
    with change(root) as (writer, manifest):
        for entry in entries:
            writer.path(entry["file"]).write_text(entry["file"])
            writer.record(entry["file"])
        writer.write_manifest({**manifest, "engines": entries})
    for file in gone:
        (root / file).unlink()
    assert (root / MANIFEST).is_file()
    here = asdict(HERE)
    asked = {"root": root, "precision": "fp32", "trusted": trusted, "here": here}
    try:
        chosen = choose_engines(
            Bundle.open(root), "fp32", lambda entry: replace(HERE, flavor=flavor_here(entry["target"])), trusted
        )
        expected: Any = [entry["file"] for entry in chosen.values()]
    except ToolError as error:
        expected = type(error).__name__, str(error)
    try:
        found: Any = host("choose", **asked)
    except Refused as refused:
        found = refused.kind, str(refused)
    assert found == expected
