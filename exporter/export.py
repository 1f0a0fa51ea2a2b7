"""checkpoint -> bundle: the whole of `memvp-export onnx`."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from .bundle import Bundle, BundleWriter, check_place, graph_entry, new_bundle, sha256_file
from .checkpoints.lazy import LazyTensor
from .checkpoints.source import Source
from .graphs.publish import write_graph
from .graphs.trace import trace
from .models.component import Component, Port, constants_of
from .models.family import Model
from .models.reference import TorchReference
from .parity.latents import write_image_samples
from .parity.sample_requests import bundled_requests, needs_of
from .parity.samples import write_samples
from .pipelines import makes_images, pipeline_from
from .plan import plan_export, require_room
from .progress import Progress


def export_onnx(
    source: Source,
    output: Path | str,
    precision: str | None = None,
    opset: int | None = None,
    samples: Path | None = None,
    golden: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
    keep_fp32: Sequence[str] = (),
) -> Bundle:
    """Export the official files of `source` to a bundle at `output` and return it opened.

    precision is "fp32", "fp16" or "bf16" (default: the checkpoint's own); samples is a JSONL file of requests to make
    the golden samples of (default: drawn pictures and plain questions); golden=False leaves them out. keep_fp32 are
    globs of modules that stay float32 in half graphs. Memory stays at the imports plus the largest tensor. Raises
    InputError for bad files, or an output that exists or is being made; EnvironmentLack for a disk that is too small.
    """
    progress = progress or Progress()
    check_place(Path(output), overwrite)
    with progress.stage("read the source"):
        plan = plan_export(source, precision, opset, golden, keep_fp32, samples)
        model, precision, opset = plan.model, plan.precision, plan.opset
        require_room(plan.bytes, Path(output))
    for note in model.notes:
        progress.note(note)
    with new_bundle(Path(output), overwrite) as writer, _source_digests(model) as digests:
        requests = (
            bundled_requests(samples, writer, needs_of(model.components, model.labels, model.task)) if golden else []
        )
        tensors = {**model.weights, **constants_of(model.components)}
        components = {
            part.name: _export_component(part, tensors, precision, opset, plan.keep_fp32[part.name], writer, progress)
            for part in model.components
        }
        manifest: dict[str, Any] = {
            "family": model.family,
            "task": model.task,
            "precision": precision,
            "options": dict(model.options),
            "config": model.config.to_dict(),
            "preprocessing": dict(model.preprocessing),
            "tokenizer": _copy_tokenizer(model, writer),
            "generation": None if model.generation is None else dict(model.generation),
            "labels": model.labels,
            "memory": dict(model.memory),
            **({"similarity": dict(model.similarity)} if model.similarity else {}),
            **({"scheduler": _copy_scheduler(model.scheduler, writer)} if model.scheduler else {}),
            "components": components,
            "engines": [],
            "samples": None,
        }
        if golden:
            with progress.stage("golden samples"):
                reference = TorchReference(model.components, model.reference_weights)
                if makes_images(manifest):
                    manifest["samples"] = write_image_samples(reference, model.components, manifest, requests, writer)
                else:
                    pipeline = pipeline_from(reference, manifest, writer.root, "fp32")
                    manifest["samples"] = write_samples(reference, model.components, pipeline, requests, writer)
        with progress.stage("hash the source"):
            manifest["sources"] = digests.result()
        writer.write_manifest(manifest)
    return Bundle.open(output)


def _export_component(
    component: Component,
    tensors: Mapping[str, LazyTensor],
    precision: str,
    opset: int,
    keep_fp32: Sequence[str],
    writer: BundleWriter,
    progress: Progress,
) -> dict[str, Any]:
    name = f"graphs/{component.name}.onnx"
    with progress.stage(f"trace {component.name}"):
        model = trace(component, precision, opset, keep_fp32)
    write_graph(model, tensors, writer, name, progress)
    return {
        "inputs": [_port(port) for port in component.inputs],
        "outputs": [_port(port) for port in component.outputs],
        "ranges": {dim: list(limits) for dim, limits in component.ranges.items()},
        "cache": {"kind": "concat", "axis": component.cache.axis, "layers": component.cache.layers}
        if component.cache
        else None,
        "graphs": {precision: graph_entry(name, opset, keep_fp32)},
    }


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "dtype": port.dtype, "dims": list(port.dims)}


def _copy_tokenizer(model: Model, writer: BundleWriter) -> dict[str, Any]:
    names = {key: f"tokenizer/{path.name}" for key, path in model.tokenizer_files.items()}
    for key, name in names.items():
        shutil.copyfile(model.tokenizer_files[key], writer.path(name))
        writer.record(name)
    return {**model.tokenizer, **names}


def _copy_scheduler(path: Path, writer: BundleWriter) -> str:
    name = f"scheduler/{path.name}"
    shutil.copyfile(path, writer.path(name))
    writer.record(name)
    return name


@contextmanager
def _source_digests(model: Model) -> Iterator[Future[list[dict[str, Any]]]]:
    """The digests of the source's files, on their way in another thread, which ends with the block."""
    left = Event()

    def advance(size: int) -> None:
        if left.is_set():
            raise CancelledError

    def digests() -> list[dict[str, Any]]:
        return [
            {"key": key, "file": path.name, "size": path.stat().st_size, "sha256": sha256_file(path, advance)}
            for key, paths in model.files.items()
            for path in paths
        ]

    with ThreadPoolExecutor(1) as background:
        try:
            yield background.submit(digests)
        finally:
            left.set()
