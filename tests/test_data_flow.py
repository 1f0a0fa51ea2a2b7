"""Data goes one way (docs/architecture.md): what modules import, lazily or for types too, says so."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("exporter", "calibration", "plugins", "examples")
STAGES = [f"exporter.{name}" for name in ("checkpoints", "models", "graphs", "engines", "parity", "commands")]
# A table: published graphs are checked against what engines can take.
TARGETS = "exporter.engines.targets"


def modules() -> dict[str, Path]:
    files = [ROOT / "cli.py", *(file for name in PACKAGES for file in (ROOT / name).rglob("*.py"))]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imported(name: str, file: Path, known: dict[str, Path]) -> Iterator[str]:
    """The project's modules that one imports anywhere."""
    parts = name.split(".")
    package = parts if file.name == "__init__.py" else parts[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            start = package[: len(package) - node.level + 1] + (node.module or "").split(".") * bool(node.module)
            for alias in node.names:
                found = [each for each in (".".join([*start, alias.name]), ".".join(start)) if each in known]
                yield from found[:1]


@cache
def imports() -> dict[str, set[str]]:
    known = modules()
    return {name: {*imported(name, file, known)} - {name} for name, file in known.items()}


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert len(imports()) > 300 and "exporter.errors" in imports()["cli"]
    # Raises CycleError, which names the modules.
    assert [*TopologicalSorter(imports()).static_order()]


def test_no_stage_imports_a_later_one() -> None:
    for name, found in imports().items():
        own = next((number for number, stage in enumerate(STAGES) if name.startswith(f"{stage}.")), None)
        if own is not None:
            later = {each for each in found if each.startswith(tuple(f"{stage}." for stage in STAGES[own + 1 :]))}
            assert later <= {TARGETS}, name


def test_commands_are_imported_by_the_command_line_and_calibration_by_commands_alone() -> None:
    for name, found in imports().items():
        if not name.startswith(("cli", "exporter.commands")):
            refused = ("exporter.commands",) if name.startswith("calibration") else ("exporter.commands", "calibration")
            assert not [each for each in found if each.startswith(refused)], name
