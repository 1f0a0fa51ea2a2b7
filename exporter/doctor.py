"""What this machine can do, found by trying it.

Every check is one function that returns `Check`s; CHECKS lists them. Anything that can crash or hang (a runtime, a
GPU driver) is tried in a child process, so that its death is a line of the report and not the end of it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from .errors import EnvironmentLack

DISTRIBUTION = "memvp-export"
# Exporting, and checking the result on the CPU, is what has to work everywhere.
BASE_EXTRAS = ("", "export", "cpu")
_IGNORED_EXTRAS = ("dev",)
_SAME_MODULE = {
    "onnxruntime": ("onnxruntime-gpu",),
    "tensorrt": ("tensorrt-cu12", "tensorrt-cu13"),
    "tensorrt_rtx": ("tensorrt-rtx-cu12", "tensorrt-rtx-cu13"),
}
_TIMEOUT_S = 60.0
_BUILD_TIMEOUT_S = 180.0
_LOW_DISK = 1 << 30

Status = Literal["ok", "missing", "broken"]


@dataclass(frozen=True)
class Check:
    """One thing that was tried. missing: not here; broken: here and does not work. fix says what to do about it.

    needed: exporting and checking on the CPU do not work without it.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""
    needed: bool = False


def doctor() -> list[Check]:
    """Run all checks, a few at a time, and return them in the order of CHECKS. Raises nothing; takes seconds."""
    with ThreadPoolExecutor(4) as pool:
        return [check for checks in pool.map(_guarded, CHECKS) for check in checks]


def exit_code(checks: list[Check]) -> int:
    """0 where exporting and checking on the CPU work, else 3; optional parts do not count."""
    works = all(check.status == "ok" for check in checks if check.needed)
    return 0 if works else EnvironmentLack.exit_code


def _guarded(check: Callable[[], list[Check]]) -> list[Check]:
    try:
        return check()
    except Exception as error:
        name = check.__name__.removeprefix("check_").replace("_", " ")
        return [Check(name, "broken", f"the check itself failed: {type(error).__name__}: {error}")]


@dataclass(frozen=True)
class Outcome:
    """How a child process ended: the last line it printed if it worked, else why it did not."""

    worked: bool
    text: str


def run_child(code: str, *arguments: str, stdin: bytes = b"", timeout: float = _TIMEOUT_S) -> Outcome:
    """Run Python code in a child of this interpreter; timeout in seconds."""
    # -P: a file of the current folder must not stand in for a package.
    return run_program([sys.executable, "-P", "-c", code, *arguments], stdin, timeout)


