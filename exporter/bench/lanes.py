"""What is measured side by side: a bundle on a backend, opened once."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..bundle import Bundle
from ..errors import EnvironmentLack, InputError, MissingPackage, ToolError
from ..machine import usable_cores
from ..precisions import PLAIN
from ..run import BACKENDS, manifest_as_run, open_session
from ..session import Arrays, Session
from .inputs import golden_arrays
from .loads import Ranges

TORCH, TENSORRT = "torch", "tensorrt"
KNOWN = (TORCH, *BACKENDS)


@dataclass(frozen=True)
class Lane:
    """A bundle on a backend. precision is the one asked for; name is unique in a report. trust_bundle, lowering and
    cuda_graphs are of engines, see TensorRTSession."""

    name: str
    bundle: Bundle
    backend: str
    precision: str
    trust_bundle: bool = False
    lowering: str | None = None
    cuda_graphs: bool = False

    @cached_property
    def session(self) -> Session:
        """Opened when it is first used. Raises what the backend's session raises."""
        if self.backend == TORCH:
            from .torch_session import open_torch

            return open_torch(self.bundle, self.bundle.plain_precision(self.precision))
        if self.backend != TENSORRT:
            return open_session(self.bundle, self.backend, self.precision)
        words = self.precision, self.trust_bundle, self.lowering
        return open_session(self.bundle, self.backend, *words, cuda_graphs=self.cuda_graphs)

    @property
    def computes(self) -> str:
        """The plain precision of the session's own inputs and outputs."""
        return self.bundle.plain_precision(str(getattr(self.session, "precision", self.precision)))

    @property
    def manifest(self) -> Mapping[str, Any]:
        """The bundle's, with the ports, ranges and caches of the engines where the session runs engines."""
        return manifest_as_run(self.bundle, self.session)

    @property
    def ranges(self) -> dict[str, Ranges]:
        """What each component takes, by dynamic dimension."""
        return {name: part["ranges"] for name, part in self.manifest["components"].items()}

    @cached_property
    def golden(self) -> Arrays:
        """See `golden_arrays`."""
        return golden_arrays(self.bundle)

    def lack(self) -> ToolError | None:
        """Why this cannot be measured here, as far as that is known before a graph is loaded."""
        if self.backend not in KNOWN:
            return InputError(f"backend {self.backend!r} cannot be measured; this version knows {', '.join(KNOWN)}")
        if self.backend == TORCH and find_spec("torch") is None:
            return MissingPackage("torch", "export")
        if self.backend == "onnxruntime" and find_spec("onnxruntime") is None:
            return MissingPackage("onnxruntime", "cpu")
        if self.backend == "onnxruntime" and self.precision == "bf16":
            return EnvironmentLack(
                "ONNX Runtime's CPU has no bfloat16 kernels: measure another backend, or a bundle in fp32 or fp16."
            )
        # Opening reads no weights and loads no engine, but chooses among the engines that there are.
        try:
            _ = self.session
        except ToolError as error:
            return error
        return None

    def record(self) -> dict[str, Any]:
        """What a report says of the lane, once its session is open."""
        return {
            "name": self.name,
            "backend": self.backend,
            "bundle": str(self.bundle.root),
            "digest": self.bundle.manifest["digest"],
            "precision": self.precision,
            "runs": self._runs(),
            "threads": self._threads(),
            "cuda_graphs": self._replayed(),
            "engines": [_engine(entry) for entry in getattr(self.session, "entries", {}).values()],
        }

    def _runs(self) -> str:
        if self.backend == TORCH:
            device = getattr(self.session, "device", "cpu")
            return f"PyTorch eager in {self.computes} on {device}, weights in memory"
        if self.backend == "onnxruntime":
            mapped = getattr(self.session, "mapped", None)
            words = "ONNX Runtime on the CPU"
            words += _on_cpu(self.precision)
            return words + (f"; {', '.join(sorted(mapped))} unoptimized, weights in their file" if mapped else "")
        facts: dict[str, str] = getattr(self.session, "facts", {})
        words = f"{self.backend} in {self.precision}" + (f"; {facts['engines']}" if "engines" in facts else "")
        replayed = self._replayed()
        if replayed is None:
            return words
        return f"{words}; CUDA graphs of {', '.join(replayed) or 'nothing: no call came again'}"

    def _replayed(self) -> list[str] | None:
        """The components whose calls were launches of CUDA graphs, None where none were asked for."""
        if self.backend != TENSORRT or not self.cuda_graphs:
            return None
        return [name for name, count in getattr(self.session, "replayed", {}).items() if count]

    def _threads(self) -> int | None:
        """Threads of a CPU backend, where it can be asked."""
        if self.backend != TORCH:
            return None
        import torch

        return torch.get_num_threads()


