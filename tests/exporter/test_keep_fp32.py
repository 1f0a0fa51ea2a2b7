"""`--keep-fp32`: what the patterns select, and that those which `check --bisect` prints repair the fault it found."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from memvp_export.examples.random_source import PRESETS, write_source
from memvp_export.exporter.bundle import Bundle, BundleWriter
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.graphs.precision import trace_again
from memvp_export.exporter.inspection.graph_report import report_graph
from memvp_export.exporter.inspection.islands import KEPT
from memvp_export.exporter.keep_fp32 import is_kept, module_of, patterns_of
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.parity.structure import structural_differences
from memvp_export.exporter.progress import Progress

from ..conftest import Result
from .graphs.lowering.decoder_inputs import decoder_inputs

UP, DOWN = "model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj"
HALF, FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
WEIGHTS = {
    "vision": ["visual.conv1.weight", "visual.class_embedding", "visual.attn.in_proj_bias"],
    "decoder": ["lm_head.weight", "layers.0.up.weight", "layers.0.up.bias", "layers.10.up.weight", "adapter_emb1"],
}


@pytest.mark.parametrize(
    ("pattern", "weights"),
    [
        ("lm_head", ["lm_head.weight"]),
        ("visual", ["visual.class_embedding"]),
        ("visual.attn", ["visual.attn.in_proj_bias"]),
        ("layers.*.up", ["layers.0.up.weight", "layers.0.up.bias", "layers.10.up.weight"]),
        ("layers.?.up", ["layers.0.up.weight", "layers.0.up.bias"]),
        ("adapter_emb1", ["adapter_emb1"]),
        ("LM_HEAD", []),
        ("lm_head.weight", []),
    ],
)
def test_patterns_are_globs_of_modules(pattern: str, weights: list[str]) -> None:
    names = [name for part in WEIGHTS.values() for name in part]
    assert [name for name in names if is_kept(name, [pattern])] == weights


def test_each_component_gets_the_patterns_that_match_in_it() -> None:
    asked = ["layers.*.up", "visual.conv1", "*1", "visual.conv1"]
    found = patterns_of("memvp-llama", WEIGHTS, asked, "bf16")
    assert found == {"vision": ("visual.conv1", "*1"), "decoder": ("layers.*.up", "*1")}
    assert patterns_of("memvp-llama", WEIGHTS, [], "fp32") == {"vision": (), "decoder": ()}


def test_a_family_keeps_modules_of_its_own() -> None:
    weights = {"encoder": ["encoder.block.0.layer.1.DenseReluDense.wo.weight", "shared.weight"], "vision": ["a.weight"]}
    own = "*.DenseReluDense.wo"
    assert patterns_of("memvp-t5", weights, ["shared"], "fp16") == {"encoder": (own, "shared"), "vision": ()}
    assert patterns_of("memvp-t5", weights, [own], "fp16") == {"encoder": (own,), "vision": ()}
    assert patterns_of("memvp-t5", weights, [], "bf16") == {"encoder": (), "vision": ()}
    assert is_kept(weights["encoder"][0], [own]) and not is_kept("encoder.block.0.layer.1.DenseReluDense.wi", [own])


def test_what_cannot_be_kept_is_refused() -> None:
    with pytest.raises(InputError, match=r"'layers.0.op' matches no module of vision, decoder; near it .*layers.0.up"):
        patterns_of("memvp-llama", WEIGHTS, ["lm_head", "layers.0.op"], "fp16")
    with pytest.raises(InputError, match="a float32 graph keeps everything"):
        patterns_of("memvp-llama", WEIGHTS, ["lm_head"], "fp32")
    with pytest.raises(InputError, match="int8 graphs are calibrated"):
        patterns_of("memvp-llama", WEIGHTS, ["lm_head"], "int8")


@pytest.fixture(scope="module")
def loud_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source whose `up_proj` of layer 1 gives 20,000 times as much as usual, which `down_proj` takes back."""
    folder = tmp_path_factory.mktemp("loud")
    write_source(folder, PRESETS["odd"], dtype=torch.float32)
    file = folder / "weights" / "base" / "consolidated.00.pth"
    weights = torch.load(file)
    weights["layers.1.feed_forward.w3.weight"] *= 20_000
    weights["layers.1.feed_forward.w2.weight"] /= 20_000
    torch.save(weights, file)
    return folder


