"""The float32 twin of a bf16 graph: the same weights and the same nodes, where nothing can run bfloat16."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx

from ..bundle import Bundle, BundleWriter
from ..errors import MissingPackage
from ..onnx_session import OnnxSession
from ..progress import Progress


@contextmanager
def float32_twin(bundle: Bundle) -> Iterator[tuple[OnnxSession, list[str]]]:
    """A session over float32 graphs traced anew from the manifest, on the bundle's bf16 weights, and a list of the
    structural differences between the two forms (none is expected). Needs torch; lives until the block ends. Raises
    InputError where the bundle has no bf16 graphs."""
    try:
        from ..graphs.precision import trace_again
    except ImportError as error:
        raise MissingPackage("torch", "export") from error
    with tempfile.TemporaryDirectory(prefix="memvp-twin-") as folder:
        writer = BundleWriter(Path(folder))
        # Weights are those of the bundle's own precision, which need not be bf16.
        bundle = replace(bundle, manifest={**bundle.manifest, "precision": "bf16"})
        graphs, differences = {}, []
        for name in bundle.manifest["components"]:
            graph = bundle.graph(name)
            graphs[name] = trace_again(bundle, name, "fp32", writer, Progress())
            differences += structural_differences(graph, graphs[name])
        yield OnnxSession(graphs, "fp32"), differences


def structural_differences(graph: Path, twin: Path) -> list[str]:
    """Operators, by name and number, in which two graphs differ; Casts apart, since they are what precision adds."""
    first, second = (
        Counter(
            (node.domain, node.op_type)
            for node in onnx.load(str(path), load_external_data=False).graph.node
            if node.op_type != "Cast"
        )
        for path in (graph, twin)
    )
    return [
        f"{graph.name}: {first[key]} nodes {key[1]}, {second[key]} in its float32 twin"
        for key in sorted(first.keys() | second.keys())
        if first[key] != second[key]
    ]