def lanes_of(
    bundles: list[Bundle],
    backends: tuple[str, ...] | None,
    precision: str | None,
    trust_bundle: bool = False,
    lowering: str | None = None,
    cuda_graphs: bool = False,
) -> tuple[list[Lane], list[str]]:
    """A lane for each bundle and backend, and notes on what was left out. backends None: all that can be measured
    here. Raises the lack of a backend that was asked for, InputError where CUDA graphs are and no engine is measured,
    and EnvironmentLack where nothing can be measured."""
    lanes: list[Lane] = []
    notes: list[str] = []
    for bundle, label in zip(bundles, _labels(bundles), strict=True):
        for backend in dict.fromkeys(KNOWN if backends is None else backends):
            name = f"{label} {backend}" if label else backend
            asked = precision or bundle.manifest["precision"], trust_bundle, lowering, cuda_graphs
            lane = Lane(name, bundle, backend, *asked)
            lack = lane.lack()
            if lack is None:
                beside, missing = beside_quantized(lane)
                lanes += beside
                notes += missing
            elif backends is None:
                notes.append(f"{name} is left out: {lack}")
            else:
                raise lack
    if not lanes:
        raise EnvironmentLack("nothing can be measured here. " + " ".join(notes))
    if cuda_graphs and all(lane.backend != TENSORRT for lane in lanes):
        raise InputError(" ".join(["CUDA graphs are of engines, and none is measured (--backend tensorrt).", *notes]))
    return lanes, notes


def beside_quantized(lane: Lane) -> tuple[list[Lane], list[str]]:
    """The lane, and where it is quantized the same backend in a plain precision beside it: that of the rest of its
    graphs, or the bundle's own. A note where it has neither."""
    own, plain = str(lane.bundle.manifest["precision"]), lane.bundle.plain_precision(lane.precision)
    if lane.precision in PLAIN or lane.backend == TORCH:
        return [lane], []
    named = replace(lane, name=f"{lane.name} {lane.precision}")
    others = [replace(lane, name=f"{lane.name} {other}", precision=other) for other in dict.fromkeys((plain, own))]
    lacks = [(other, other.lack()) for other in others]
    found = next((other for other, lack in lacks if lack is None), None)
    if found is None:
        return [named], [f"{named.name} has nothing to be compared with: {lacks[0][1]}"]
    return [named, found], []


def _on_cpu(precision: str) -> str:
    if precision not in PLAIN:
        return f" in {precision}, dequantized and computed in fp32: that says nothing of the speed of its engines"
    return ", which computes fp16 graphs in fp32" if precision == "fp16" else f" in {precision}"


def _engine(entry: Mapping[str, Any]) -> dict[str, Any]:
    names = ("component", "file", "target", "tensorrt", "flavor", "gpu", "lowering", "plugin")
    return {name: entry.get(name) for name in names}


def threads_note(lanes: list[dict[str, Any]]) -> list[str]:
    """A note where one CPU backend may use more cores than another."""
    few = [lane for lane in lanes if lane["threads"] not in (None, usable_cores())]
    if not few or len({lane["backend"] for lane in lanes}) == 1:
        return []
    return [
        f"{few[0]['name']} has {few[0]['threads']} threads for {usable_cores()} cores, and the others choose by "
        "themselves: is OMP_NUM_THREADS set?"
    ]


def _labels(bundles: list[Bundle]) -> list[str]:
    if len(bundles) == 1:
        return [""]
    names = [Path(bundle.root).resolve().name for bundle in bundles]
    return names if len(set(names)) == len(names) else [str(bundle.root) for bundle in bundles]
