"""What engines are not built from, and not built without: each is said before any work, and leaves the bundle alone."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.engines import request
from memvp_export.exporter.engines.build import build_engines, lower_engines, plan_engines
from memvp_export.exporter.engines.request import Request
from memvp_export.exporter.errors import EnvironmentLack, InputError
from memvp_export.exporter.progress import Progress

from .bundles import Told, contents, copied


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Request(components=["visoin"]), "no component visoin; it has vision, decoder"),
        (Request(target="tensorrt-9"), "no target 'tensorrt-9'"),
        (Request(target="tensorrt-rtx", timing_cache=Path("cache")), "tensorrt-rtx has no timing cache"),
        (Request(cache="in_place", max_seq=513), "takes 1 to 512"),
        (Request(builder_effort=6), "0 to 5"),
        (Request(max_shapes={"pixels": [1, 3, 28, 28]}), "no input is called pixels; there is pixel_values"),
        (Request(max_shapes={"pixel_values": [1, 3, 99, 28]}), "does not fit pixel_values"),
        (Request(max_batch=65), "batch = 65; this component takes 1 to 64"),
        (Request(plugin="always"), "auto, on, off"),
        (Request(embed_plugin=True), "give --plugin on too"),
        (Request(timing_cache=Path("nowhere/cache")), "nowhere does not exist"),
        (Request(timing_cache=Path("/")), "/ is a folder: give the timing cache's file"),
        (Request(components=["vision"], cache="concat"), "changes nothing here: vision is without a cache"),
        (Request(components=["vision"], single_pass=True), "changes nothing here: vision is without a cache"),
        (Request(components=["vision"], max_seq=64), "--max-seq changes nothing here: vision is without columns"),
        (Request(components=["vision"], plugin="on"), "changes nothing here: no memory is looked up in vision"),
        (Request(single_pass=True, cache="concat"), "--single-pass leaves the cache out, --cache concat"),
        (
            Request(single_pass=True, max_shapes={"past_key_values.0.key": [1, 6, 9, 16]}),
            "no input is called past_key_values.0.key",
        ),
        (Request(cache="in_place", max_seq=64, max_shapes={"past_key_values.0.key": [1, 6, 9, 16]}), "6x64x16"),
    ],
)
def test_wrong_requests_leave_the_bundle_alone(
    asked: Request, message: str, bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(bundle_of("fp16"), root)
    before = contents(root)
    if asked.target is None:
        asked = Request(**{**vars(asked), "target": "tensorrt"})
    for way in (build_engines, plan_engines):
        with pytest.raises(InputError) as failure:
            way(root, asked)
        assert message in str(failure.value)
    assert contents(root) == before


@pytest.mark.parametrize("component", ["vision", "decoder"])
def test_graphs_whose_bytes_changed_are_not_built_from(
    component: str, tensorrt_here: None, bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    root = copied(Bundle.open(bundle_of("fp16")), tmp_path / "bundle")
    weights = root / f"graphs/{component}.onnx.data"
    flipped = bytearray(weights.read_bytes())
    flipped[len(flipped) // 2] ^= 0x40
    weights.write_bytes(flipped)
    before, progress = contents(root), Progress()
    for asked in (Request("fp16", "tensorrt"), Request("bf16", "tensorrt")):
        for way in (
            lambda asked: build_engines(root, asked, progress),
            lambda asked: lower_engines(root, tmp_path / "carried", asked),
        ):
            with pytest.raises(InputError, match=rf"is edited: the bytes of graphs/{component}.onnx.data are not"):
                way(asked)
    assert contents(root) == before and not (tmp_path / "carried").exists()
    # What is not built from is not read.
    other = {"vision": "decoder", "decoder": "vision"}[component]
    lower_engines(root, tmp_path / "carried", Request("fp16", "tensorrt", [other]), progress)
    assert "compare digests of the graphs" in [stage.name for stage in progress.stages]


def test_what_is_not_installed_is_named_with_its_remedy(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request.importlib.util, "find_spec", lambda module: None)
    with pytest.raises(EnvironmentLack) as failure:
        build_engines(bundle_of("fp16"))
    assert all(word in str(failure.value) for word in ("export[gpu]", "export[rtx]", "--lower-only"))
    monkeypatch.delenv("MEMVP_PLUGIN", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(EnvironmentLack, match="memvp-export plugin build"):
        build_engines(bundle_of("fp16"), Request(target="tensorrt", plugin="on"))


def test_a_pytorch_that_is_broken_is_said(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = copied(Bundle.open(bundle_of("fp16")), tmp_path / "bundle")
    before = contents(root)
    for module in ("precision", "trace"):
        monkeypatch.delitem(sys.modules, f"memvp_export.exporter.graphs.{module}", raising=False)
    broken = "torch._subclasses.fake_tensor"
    monkeypatch.setitem(sys.modules, broken, ModuleType(broken))
    with pytest.raises(EnvironmentLack, match=r"torch is here but cannot be loaded .*FakeTensor.*\[export\] again"):
        lower_engines(root, tmp_path / "carried", Request("bf16", "tensorrt"))
    assert contents(root) == before and not (tmp_path / "carried").exists()


def test_a_module_that_is_missing_in_the_child_ends_well(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(bundle_of("fp16"), root)
    before = contents(root)
    monkeypatch.setenv("PYTHONPATH", "")
    with pytest.raises(EnvironmentLack, match=r"tensorrt_rtx cannot be loaded .*memvp-export\[rtx\]"):
        build_engines(root, Request(target="tensorrt-rtx"))
    assert contents(root) == before


STUB = """
class ILogger:
    def __init__(self): pass
