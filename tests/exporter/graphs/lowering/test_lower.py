"""What comes out of lowering a component of a bundle, whichever way."""

import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.graphs.lowering import Lowered, lower
from memvp_export.exporter.inspection.values import type_graph
from memvp_export.exporter.progress import Progress

LoweredOf = Callable[..., Lowered]
OWN = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
every_precision = pytest.mark.parametrize("precision", OWN)
WAYS = ({}, {"plugin": True}, {"cache": "concat"}, {"single_pass": True})


def graph(lowered: Lowered) -> onnx.ModelProto:
    return onnx.load(lowered.path, load_external_data=False)


@pytest.mark.parametrize("way", WAYS, ids=str)
@every_precision
def test_ports_are_what_the_graph_says_and_what_follows_from_its_inputs(
    lowered_of: LoweredOf, precision: str, way: dict
) -> None:
    """Shapes and types are inferred anew, with a length for every dimension that no other has."""
    lowered = lowered_of("decoder", precision, **way)
    sizes = {"batch": 2, "sequence": 5, "past_sequence": 11, "positions": 3}
    typed = type_graph(graph(lowered), sizes)
    for port in (*lowered.inputs, *lowered.outputs):
        dims = tuple(d if isinstance(d, int) else sum(sizes[t] for t in d.split(" + ")) for d in port["dims"])
        assert (typed.types[port["name"]].dtype, typed.types[port["name"]].dims) == (port["dtype"], dims), port
    assert {port["dtype"] for port in lowered.inputs} == {"int64", OWN[precision]}


def test_a_native_graph_is_made_of_standard_operators_alone(lowered_of: LoweredOf) -> None:
    lowered = lowered_of("decoder", "fp16")
    model = graph(lowered)
    assert (lowered.lowering, lowered.memory_sites) == ("native", 3)
    assert not model.functions and {node.domain for node in model.graph.node} == {""}
    assert [entry.domain for entry in model.opset_import] == [""]


def test_a_component_without_memory_or_cache_stays_as_it_is(
    lowered_of: LoweredOf, bundle_of: Callable[[str], Path]
) -> None:
    lowered = lowered_of("vision", "fp32", plugin=True, single_pass=True)
    published = onnx.load(bundle_of("fp32") / "graphs" / "vision.onnx", load_external_data=False)
    assert (lowered.lowering, lowered.memory_sites, lowered.cache) == ("native", 0, None)
    assert lowered.ranges == {"batch": [1, 64]}
    nodes = [
        [(n.name, n.op_type, *n.input, *n.output) for n in model.graph.node] for model in (graph(lowered), published)
    ]
    assert nodes[0] == nodes[1]
    assert {file.name for file in lowered.path.parent.iterdir()} == {"vision.onnx", "vision.onnx.data"}


def test_published_weights_are_linked_and_not_copied(lowered_of: LoweredOf, bundle_of: Callable[[str], Path]) -> None:
    lowered = lowered_of("decoder", "fp16", portable=False)
    published, beside = bundle_of("fp16") / "graphs" / "decoder.onnx.data", lowered.path.parent / "decoder.onnx.data"
    assert beside.samefile(published) and published.stat().st_nlink == 1
    copied = lowered_of("decoder", "fp16").path.parent / "decoder.onnx.data"
    assert not copied.is_symlink() and copied.read_bytes() == published.read_bytes()
    found = {
        entry.value for t in graph(lowered).graph.initializer for entry in t.external_data if entry.key == "location"
    }
    assert found == {"decoder.onnx.data", "decoder.lowered.data"}
    inside = [tensor for tensor in graph(lowered).graph.initializer if not tensor.external_data]
    assert sum(tensor.ByteSize() for tensor in inside) < 4096


def test_weights_are_read_in_part_and_never_held(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is read of the data are the merged weights, and no more than one block of it at a time."""
    from memvp_export.exporter.graphs.lowering import stored

    bundle = Bundle.open(bundle_of("fp32"))
    data = bundle.graph("decoder").with_suffix(".onnx.data")
    monkeypatch.setattr(stored, "_BLOCK_BYTES", 8 << 10)
    monkeypatch.setattr(onnx, "load_external_data_for_model", None)
    opened, real = [], Path.open

    def noting(self: Path, *arguments: object, **more: object) -> object:
        opened.append(self.name)
        return real(self, *arguments, **more)

    monkeypatch.setattr(Path, "open", noting)
    tracemalloc.start()
    lower(bundle, "decoder", "fp32", tmp_path, plugin=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    written = (tmp_path / "decoder.lowered.data").stat().st_size
    # Three down projections, the value table for each of them, the key table once, and the frequencies.
    assert opened.count(data.name) == 3 + 3 + 1 + 2
    assert written > 700_000 and peak < 700_000


def test_torch_is_not_needed(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from memvp_export.exporter.bundle import Bundle\n"
        "from memvp_export.exporter.graphs.lowering import lower\n"
        "lower(Bundle.open(sys.argv[1]), 'decoder', 'bf16', Path(sys.argv[2]), plugin=False)"
    )
    subprocess.run([sys.executable, "-c", code, str(bundle_of("bf16")), str(tmp_path)], check=True)
    assert (tmp_path / "decoder.onnx").is_file()


def test_what_cannot_be_lowered_to_is_refused_before_anything_is_written(
    bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    bundle = Bundle.open(bundle_of("fp32"))
    with pytest.raises(InputError, match="'paged' cannot be lowered to; choose concat or delta or in_place"):
        lower(bundle, "decoder", "fp32", tmp_path, plugin=False, cache="paged")
    with pytest.raises(InputError, match=r"513 columns was asked for \(--max-seq\); this decoder takes 1 to 512"):
        lower(bundle, "decoder", "fp32", tmp_path, plugin=False, cache="in_place", capacity=513)
    with pytest.raises(InputError, match="no fp16 graph of decoder"):
        lower(bundle, "decoder", "fp16", tmp_path, plugin=False)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_links_gets_a_copy_and_a_note(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError("links are not permitted")

    class Notes(Progress):
        def note(self, message: str) -> None:
            notes.append(message)

    notes: list[str] = []
    monkeypatch.setattr(Path, "symlink_to", refuse)
    lower(Bundle.open(bundle_of("fp32")), "vision", "fp32", tmp_path, plugin=False, progress=Notes())
    published = bundle_of("fp32") / "graphs" / "vision.onnx.data"
    assert (tmp_path / "vision.onnx.data").read_bytes() == published.read_bytes()
    assert notes == [f"{tmp_path} cannot hold links: vision.onnx.data ({published.stat().st_size:,} bytes) is copied."]


def test_data_that_is_cut_short_or_lies_elsewhere_is_refused(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    """A bundle's sizes are checked when it is opened; data may change after that."""
    shutil.copytree(bundle_of("fp32"), tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    (tmp_path / "lowered").mkdir()
    data = bundle.root / "graphs" / "decoder.onnx.data"
    data.write_bytes(data.read_bytes()[: 1 << 18])
    with pytest.raises(InputError, match=r"decoder\.onnx\.data is cut short"):
        lower(bundle, "decoder", "fp32", tmp_path / "lowered", plugin=False)
    model = onnx.load(bundle.graph("decoder"), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../manifest.json" if entry.key == "location" else entry.value
    bundle.graph("decoder").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"is said to lie in '\.\./manifest\.json', which is not beside the graph"):
        lower(bundle, "decoder", "fp32", tmp_path / "lowered", plugin=True)
