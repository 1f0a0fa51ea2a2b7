"""Which engines run: the last built that can be loaded, all of one target, and of the lowering that was asked for."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from memvp_export.exporter.bundle import Bundle, change
from memvp_export.exporter.engines.choice import choose_engines, described
from memvp_export.exporter.engines.preflight import Environment
from memvp_export.exporter.errors import EnvironmentLack, InputError

from .fake_bundle import enter, entry_of
from .fake_tensorrt import HERE

PLUGIN = {"operators": ["VisualMemoryFFN"], "build_id": "a1b2c3", "sha256": "d" * 64, "embedded": False}


def engine(component: str, target: str = "tensorrt", plugin: Any = None, folder: str = "one") -> dict[str, Any]:
    """An entry; what it takes does not matter here."""
    lowering = "plugin" if plugin else "native"
    entry = entry_of(component, "fp16", [], [], [])
    file = f"engines/{folder}-{target}/{component}.{lowering}.engine"
    return {**entry, "target": target, "flavor": target, "lowering": lowering, "plugin": plugin, "file": file}


@pytest.fixture
def holding(bundle_of: Callable[[str], Path], tmp_path: Path) -> Callable[..., Bundle]:
    """A bundle with these engines, in the order they were built in."""

    def make(*entries: dict[str, Any]) -> Bundle:
        root = Path(shutil.copytree(bundle_of("fp16"), tmp_path / "bundle"))
        for entry in entries:
            enter(root, [entry], {entry["component"]: "an engine"})
        return Bundle.open(root)

    return make


def here(entry: Any) -> Environment:
    return replace(HERE, flavor=entry["target"])


def files(chosen: Any) -> list[str]:
    return [entry["file"].removeprefix("engines/") for entry in chosen.values()]


def test_a_lowering_can_be_asked_for(holding: Callable[..., Bundle]) -> None:
    bundle = holding(engine("vision"), engine("decoder", plugin=PLUGIN), engine("decoder"))
    assert files(choose_engines(bundle, "fp16", here)) == ["one-tensorrt/vision.native.engine", NATIVE]
    assert files(choose_engines(bundle, "fp16", here, lowering="native"))[1] == NATIVE
    # `vision` looks nothing up: its engine serves both.
    chosen = choose_engines(bundle, "fp16", here, lowering="plugin")
    assert files(chosen) == ["one-tensorrt/vision.native.engine", PLUGGED]
    assert described(chosen) == (
        f"the engines that run, for tensorrt: engines/one-tensorrt/vision.native.engine (native), engines/{PLUGGED} "
        "(plugin)"
    )


NATIVE, PLUGGED = "one-tensorrt/decoder.native.engine", "one-tensorrt/decoder.plugin.engine"


def test_a_lowering_that_was_not_built_is_refused(holding: Callable[..., Bundle]) -> None:
    bundle = holding(engine("vision"), engine("decoder"))
    with pytest.raises(InputError, match=r"no fp16 engine of decoder with plugin lowering\. .*--fp16 --plugin on"):
        choose_engines(bundle, "fp16", here, lowering="plugin")
    with pytest.raises(InputError, match="the lowering is plugin or native, not 'auto'"):
        choose_engines(bundle, "fp16", here, lowering="auto")


def test_the_asked_lowering_is_not_replaced_by_one_that_can_be_loaded(holding: Callable[..., Bundle]) -> None:
    bundle = holding(engine("vision"), engine("decoder"), engine("decoder", plugin={**PLUGIN, "build_id": "ffffff"}))
    assert files(choose_engines(bundle, "fp16", here))[1] == NATIVE
    with pytest.raises(EnvironmentLack, match="it needs the plugin library of build ffffff, here is a1b2c3"):
        choose_engines(bundle, "fp16", here, lowering="plugin")


def test_all_components_are_of_one_target(holding: Callable[..., Bundle]) -> None:
    rtx = "tensorrt-rtx"
    bundle = holding(engine("vision"), engine("decoder"), engine("vision", rtx), engine("decoder", rtx))
    assert {entry["target"] for entry in choose_engines(bundle, "fp16", here).values()} == {rtx}

    def without_rtx(entry: Any) -> Environment:
        return replace(here(entry), tensorrt=None if entry["target"] == rtx else HERE.tensorrt)

    assert {entry["target"] for entry in choose_engines(bundle, "fp16", without_rtx).values()} == {"tensorrt"}


def test_a_target_with_a_part_of_the_components_is_passed_over(holding: Callable[..., Bundle]) -> None:
    bundle = holding(engine("vision"), engine("decoder"), engine("decoder", "tensorrt-rtx"))
    assert {entry["target"] for entry in choose_engines(bundle, "fp16", here).values()} == {"tensorrt"}


def test_components_of_different_targets_do_not_run_together(holding: Callable[..., Bundle]) -> None:
    bundle = holding(engine("vision"), engine("decoder", "tensorrt-rtx"))
    with pytest.raises(EnvironmentLack) as caught:
        choose_engines(bundle, "fp16", here)
    assert str(caught.value).splitlines() == [
        "there is no fp16 engine of vision for tensorrt-rtx",
        "there is no fp16 engine of decoder for tensorrt",
    ]


def replace_graph(root: Path, component: str) -> None:
    """Other bytes of the same meaning, as a graph that was made again has."""
    with change(root) as (writer, manifest):
        graph = root / manifest["components"][component]["graphs"]["fp16"]["file"]
        graph.write_bytes(graph.read_bytes() + b"\x72\x00")
        writer.record(str(graph.relative_to(root)))
        writer.write_manifest(manifest)


def test_engines_of_a_graph_that_was_replaced_do_not_run(holding: Callable[..., Bundle]) -> None:
    root = holding(engine("vision"), engine("decoder")).root
    replace_graph(root, "decoder")
    with pytest.raises(InputError, match="was built from another fp16 graph of decoder than") as caught:
        choose_engines(Bundle.open(root), "fp16", here)
    assert NATIVE in str(caught.value) and f"`memvp-export trt {root} --fp16`" in str(caught.value)
    enter(root, [engine("decoder", plugin=PLUGIN)], {"decoder": "an engine"})
    assert files(choose_engines(Bundle.open(root), "fp16", here))[1] == PLUGGED
    # The last one built runs, unless it is of another graph.
    replace_graph(root, "decoder")
    enter(root, [engine("decoder", folder="two")], {"decoder": "an engine"})
    assert files(choose_engines(Bundle.open(root), "fp16", here))[1] == "two-tensorrt/decoder.native.engine"


def test_an_engine_that_does_not_say_its_graph_does_not_run(holding: Callable[..., Bundle]) -> None:
    root = holding({**engine("vision"), "source": {}}, engine("decoder")).root
    with pytest.raises(InputError, match="built from another fp16 graph of vision"):
        choose_engines(Bundle.open(root), "fp16", here)
