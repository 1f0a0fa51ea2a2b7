"""The exported bundle keeps the contract of docs/bundle.md, and nothing that stops an export leaves half of one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from memvp_export.exporter import export, plan
from memvp_export.exporter.bundle import Bundle, sha256_file
from memvp_export.exporter.checkpoints.source import Source, read_source
from memvp_export.exporter.errors import EnvironmentLack, InputError
from memvp_export.exporter.export import export_onnx
from memvp_export.exporter.models.family import components_of
from memvp_export.exporter.plan import plan_export

MAIN = "from memvp_export.cli import main; main()"


@pytest.fixture(scope="module")
def bundle(bundle_of: Callable[[str], Path]) -> Bundle:
    return Bundle.open(bundle_of("fp32"))


@pytest.fixture
def source(odd_source: Path) -> Source:
    return read_source(odd_source)


def test_the_manifest_says_all_that_a_later_stage_needs(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert manifest.keys() == {
        *("format", "schema", "digest", "files", "family", "task", "precision", "options", "config", "preprocessing"),
        *("tokenizer", "generation", "labels", "memory", "components", "engines", "samples", "sources"),
    }
    assert (manifest["family"], manifest["task"], manifest["precision"]) == ("memvp-llama", "vqa", "fp32")
    preprocessing = manifest["preprocessing"]
    assert preprocessing.keys() == {"resize", "height", "width", "filter", "mean", "std", "channel_order", "scale"}
    assert (preprocessing["resize"], preprocessing["height"], preprocessing["width"]) == ("squash", 224, 224)
    expected = {"type": "sentencepiece", "bos": 1, "eos": 2, "pad": 0, "pieces": 150, "prefix": "", "maximum": 512}
    assert manifest["tokenizer"] == {**expected, "file": "tokenizer/tokenizer.model"}
    assert manifest["generation"] == {"max_new_tokens": 4, "max_sequence": 512}
    memory = manifest["memory"]
    assert (memory["visual_rows"], memory["table_rows"], memory["scale"], memory["lambda"]) == (256, 290, 0.1, 0.01)
    assert memory["folded"].keys() == {"lambda", "indicator", "scale"}


def test_every_file_is_listed_with_its_digest_and_nothing_else_lies_there(bundle: Bundle) -> None:
    present = {path.relative_to(bundle.root).as_posix(): path for path in bundle.root.rglob("*") if path.is_file()}
    assert present.pop("manifest.json")
    assert present.keys() == bundle.manifest["files"].keys()
    assert present.keys() >= {
        *("graphs/vision.onnx", "graphs/vision.onnx.data", "graphs/decoder.onnx", "graphs/decoder.onnx.data"),
        *("tokenizer/tokenizer.model", "samples/golden.npz", "samples/requests.jsonl", "samples/answers.jsonl"),
    }
    for name, path in present.items():
        assert bundle.manifest["files"][name] == {"size": path.stat().st_size, "sha256": sha256_file(path)}


def test_the_sources_are_named_with_their_digests(bundle: Bundle, source: Source) -> None:
    sources = {(entry["key"], entry["file"]): entry for entry in bundle.manifest["sources"]}
    assert sources.keys() == {
        *(("base", "params.json"), ("base", "consolidated.00.pth"), ("vision", "ViT.pt")),
        *(("adapter", "checkpoint-19.pth"), ("tokenizer", "tokenizer.model")),
    }
    adapter = sources["adapter", "checkpoint-19.pth"]
    assert adapter["sha256"] == sha256_file(source.files["adapter"])
    assert adapter["size"] == source.files["adapter"].stat().st_size


def test_the_manifest_describes_the_graphs_ports(bundle: Bundle) -> None:
    types = {"float32": onnx.TensorProto.FLOAT, "graph": onnx.TensorProto.FLOAT, "int64": onnx.TensorProto.INT64}
    for name, entry in bundle.manifest["components"].items():
        graph = onnx.load(bundle.graph(name), load_external_data=False).graph
        for described, found in ((entry["inputs"], graph.input), (entry["outputs"], graph.output)):
            tensors = [(port.name, port.type.tensor_type) for port in found]
            ports = [(n, t.elem_type, *(dim.dim_param or dim.dim_value for dim in t.shape.dim)) for n, t in tensors]
            assert ports == [(port["name"], types[port["dtype"]], *port["dims"]) for port in described]
        dynamic = {d for port in entry["inputs"] for d in port["dims"] if isinstance(d, str) and "+" not in d}
        assert dynamic == entry["ranges"].keys()
    assert bundle.manifest["components"]["decoder"]["cache"] == {"kind": "concat", "axis": 2, "layers": 3}
    assert bundle.manifest["components"]["vision"]["cache"] is None


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_weights_are_stored_in_the_precision_that_was_asked_for(
    bundle_of: Callable[[str], Path], precision: str
) -> None:
    opened = Bundle.open(bundle_of(precision))
    kinds = {"fp32": onnx.TensorProto.FLOAT, "fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
    assert opened.manifest["precision"] == precision
    for component in components_of("memvp-llama", opened.manifest["config"]):
        graph = onnx.load(opened.graph(component.name), load_external_data=False).graph
        stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
        for name, weight in component.weights.items():
            assert stored[name] == (onnx.TensorProto.FLOAT if weight.float32 else kinds[precision]), name


def test_a_graph_is_traced_again_in_another_precision_from_the_bundle_alone(bundle: Bundle, tmp_path: Path) -> None:
    from memvp_export.exporter.bundle import change
    from memvp_export.exporter.graphs.precision import trace_again
    from memvp_export.exporter.onnx_session import OnnxSession
    from memvp_export.exporter.parity.metrics import distance
    from memvp_export.exporter.parity.samples import read_cases
    from memvp_export.exporter.progress import Progress

    copy = Path(shutil.copytree(bundle.root, tmp_path / "moved"))
    with change(copy) as (writer, manifest):
        trace_again(Bundle.open(copy), "vision", "fp16", writer, Progress())
        manifest["components"]["vision"]["graphs"]["fp16"] = {"file": "graphs/vision.fp16.onnx", "opset": 20}
        writer.write_manifest(manifest)
    changed = Bundle.open(copy, verify=True)
    (case,) = (case for case in read_cases(changed) if case.component == "vision")
    session = OnnxSession({"vision": changed.graph("vision", "fp16")}, "fp16")
    found = session.run("vision", case.inputs)["visual_memory"]
    assert found.dtype == np.float16
    assert distance(found, case.outputs["visual_memory"]).relative_l2 < 1e-2
    assert sha256_file(changed.graph("vision")) == sha256_file(bundle.graph("vision"))


def test_the_plan_is_what_the_export_writes(bundle: Bundle, source: Source, tmp_path: Path) -> None:
    planned = plan_export(source, "fp32").to_dict(tmp_path / "b")
    assert planned["config"] == bundle.manifest["config"] and planned["fits"]
    for part in planned["components"]:
        written = bundle.manifest["files"][part["file"] + ".data"]["size"]
        assert part["bytes"] <= written < 1.2 * part["bytes"] + 200_000
    with np.load(bundle.path("samples/golden.npz")) as golden:
        assert planned["golden_bytes"] == sum(array.nbytes for array in golden.values()) > 0
    assert planned["bytes"] == planned["golden_bytes"] + sum(part["bytes"] for part in planned["components"])
    assert plan_export(source, golden=False).to_dict(tmp_path / "b")["golden_bytes"] == 0
    assert plan_export(source).precision == "fp16"
    assert not list(tmp_path.iterdir())


def test_an_existing_output_is_refused_before_any_work(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "trace", lambda *args: pytest.fail("work was done"))
    (tmp_path / "b").touch()
    with pytest.raises(InputError, match="exists"):
        export_onnx(source, tmp_path / "b")


@pytest.mark.parametrize(("opset", "precision"), [(19, "fp32"), (24, "fp32"), (20, "bf16"), (-1, "fp16")])
def test_an_opset_that_cannot_be_written_is_refused_before_any_work(
    opset: int, precision: str, source: Source, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"opset {opset} cannot be exported in {precision}"):
        export_onnx(source, tmp_path / "b", precision, opset)
    assert not list(tmp_path.iterdir())


SAMPLES = {
    "no such file": (None, "is not a file"),
    "no request": ("\n\n", "holds no request"),
    "a missing image": ('{"id": "1", "text": "x", "image": "no.png"}', "no.png is not a file"),
    "too many choices": (json.dumps({"id": "1", "text": "x", "choices": ["y"] * 27}), "'1' has 27 choices"),
    "a damaged image": ('{"id": "1", "text": "x", "image": "samples.jsonl"}', "not an image"),
}


@pytest.mark.parametrize(("text", "message"), SAMPLES.values(), ids=list(SAMPLES))
def test_bad_samples_are_refused_before_the_long_work(
    text: str | None, message: str, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "trace", lambda *args: pytest.fail("work was done"))
    path = tmp_path / "samples.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        export_onnx(source, tmp_path / "b", samples=path)
    assert [entry.name for entry in tmp_path.iterdir()] == ([path.name] if text is not None else [])


def test_samples_that_would_not_be_used_are_refused(source: Source, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one or the other"):
        export_onnx(source, tmp_path / "b", samples=tmp_path / "samples.jsonl", golden=False)


def _only_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    used = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: used)


def test_a_disk_that_is_too_small_is_noticed_before_any_work(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "trace", lambda *args: pytest.fail("work was done"))
    _only_free(monkeypatch, 1 << 20)
    with pytest.raises(EnvironmentLack, match="the disk is too small"):
        export_onnx(source, tmp_path / "b")
    assert not list(tmp_path.iterdir())
    assert not plan_export(source).to_dict(tmp_path / "b")["fits"]


def test_the_golden_samples_need_room_too(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "trace", lambda *args: pytest.fail("work was done"))
    without = plan_export(source, golden=False).bytes + plan.HEADROOM
    _only_free(monkeypatch, without)
    assert plan_export(source, golden=False).to_dict(tmp_path / "b")["fits"]
    assert not plan_export(source).to_dict(tmp_path / "b")["fits"]
    with pytest.raises(EnvironmentLack, match="the disk is too small"):
        export_onnx(source, tmp_path / "b")


def _start(source: Path, output: Path) -> subprocess.Popen[str]:
    """An export in another process, once it is in the middle of its work."""
    command = [sys.executable, "-c", MAIN, "onnx", str(source), "-o", str(output), "--precision", "fp32"]
    before = set(output.parent.iterdir())
    child = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not any((folder / "samples" / "images").is_dir() for folder in set(output.parent.iterdir()) - before):
        assert child.poll() is None and time.monotonic() < deadline, child.communicate()[1]
        time.sleep(0.05)
    return child


def test_a_killed_export_leaves_only_its_partial_folder_and_the_next_run_removes_it(
    odd_source: Path, tmp_path: Path
) -> None:
    child = _start(odd_source, tmp_path / "b")
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    left = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(left) == 1 and all(path.name.startswith(".b.partial-") for path in tmp_path.iterdir())
    child = _start(odd_source, tmp_path / "b")
    assert not left[0].exists()
    child.send_signal(signal.SIGINT)
    child.communicate()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_leaves_nothing_and_exits_130(
    number: signal.Signals, odd_source: Path, tmp_path: Path
) -> None:
    child = _start(odd_source, tmp_path / "b")
    child.send_signal(number)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert errors.splitlines()[-1].startswith("error: interrupted") and "Traceback" not in errors
    assert not list(tmp_path.iterdir())


def test_an_interrupt_does_not_wait_for_the_source_to_be_hashed(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(path: Path, advance: Callable[[int], None]) -> str:
        while True:
            advance(0)

    def interrupted(*args: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "sha256_file", endless)
    monkeypatch.setattr(export, "trace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_onnx(source, tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_the_golden_answers_are_the_requests(bundle: Bundle) -> None:
    lines = [json.loads(line) for line in bundle.path("samples/requests.jsonl").read_text().splitlines()]
    answers = [json.loads(line) for line in bundle.path("samples/answers.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [answer["id"] for answer in answers]
    assert ["image" in line for line in lines] == [True, True, False]
    assert all(1 <= len(answer["ids"]) <= 4 for answer in answers)