def run_program(command: list[str], stdin: bytes = b"", timeout: float = _TIMEOUT_S) -> Outcome:
    """Run a program and take its last line; a crash, a hang or an error is an Outcome, not an exception."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return Outcome(False, f"did not answer within {timeout:g} s")
    except OSError as error:
        return Outcome(False, f"cannot be started: {error.strerror}")
    if done.returncode < 0:
        return Outcome(False, f"crashed ({signal.Signals(-done.returncode).name})")
    lines = [
        line.strip() for line in (done.stderr if done.returncode else done.stdout).decode(errors="replace").split("\n")
    ]
    last = next((line for line in reversed(lines) if line), "")
    return Outcome(done.returncode == 0, last.removeprefix("AssertionError: ") or f"ended with code {done.returncode}")


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def pip_line(extra: str) -> str:
    """The command that installs the packages of an extra."""
    return f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install {DISTRIBUTION}"


def _tried(name: str, outcome: Outcome, fix: str, needed: bool = False) -> Check:
    return Check(name, "ok" if outcome.worked else "broken", outcome.text, "" if outcome.worked else fix, needed)


def check_python() -> list[Check]:
    """The interpreter is new enough."""
    version = ".".join(map(str, sys.version_info[:3]))
    new_enough = sys.version_info >= (3, 11)
    fix = "" if new_enough else "Use Python 3.11 or newer."
    return [Check("python", "ok" if new_enough else "broken", f"{version} at {sys.executable}", fix, needed=True)]


def check_packages() -> list[Check]:
    """Every package of the base and of each extra, against the lowest version that is supported."""
    try:
        return [_package(*requirement) for requirement in _requirements()]
    except metadata.PackageNotFoundError:
        fix = "In the source folder:  pip install -e ."
        return [Check("packages", "broken", f"{DISTRIBUTION} itself is not installed", fix, needed=True)]


def _requirements() -> Iterator[tuple[str, str, str]]:
    """(package, lowest version, extra) of every requirement, each package once."""
    seen = {DISTRIBUTION}
    for line in metadata.requires(DISTRIBUTION) or []:
        extra = found[1] if (found := re.search(r"extra == ['\"](.+?)['\"]", line)) else ""
        if not (parts := re.match(r"([\w.-]+)[^;]*?(?:>=\s*([\d.]+))?\s*(?:;|$)", line)):
            continue
        name, lowest = parts[1], parts[2] or "0"
        if name not in seen and extra not in _IGNORED_EXTRAS:
            seen.add(name)
            yield name, lowest, extra


def _package(name: str, lowest: str, extra: str) -> Check:
    found = next(((n, v) for n in (name, *_SAME_MODULE.get(name, ())) if (v := installed_version(n))), None)
    title, needed, fix = f"package {name}", extra in BASE_EXTRAS, pip_line(extra)
    if found is None:
        if name == "onnxruntime-gpu" and installed_version("onnxruntime"):
            fix = f"pip uninstall -y onnxruntime && {fix}"
        return Check(title, "missing", f"not installed (extra {extra})" if extra else "not installed", fix, needed)
    if _numbers(found[1]) < _numbers(lowest):
        return Check(title, "broken", f"{found[1]} is older than {lowest}", f"{fix} --upgrade", needed)
    return Check(title, "ok", " ".join(found) if found[0] != name else found[1], needed=needed)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


_TORCH = """
import torch
result = (torch.ones(2, 3) @ torch.ones(3, 2)).sum().item()
assert result == 12, f"2x3 @ 3x2 of ones sums to {result}, not 12"
cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no CUDA"
print(f"{torch.__version__} multiplies; {cuda}")
"""


def check_torch() -> list[Check]:
    """PyTorch loads and multiplies."""
    if installed_version("torch") is None:
        return [Check("torch runs", "missing", "not installed", pip_line("export"), needed=True)]
    return [_tried("torch runs", run_child(_TORCH), f"Install it again:  {pip_line('export')}", needed=True)]


def check_onnxruntime_conflict() -> list[Check]:
    """onnxruntime and onnxruntime-gpu own the same files: together, whichever came last wins."""
    versions = {name: installed_version(name) for name in ("onnxruntime", "onnxruntime-gpu")}
    if not any(versions.values()):
        return []
    detail = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    if not all(versions.values()):
        return [Check("onnxruntime alone", "ok", detail)]
    fix = f"pip uninstall -y onnxruntime onnxruntime-gpu && {pip_line('gpu')}"
    return [Check("onnxruntime alone", "broken", f"both are installed: {detail}; CUDA is lost without a word", fix)]


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


def check_onnxruntime() -> list[Check]:
    """Each provider that ONNX Runtime offers opens a session and runs it, instead of being listed."""
    name, fix = "onnxruntime runs", f"Install it again:  {pip_line('cpu')}"
    if not (installed_version("onnxruntime") or installed_version("onnxruntime-gpu")):
        return [Check(name, "missing", "not installed", pip_line("cpu"), needed=True)]
    listed = run_child(_PROVIDERS)
    if not listed.worked:
        return [_tried(name, listed, fix, needed=True)]
    graph = two_node_graph()
    checks = []
    for provider in json.loads(listed.text):
        if provider == "AzureExecutionProvider":
            # Sends nodes to a web service; it never runs a graph here.
            continue
        cpu = provider == "CPUExecutionProvider"
        gpu_fix = f"Its CUDA, cuDNN or TensorRT libraries are missing or of another version:  {pip_line('gpu')}"
        outcome = run_child(_SESSION, provider, stdin=graph)
        checks.append(_tried(f"{name} {provider}", outcome, fix if cpu else gpu_fix, needed=cpu))
    return checks


def two_node_graph() -> bytes:
    """An ONNX model `y = relu(x @ [[2, 0], [0, 2]])` with x and y [1,2] float32."""
    from onnx import TensorProto, helper

    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y")]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [2, 0, 0, 2])
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    graph = helper.make_graph(nodes, "two_nodes", ports[:1], ports[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


_BUILD = """
import importlib, sys
trt = importlib.import_module(sys.argv[1])
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
known = trt.NetworkDefinitionCreationFlag
flags = [getattr(known, name) for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH") if hasattr(known, name)]
network = builder.create_network(1 << int(flags[0]) if flags else 0)
parser = trt.OnnxParser(network, logger)
assert parser.parse(sys.stdin.buffer.read()), f"the parser refused two nodes: {parser.get_error(0).desc()}"
engine = builder.build_serialized_network(network, builder.create_builder_config())
assert engine is not None, "two nodes could not be built"
print(f"{trt.__version__} parsed and built two nodes")
"""


def check_tensorrt() -> list[Check]:
    """TensorRT creates a builder, parses two nodes and builds an engine of them."""
    return _builder("tensorrt", "gpu", "It needs an NVIDIA GPU, a driver of its CUDA version, and all its libraries")


def check_tensorrt_rtx() -> list[Check]:
    """The same for TensorRT-RTX, which needs no GPU to build."""
    return _builder("tensorrt_rtx", "rtx", "Install it again")


def _builder(module: str, extra: str, advice: str) -> list[Check]:
    name = f"{module} builds"
    if not any(map(installed_version, (module, *_SAME_MODULE[module]))):
        return [Check(name, "missing", "not installed", pip_line(extra))]
    outcome = run_child(_BUILD, module, stdin=two_node_graph(), timeout=_BUILD_TIMEOUT_S)
    return [_tried(name, outcome, f"{advice}:  {pip_line(extra)}")]


def check_gpu() -> list[Check]:
    """The GPUs that the driver sees."""
    query = "--query-gpu=name,compute_cap,driver_version,memory.total"
    program = shutil.which("nvidia-smi")
    if program is None:
        fix = "Only engines need one: install an NVIDIA driver where they are to run."
        return [Check("gpu", "missing", "no NVIDIA driver (nvidia-smi is not found)", fix)]
    try:
        done = subprocess.run(
            [program, query, "--format=csv,noheader"], capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return [Check("gpu", "broken", "nvidia-smi does not answer", "Restart the machine or its driver.")]
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.count(",") == 3]
    if done.returncode or not rows:
        detail = (done.stdout.strip() or done.stderr.strip() or "no GPU is listed").splitlines()[-1]
        return [Check("gpu", "broken", f"nvidia-smi: {detail}", "Install the NVIDIA driver again.")]
    return [
        Check("gpu", "ok", f"{name}, compute capability {capability}, driver {driver}, {size}")
        for name, capability, driver, size in rows
    ]


def check_nvcc() -> list[Check]:
    """The CUDA compiler, for building the plugin."""
    program = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if program is None:
        return [Check("nvcc", "missing", "not found", "Only building the plugin needs it: install the CUDA toolkit.")]
    return [_tried("nvcc", run_program([program, "--version"]), "Install the CUDA toolkit again.")]


def check_disk() -> list[Check]:
    """Free space where the current folder is."""
    free = shutil.disk_usage(Path.cwd()).free
    detail = f"{free / 1e9:.1f} GB free in {Path.cwd()}; a bundle takes about the size of its checkpoint"
    fix = "" if free >= _LOW_DISK else "Free some space, or work on another disk."
    return [Check("disk", "ok" if free >= _LOW_DISK else "broken", detail, fix)]


def check_memory() -> list[Check]:
    """Memory that programs can still take."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, available = (int(lines[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return [Check("memory", "ok", "its size cannot be read on this system")]
    return [Check("memory", "ok", f"{available / 1e9:.1f} of {total / 1e9:.1f} GB available")]


def check_write_permission() -> list[Check]:
    """A file can be made in the current folder."""
    try:
        with tempfile.TemporaryFile(dir=Path.cwd()) as file:
            file.write(b"1")
    except OSError as error:
        fix = "Work in a folder of your own, or give --output elsewhere."
        return [Check("write permission", "broken", f"{Path.cwd()}: {error.strerror}", fix, needed=True)]
    return [Check("write permission", "ok", str(Path.cwd()), needed=True)]


def check_hugging_face_cache() -> list[Check]:
    """Where `hf:` sources are kept, whether it can be written, and whether downloads are switched off."""
    base = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(base) / "hub").expanduser().absolute()
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    mode = "offline: only what is there is used" if offline else "online"
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not os.access(existing, os.W_OK) and not offline:
        fix = "Set HF_HOME to a folder that you can write."
        return [Check("hugging face cache", "broken", f"{cache} cannot be written", fix)]
    return [Check("hugging face cache", "ok", f"{cache} ({mode})")]


CHECKS: list[Callable[[], list[Check]]] = [
    check_python,
    check_packages,
    check_torch,
    check_onnxruntime_conflict,
    check_onnxruntime,
    check_gpu,
    check_nvcc,
    check_tensorrt,
    check_tensorrt_rtx,
    check_disk,
    check_memory,
    check_write_permission,
    check_hugging_face_cache,
]