def test_the_printed_patterns_repair_an_overflow(
    loud_source: Path, tmp_path: Path, command: Callable[..., Result]
) -> None:
    bundle, repaired = tmp_path / "bundle", tmp_path / "repaired"
    assert command("onnx", loud_source, "-o", bundle, "--precision", "fp16").code == 0
    failed = command("check", bundle, "--bisect")
    assert failed.code == 1, failed.out
    assert f"decoder: the error enters at {UP}/MatMul" in failed.out
    (line,) = re.findall(r"tried, with these nothing leaves the tolerance: (.*)", failed.out)
    # Its result reaches down_proj in float32, and only down_proj in float32 can take it.
    asked = shlex.split(line)
    assert asked == ["--keep-fp32", UP, "--keep-fp32", DOWN]

    assert command("onnx", loud_source, "-o", repaired, "--precision", "fp16", *asked).code == 0
    assert command("check", repaired).code == 0
    assert Bundle.open(repaired).keep_fp32("decoder", "fp16") == (UP, DOWN)
    assert Bundle.open(repaired).keep_fp32("vision", "fp16") == ()


def test_wrong_patterns_leave_nothing(loud_source: Path, tmp_path: Path, command: Callable[..., Result]) -> None:
    for precision, pattern, message in (
        ("fp16", "model.layers.1.mlp.dwn_proj", f"near it are {DOWN}"),
        ("fp32", "lm_head", "a float32 graph keeps everything"),
    ):
        result = command("onnx", loud_source, "-o", tmp_path / "b", "--precision", precision, "--keep-fp32", pattern)
        assert result.code == 2 and message in result.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_kept_graph_is_the_half_graph_with_some_of_it_in_float32(
    bundle_of: Callable[[str], Path], tmp_path: Path, precision: str
) -> None:
    bundle, keep = Bundle.open(bundle_of("fp32")), ["*.1.mlp.down_proj", "*.2.self_attn.q_proj", "adapter_emb2"]
    path = trace_again(bundle, "decoder", precision, BundleWriter(tmp_path), Progress(), keep)
    model = onnx.load(path, load_external_data=False)
    half = HALF if precision == "fp16" else onnx.TensorProto.BFLOAT16
    weights = {t.name: t.data_type for t in model.graph.initializer if t.data_location == t.EXTERNAL}
    del weights["rotary.inverse_frequencies"]
    assert {name for name, kind in weights.items() if kind == FLOAT} == {
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.2.self_attn.q_proj.weight",
        "adapter_emb2",
    }
    assert {kind for name, kind in weights.items()} == {FLOAT, half}
    # Nothing else is another graph, and its ports have the graph's type.
    assert structural_differences(path, bundle.graph("decoder")) == []
    ports = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert {ports[name] for name in ("visual_memory", "past_key_values.1.key", "present.2.value")} == {half}
    # A table that is kept is read by all sites, one that is not is cast for them.
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    sites = [node for node in model.graph.node if node.op_type == "VisualMemoryFFN"]
    assert [site.name for site in sites] == [f"model.layers.{i}.mlp.down_proj/VisualMemoryFFN" for i in range(3)]
    assert {types[name] for site in sites for name in (*site.input[:4], *site.output)} == {FLOAT}
    islands = {island["reason"]: island for island in report_graph(path, {})["float32_islands"]}
    assert "other" not in islands and islands[KEPT]["operators"]["MatMul"] > 10
    if precision == "fp16":
        inputs = decoder_inputs("fp16", 2, 5, 7)
        kept, other = (
            OnnxSession({"decoder": graph}, "fp16", optimize=False).run("decoder", inputs, ["logits"])["logits"]
            for graph in (path, bundle_of("fp16") / "graphs" / "decoder.onnx")
        )
        assert 0 < abs(kept - other).max() < 0.02 * abs(other).max()


def test_modules_are_named_like_their_nodes() -> None:
    assert [module_of(name) for name in ("a.b.weight", "a.b.in_proj_bias", "table")] == ["a.b", "a.b", "table"]
