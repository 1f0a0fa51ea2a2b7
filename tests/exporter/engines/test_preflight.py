"""Each reason not to load an engine is said with what it was built with, what is here, and the fix; none is missed."""

import json
from pathlib import Path
from typing import Any

import pytest
from memvp_export.exporter.engines.preflight import (
    EngineFile,
    Environment,
    Gpu,
    InstalledPlugin,
    problems,
    require,
)
from memvp_export.exporter.errors import EnvironmentLack, InputError

# Runtimes in other languages read the same table.
TABLE = json.loads(Path(__file__).with_name("preflight_cases.json").read_text())
CASES = {case["name"]: case for case in TABLE["cases"]}


def parts(case: dict[str, Any]) -> tuple[dict[str, Any], Environment, EngineFile, bool]:
    base = TABLE["base"]
    here = {**base["here"], **case.get("here", {})}
    gpu, plugin = here.pop("gpu"), here.pop("plugin")
    environment = Environment(
        **here, gpu=Gpu(**gpu) if gpu else None, plugin=InstalledPlugin(**plugin) if plugin else None
    )
    file = EngineFile(**case.get("file", base["file"]))
    return {**base["entry"], **case.get("entry", {})}, environment, file, case.get("trusted", False)


@pytest.mark.parametrize("name", CASES)
def test_the_table(name: str) -> None:
    assert problems(*parts(CASES[name])) == CASES[name]["problems"]


@pytest.mark.parametrize("name", CASES)
def test_what_has_a_problem_is_not_loaded(name: str) -> None:
    given, case = parts(CASES[name]), CASES[name]
    if not case["problems"]:
        require(*given)
        return
    with pytest.raises(InputError if name == "other bytes" else EnvironmentLack) as caught:
        require(*given)
    assert given[0]["file"] in str(caught.value)
    assert all(problem in str(caught.value) for problem in case["problems"])


def test_the_names_of_the_cases_are_their_own() -> None:
    assert len(CASES) == len(TABLE["cases"])