class LayerType: pass
"""


@pytest.mark.parametrize(
    ("module", "target", "cache", "message"),
    [
        ("raise ImportError('no such')", "tensorrt", "delta", r"cannot be loaded \(no such.*export\[gpu\]"),
        ("__version__ = '9.3.0'", "tensorrt", "delta", r"9\.3\.0 is not known to work: from 10\.3 to below 12"),
        ("__version__ = '10.13.3'", "tensorrt-8", "delta", r"10\.13\.3 is not known .*from 8\.5 to below 8\.7"),
        (
            f"__version__ = '11.4.0'\n{STUB}\ndef Builder(log): raise TypeError('no device')",
            *("tensorrt", "delta", "cannot create a builder: it needs an NVIDIA GPU .*--lower-only DIR"),
        ),
        (f"__version__ = '10.13.3'\n{STUB}", "tensorrt", "in_place", r"takes TensorRT 10\.15 .* --cache delta"),
    ],
    ids=["none that loads", "unknown", "another", "no GPU", "no caches in place"],
)
def test_what_builds_is_tried_before_any_work(
    module: str,
    target: str,
    cache: str,
    message: str,
    bundle_of: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    root, progress = bundle_of("fp16"), Told()
    before = contents(root)
    asked = Request("fp16", target, ["decoder"], cache=cache, max_seq=64)
    for way in (lambda: build_engines(root, asked, progress), lambda: plan_engines(root, asked)):
        with pytest.raises(EnvironmentLack, match=message):
            way()
    assert contents(root) == before and not progress.stages
    assert len(lower_engines(root, tmp_path / "carried", asked)) == 1, "that is for another machine"


def test_graphs_that_cannot_be_traced_are_missed_at_once(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for way in (plan_engines, lambda root, asked, folder: lower_engines(root, folder, asked)):
        with pytest.raises(EnvironmentLack, match=r"no such bf16 graphs.*torch is not installed.*export\[export\]"):
            way(bundle_of("fp16"), Request("bf16", "tensorrt"), tmp_path / "carried")
        way(bundle_of("fp16"), Request("fp16", "tensorrt", ["vision"]), tmp_path / "carried")
