"""Quantized graphs as files, and into a bundle: as one more precision of its components."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from ..exporter.bundle import change
from ..exporter.inspection.values import load_graph
from ..exporter.progress import Progress
from .graphs32 import FOLDER
from .insert import quantize_graph
from .links import link_weights
from .modes import mode_named
from .scales import Scales
from .weights_file import WeightsFile


@dataclass(frozen=True)
class Written:
    """A quantized graph that was written: its file, opset, and bytes of its data."""

    path: Path
    opset: int
    bytes: int


def write_quantized(source: Path, component: str, scales: Scales, path: Path, progress: Progress) -> Written:
    """Write the graph `source` of a component, in any plain precision, quantized, to `path`; its weights go beside it,
    one at a time, those that are not quantized as they are."""
    model = load_graph(source)
    published = {tensor.name for tensor in model.graph.initializer}
    data = path.with_name(f"{path.name}.data")
    held = source.with_name(f"{source.name}.data").stat().st_size
    with progress.stage(f"quantize {component}", held) as advance, WeightsFile(data) as new:
        quantize_graph(model, source, component, scales, mode_named(scales.mode), new, advance=advance)
        for tensor in model.graph.initializer:
            if tensor.name in published:
                tensor.CopyFrom(new.copy(tensor, source))
        path.write_bytes(model.SerializeToString())
    with progress.stage(f"check {component}"):
        onnx.checker.check_model(str(path), full_check=True)
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    return Written(path, opset, data.stat().st_size)


def write_variant(source: Path, component: str, scales: Scales, folder: Path, only: str | None = None) -> Path:
    """A quantized graph for trying out, in a new `folder`: published weights are linked, only new ones are written."""
    model = load_graph(source)
    folder.mkdir(parents=True)
    with WeightsFile(folder / "new.data") as new:
        quantize_graph(model, source, component, scales, mode_named(scales.mode), new, only)
    link_weights(model.graph, source, folder, own="new.data")
    path = folder / source.name
    path.write_bytes(model.SerializeToString())
    return path


def enter(root: Path, scales: Scales, written: Mapping[str, Written], rest: str, report: str) -> dict[str, Any]:
    """Move written graphs, which lie on the bundle's disk, into it, with the scale file and the report; those of an
    earlier calibration in this mode are replaced. Returns the entries of the graphs by component."""
    calibration, report_name = f"{FOLDER}/{scales.mode}.json", f"reports/calibration.{scales.mode}.json"
    with change(root, wait=True) as (writer, manifest):
        names = {calibration, report_name}
        for component in written:
            names |= {f"graphs/{component}.{scales.mode}.onnx{suffix}" for suffix in ("", ".data")}
        for entry in manifest["components"].values():
            entry["graphs"].pop(scales.mode, None)
        writer.forget(names, manifest)
        entries = {}
        for component, one in written.items():
            name = f"graphs/{component}.{scales.mode}.onnx"
            for suffix in ("", ".data"):
                one.path.with_name(one.path.name + suffix).replace(writer.path(name + suffix))
                writer.record(name + suffix)
            entries[component] = {
                "file": name,
                "opset": one.opset,
                "rest": rest,
                "calibration": calibration,
                "report": report_name,
                "layers": len(scales.layers[component]),
            }
            manifest["components"][component]["graphs"][scales.mode] = entries[component]
        for name, text in ((calibration, scales.to_json()), (report_name, report)):
            writer.path(name).write_text(text)
            writer.record(name)
        writer.write_manifest(manifest)
    return entries
