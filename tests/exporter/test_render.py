"""The report on a terminal."""

from pathlib import Path
from typing import Any

import onnx
import pytest
from memvp_export.exporter.inspection.path_report import inspect_path
from memvp_export.exporter.inspection.render import print_report
from onnx import TensorProto, helper


@pytest.fixture
def report(tmp_path: Path) -> dict[str, Any]:
    """Of one 8x4 MatMul on 2 rows: 64 MACs."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor("w", TensorProto.FLOAT, [8, 4], [0.5] * 32)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "x.onnx")
    return inspect_path(tmp_path / "x.onnx")


def memory(percent: float | None) -> dict[str, Any]:
    shares = dict.fromkeys(("percent", "table_percent", "visual_percent"), percent)
    return {"macs": 5_000_000, "flops": 10_000_000, **shares}


def test_flops_stand_beside_macs(report: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    print_report({**report, "cost": {**report["cost"], "macs": 2_000_000_000, "flops": 4_000_000_000}})
    assert "2.000 GMACs, 4.000 GFLOPs" in capsys.readouterr().out
    assert (report["cost"]["macs"], report["cost"]["flops"]) == (64, 128)


@pytest.mark.parametrize(("percent", "shown"), [(12.5, "12.50 %"), (None, "0.005 GMACs, 0.010 GFLOPs")])
def test_a_memory_in_a_graph_without_other_products_has_no_share(
    report: dict[str, Any], capsys: pytest.CaptureFixture[str], percent: float | None, shown: str
) -> None:
    print_report({**report, "cost": {**report["cost"], "memory": memory(percent)}})
    shown_line = next(line for line in capsys.readouterr().out.splitlines() if "added by the memory" in line)
    assert shown in shown_line and ("%" in shown_line) == (percent is not None)
