"""A graph made again in another precision from the bundle alone is the one that the source would have given."""

from collections.abc import Callable
from pathlib import Path

from memvp_export.exporter.bundle import Bundle, BundleWriter
from memvp_export.exporter.graphs.precision import trace_again
from memvp_export.exporter.progress import Progress


def test_a_wider_bundle_gives_the_same_half_graph(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    """Byte by byte, but for the name of the data file: half weights pass through float32 unharmed."""
    writer = BundleWriter(tmp_path)
    path = trace_again(Bundle.open(bundle_of("fp32")), "vision", "fp16", writer, Progress())
    assert path == tmp_path / "graphs" / "vision.fp16.onnx"
    assert set(writer.files) == {"graphs/vision.fp16.onnx", "graphs/vision.fp16.onnx.data"}
    direct = bundle_of("fp16") / "graphs" / "vision.onnx"
    assert path.with_name("vision.fp16.onnx.data").read_bytes() == direct.with_name("vision.onnx.data").read_bytes()
    ours, theirs = path.read_bytes(), direct.read_bytes()
    assert len(ours) > len(theirs) and ours.count(b"vision.fp16.onnx.data") == theirs.count(b"vision.onnx.data") > 0
