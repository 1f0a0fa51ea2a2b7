"""Q/DQ nodes in a graph."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from memvp_export.calibration.layers import choose, find_layers
from memvp_export.calibration.modes import MODES, Format, Mode
from memvp_export.calibration.operands import find_operands
from memvp_export.calibration.publish import write_quantized
from memvp_export.calibration.scales import LayerScale, Scales
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.inspection.values import load_graph
from memvp_export.exporter.kv_cache import KVCache
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.progress import Progress


def _scales(
    graph: onnx.GraphProto, mode: str, factors: dict[str, list[float]] | None = None, clip: float = 6.0
) -> Scales:
    chosen = choose(graph, MODES[mode]).chosen
    smoothed = {layer.name: layer.input if factors and layer.input in factors else None for layer in chosen}
    used = clip if MODES[mode].activations else None
    layers = {layer.name: LayerScale(used, smoothed[layer.name]) for layer in chosen}
    return Scales(mode, "max", {}, {}, {"decoder": layers}, factors={"decoder": factors or {}})


def _write(source: Path, scales: Scales, folder: Path) -> Path:
    folder.mkdir()
    return write_quantized(source, "decoder", scales, folder / "decoder.onnx", Progress()).path


def _logits(path: Path, bundle: Bundle) -> np.ndarray:
    """Of two whole rows of random tokens and visual rows."""
    entry, generator = bundle.manifest["components"]["decoder"], np.random.default_rng(0)
    visual = next(port["dims"] for port in entry["inputs"] if port["name"] == "visual_memory")
    inputs = {
        "input_ids": generator.integers(3, 150, (2, 12)),
        "attention_mask": np.ones((2, 12), np.int64),
        "position_ids": np.tile(np.arange(12), (2, 1)),
        "logits_positions": np.tile(np.arange(12), (2, 1)),
        "visual_memory": 0.1 * generator.standard_normal((2, *visual[1:])).astype(np.float32),
        **KVCache(entry, "fp32", 2).inputs(),
    }
    session = OnnxSession({"decoder": path}, "fp32", optimize=False)
    return session.run("decoder", inputs, ["logits"])["logits"]


def _relative(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    ("mode", "limit"), [("int8", 0.1), ("fp8", 0.15), ("int8-weights", 0.02), ("int4-weights", 0.4)]
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_mode_runs_and_is_near(
    mode: str, limit: float, precision: str, bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    bundle = Bundle.open(bundle_of(precision))
    source = bundle.graph("decoder")
    path = _write(source, _scales(load_graph(source).graph, mode), tmp_path / "made")
    error = _relative(_logits(path, bundle), _logits(source, bundle))
    assert 1e-5 < error < limit
    held = path.with_name(f"{path.name}.data").stat().st_size / source.with_name(f"{source.name}.data").stat().st_size
    assert held < (0.75 if precision == "fp32" else 0.95)


def test_only_chosen_products_read_quantized_values(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    source = Bundle.open(bundle_of("fp32")).graph("decoder")
    before = load_graph(source)
    chosen = {layer.name for layer in choose(before.graph, MODES["int8"]).chosen}
    after = load_graph(_write(source, _scales(before.graph, "int8"), tmp_path / "made"))
    inputs = {node.name: list(node.input) for node in before.graph.node}
    for node in after.graph.node:
        if node.name in inputs and node.name not in chosen:
            assert list(node.input) == inputs[node.name]
    made = {name: node.op_type for node in after.graph.node for name in node.output}
    for node in after.graph.node:
        if node.name in chosen:
            assert [made[name] for name in node.input] == ["DequantizeLinear", "DequantizeLinear"]
    assert [f.name for f in after.functions] == [f.name for f in before.functions]


def test_one_pair_serves_all_products_of_a_tensor(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    source = Bundle.open(bundle_of("fp32")).graph("decoder")
    graph = load_graph(source).graph
    after = load_graph(_write(source, _scales(graph, "int8"), tmp_path / "made")).graph
    read = {node.name: node.input[0] for node in after.node}
    assert len({read[f"model.layers.1.self_attn.{name}_proj/MatMul"] for name in "qkv"}) == 1
    assert sum(node.op_type == "QuantizeLinear" for node in after.node) == 3 * 4


def test_stored_weights_are_the_quantized_matrices(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    source = Bundle.open(bundle_of("fp32")).graph("decoder")
    path = _write(source, _scales(load_graph(source).graph, "int8"), tmp_path / "made")
    name = "model.layers.2.mlp.up_proj"
    plain = {t.name: t for t in onnx.load(str(source)).graph.initializer}
    made = {t.name: t for t in onnx.load(str(path)).graph.initializer}
    weight = onnx.numpy_helper.to_array(plain[f"{name}.weight"])
    numbers, scale = (onnx.numpy_helper.to_array(made[f"{name}/MatMul/weight{end}"]) for end in ("", "/scale"))
    assert numbers.dtype == np.int8 and f"{name}.weight" not in made
    assert np.array_equal(numbers, np.rint(weight / scale)) and np.abs(numbers).max(0).tolist() == [127] * len(scale)


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 2e-3), ("fp16", 5e-3)])
def test_smoothing_changes_nothing_but_the_rounding(
    precision: str,
    limit: float,
    bundle_of: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # With 16 bits nearly nothing is rounded.
    fine = Format("int16", onnx.TensorProto.INT16, np.dtype(np.int16), -32768, 32767, 16)
    monkeypatch.setitem(MODES, "int16-weights", Mode("int16-weights", fine, None, blocks=False, opset=21))
    bundle = Bundle.open(bundle_of(precision))
    source = bundle.graph("decoder")
    graph = load_graph(source).graph
    chosen = choose(graph, MODES["int16-weights"]).chosen
    generator = np.random.default_rng(0)
    factors = {
        operand.value: np.exp(generator.uniform(-2, 2, operand.layers[0].inputs)).tolist()
        for operand in find_operands(graph, chosen)
    }
    path = _write(source, _scales(graph, "int16-weights", factors), tmp_path / "made")
    assert _relative(_logits(path, bundle), _logits(source, bundle)) < limit
    after = load_graph(path).graph
    lookups = [[node.input[0] for node in g.node if node.domain == "memvp"] for g in (graph, after)]
    assert lookups[0] == lookups[1] and len(lookups[0]) == 3
    reading = {node.name: node.input[0] for node in after.node}
    assert all(reading[layer.name].endswith("/smoothed") for layer in chosen)


def test_a_range_of_a_layer_that_is_not_there_is_refused(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    source = Bundle.open(bundle_of("fp32")).graph("decoder")
    scales = Scales("int8", "max", {}, {}, {"decoder": {"other/MatMul": LayerScale(1.0)}})
    with pytest.raises(InputError, match="other/MatMul"):
        _write(source, scales, tmp_path / "made")


def test_all_zero_activations_have_a_scale(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    bundle = Bundle.open(bundle_of("fp32"))
    source = bundle.graph("decoder")
    layer = find_layers(load_graph(source).graph)[0]
    scales = Scales("int8", "max", {}, {}, {"decoder": {layer.name: LayerScale(0.0)}})
    assert np.isfinite(_logits(_write(source, scales, tmp_path / "made"), bundle)).all()
