"""ONNX Runtime: each provider runs a graph whose result is known, instead of being listed."""

import json
from functools import partial

from ..child_process import ChildFailed, run_code
from .check import Check, alone, installed_version, pip_line, tried

# All of them are the import package onnxruntime.
_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-rocm")
_PROVIDERS = "import json, onnxruntime; print(json.dumps(onnxruntime.get_available_providers()))"
_SESSION = """
import sys, numpy, onnxruntime
provider = sys.argv[1]
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
session = onnxruntime.InferenceSession(sys.stdin.buffer.read(), options, providers=[provider])
assert provider in session.get_providers(), f"fell back to {session.get_providers()[0]}: its libraries do not load"
(y,) = session.run(None, {"x": numpy.array([[1, -2]], numpy.float32)})
assert y.tolist() == [[2, 0]], f"gave {y.tolist()} in place of [[2, 0]]"
print(f"{onnxruntime.__version__} ran a graph")
"""


def check_onnxruntime_conflict() -> list[Check]:
    """onnxruntime and onnxruntime-gpu own the same files: with both, CUDA may be lost without a word."""
    return alone("onnxruntime alone", _DISTRIBUTIONS, "gpu")


def check_onnxruntime() -> list[Check]:
    """Each provider that ONNX Runtime offers opens a session and gives the right numbers."""
    name, fix = "onnxruntime runs", f"Install it again:  {pip_line('cpu')}"
    if not any(map(installed_version, _DISTRIBUTIONS)):
        return [Check(name, "missing", "not installed", pip_line("cpu"), needed=True)]
    try:
        providers = json.loads(run_code(_PROVIDERS))
    except (ChildFailed, ValueError) as failure:
        return [Check(name, "broken", str(failure), fix, needed=True)]
    from .trials import two_nodes

    graph = two_nodes().model
    checks = []
    for provider in providers:
        if provider == "AzureExecutionProvider":
            # Sends nodes to a web service; it never runs a graph here.
            continue
        cpu = provider == "CPUExecutionProvider"
        gpu_fix = f"Its CUDA, cuDNN or TensorRT libraries are missing or of another version:  {pip_line('gpu')}"
        attempt = partial(run_code, _SESSION, provider, stdin=graph)
        checks.append(tried(f"{name} {provider}", attempt, fix if cpu else gpu_fix, needed=cpu))
    return checks
