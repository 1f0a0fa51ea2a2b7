"""The visual-memory FFN on a GPU: our kernels beside what torch can do, in turns in one process.

    python benchmarks/kernel_speed.py --library LIB.so [--dtype float16]
    python benchmarks/kernel_speed.py --dry-run     (on any machine: through the script, at sizes that mean nothing)

Sizes are LLaMA-7B's. Every lowering is timed alone, as the operator, and inside the block that it belongs to (gate, up,
down and the memory): a native memory is part of the FFN's products and has no time of its own, so its cost is the
block's time less that of the FFN without memory. The tensors of consecutive calls are different ones, together larger
than the L2 cache. Times are of CUDA graphs, launched again and again so that the first launch counts for little; beside
them stands what the same calls take when they are launched one by one, and what a launch takes that does nothing. A
lowering of torch's compiler that fails is left out, and named.
Writes benchmarks/results/kernel-speed.json, anew after every case.
"""

import argparse
import ctypes
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from memvp_export.plugins.kernels import interface, on_torch

RESULTS = Path(__file__).parent / "results"
SCALE = 0.1
# Between two events: the first graph's launch, which the host makes while the GPU waits, is in it.
_MEASURED_US = 2000
Run = Callable[["Tensors"], torch.Tensor]


@dataclass(frozen=True)
class Sizes:
    """Width d, the FFN's width, rows v of the visual memory, p of the tables."""

    width: int
    inner: int
    rows: int
    table_rows: int


LLAMA_7B = Sizes(4096, 11008, 256, 320)
DRY = Sizes(64, 96, 16, 24)
# (batch, tokens)
CASES = [(1, 1), (8, 1), (64, 1), (1, 64), (8, 64), (1, 512), (8, 512)]
DRY_CASES = [(1, 1), (5, 1), (2, 9)]


@dataclass(frozen=True)
class Tensors:
    """One call's operands. gate_up_keys is [W1 | W3 | Pk] and down_values [W2 ; scale Pv], stored [in, out]."""

    hidden: torch.Tensor
    ffn: torch.Tensor
    visual: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    gate_up_keys: torch.Tensor
    down_values: torch.Tensor
    output: torch.Tensor
    workspace: torch.Tensor

    @staticmethod
    def random(sizes: Sizes, batch: int, tokens: int, dtype: torch.dtype, device: str) -> "Tensors":
        """Tensors whose scores are of the order of 1."""

        def normal(*shape: int, size: float = 1.0) -> torch.Tensor:
            return (size * torch.randn(shape, device=device)).to(dtype)

        unit = sizes.width**-0.5
        visual = normal(batch, sizes.rows, sizes.width, size=unit)
        keys, values = normal(sizes.table_rows, sizes.width, size=unit), normal(sizes.table_rows, sizes.width)
        gate_up = normal(sizes.width, 2 * sizes.inner, size=unit)
        down = normal(sizes.inner, sizes.width, size=sizes.inner**-0.5)
        token = (batch, tokens, sizes.width)
        return Tensors(
            normal(*token),
            normal(*token),
            visual,
            keys,
            values,
            torch.cat((gate_up, keys.T), 1),
            torch.cat((down, SCALE * values)),
            torch.empty(token, dtype=dtype, device=device),
            torch.empty(0, dtype=torch.uint8, device=device),
        )


def lookup(scores: torch.Tensor, t: Tensors) -> torch.Tensor:
    """Activations of static scores [B,T,p] after those of the visual rows are added; scores are changed."""
    rows = t.visual.shape[1]
    scores[..., :rows] += t.hidden @ t.visual.mT
    return torch.nn.functional.silu(scores)


def eager(t: Tensors, base: torch.Tensor) -> torch.Tensor:
    """The operator's factored body, product by product."""
    a = lookup(t.hidden @ t.keys.T, t)
    return base + SCALE * (a @ t.values + a[..., : t.visual.shape[1]] @ t.visual)


def native(t: Tensors) -> torch.Tensor:
    """The operator alone in as few products as there are, additions in their epilogues."""
    a = lookup(t.hidden @ t.keys.T, t)
    width = t.hidden.shape[-1]
    base = torch.addmm(t.ffn.view(-1, width), a.flatten(0, 1), t.values, alpha=SCALE)
    return torch.baddbmm(base.view_as(t.ffn), a[..., : t.visual.shape[1]], t.visual, alpha=SCALE)


def halves(t: Tensors, inner: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The FFN's inner activations [B,T,inner] and the static scores [B,T,p], of one product."""
    both = t.hidden @ t.gate_up_keys
    gate, up, scores = both[..., :inner], both[..., inner : 2 * inner], both[..., 2 * inner :]
    return torch.nn.functional.silu(gate) * up, scores


def plain_block(t: Tensors) -> torch.Tensor:
    """The FFN without memory."""
    inner = len(t.down_values) - len(t.values)
    both = t.hidden @ t.gate_up_keys[:, : 2 * inner]
    h = torch.nn.functional.silu(both[..., :inner]) * both[..., inner:]
    return h @ t.down_values[:inner]


def native_block(t: Tensors) -> torch.Tensor:
    """The block with the memory concatenated to the FFN's weights: [h | a] [W2 ; scale Pv], then + scale a Z."""
    h, scores = halves(t, len(t.down_values) - len(t.values))
    a = lookup(scores, t)
    base = torch.cat((h, a), -1) @ t.down_values
    return torch.baddbmm(base, a[..., : t.visual.shape[1]], t.visual, alpha=SCALE)


def lowerings(library: ctypes.CDLL | None, dry: bool) -> dict[str, dict[str, Run]]:
    """By name, the operator alone and its block."""

    def plugin(t: Tensors, base: torch.Tensor) -> torch.Tensor:
        assert library is not None
        operands = (t.hidden, base, t.visual, t.keys, t.values)
        return on_torch.visual_memory_ffn(library, *operands, SCALE, "silu", output=t.output, workspace=t.workspace)

    compiled = torch.compile(eager, backend="eager" if dry else "inductor", dynamic=False)
    compiled_block = torch.compile(native_block, backend="eager" if dry else "inductor", dynamic=False)
    made: dict[str, dict[str, Run]] = {
        "plain": {"block": plain_block},
        "native": {"operator": native, "block": native_block},
        "eager": {"operator": lambda t: eager(t, t.ffn), "block": lambda t: eager(t, plain_block(t))},
        "compile": {"operator": lambda t: compiled(t, t.ffn), "block": compiled_block},
    }
    if library is not None:
        made["plugin"] = {"operator": lambda t: plugin(t, t.ffn), "block": lambda t: plugin(t, plain_block(t))}
    return made


class Timed:
    """A run over all tensor sets, as one CUDA graph where there is a GPU."""

    def __init__(self, run: Run, sets: list[Tensors]) -> None:
        self.run, self.sets = run, sets
        self._pass()
        self.device = sets[0].hidden.device.type
        self._timed, self.repeats = self._pass, 1
        if self.device == "cuda":
            self._timed = captured(self._pass)
            self._timed()
            self.repeats = max(1, int(_MEASURED_US / max(1.0, elapsed_us(self.device, self._timed))))

    def _pass(self) -> None:
        for tensors in self.sets:
            self.run(tensors)

    def microseconds(self) -> float:
        """Of one call, mean over the sets and over passes back to back."""

        def again() -> None:
            for _ in range(self.repeats):
                self._timed()

        return elapsed_us(self.device, again) / (self.repeats * len(self.sets))

    def launched(self, passes: int) -> float:
        """The same without a graph, median of the passes."""
        return statistics.median(elapsed_us(self.device, self._pass) for _ in range(passes)) / len(self.sets)


def captured(work: Callable[[], None]) -> Callable[[], None]:
    """The work as a CUDA graph; it must have run before."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def elapsed_us(device: str, work: Callable[[], object]) -> float:
    """Microseconds of some work, on a GPU between events of the current stream."""
    if device != "cuda":
        start = time.perf_counter()
        work()
        return 1e6 * (time.perf_counter() - start)
    torch.cuda.synchronize()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    end.synchronize()
    return 1e3 * begin.elapsed_time(end)


def percentiles(samples: list[float]) -> dict[str, float]:
    """Median, and the 10th and 90th of a hundred."""
    cuts = statistics.quantiles(samples, n=10, method="inclusive")
    return {"median": statistics.median(samples), "p10": cuts[0], "p90": cuts[-1]}


def in_turns(runs: dict[str, Timed], passes: int) -> dict[str, dict[str, float]]:
    """Microseconds of each run; the runs take turns, and the first passes are not counted."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(passes + max(2, passes // 10)):
        for name, timed in runs.items():
            samples[name].append(timed.microseconds())
            if turn < max(2, passes // 10):
                samples[name].clear()
    return {name: percentiles(found) for name, found in samples.items()}


def bandwidth(device: str, dry: bool) -> dict[str, float]:
    """GB/s of this device: of a copy, bytes read and written, and of a sum, bytes read."""
    source = torch.ones(1 << (16 if dry else 30), dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    runs: dict[str, tuple[int, Callable[[], object]]] = {
        "copy": (2 * source.nbytes, lambda: target.copy_(source)),
        "read": (source.nbytes, lambda: source.sum()),
    }
    found = {}
    for name, (moved, run) in runs.items():
        times = [elapsed_us(device, run) for _ in range(12)]
        found[name] = 1e-3 * moved / statistics.median(times[2:])
    return found


def launch_floor(device: str) -> dict[str, float]:
    """Microseconds from one launch to the next of a kernel that adds 1 to one number: one by one, and on a GPU in a
    CUDA graph."""
    number, count = torch.zeros(1, device=device), 200

    def launches() -> None:
        for _ in range(count):
            number.add_(1)

    ways = {"one by one": launches}
    launches()
    if device == "cuda":
        ways["in a graph"] = captured(launches)
    return {name: statistics.median(elapsed_us(device, work) for _ in range(12)) / count for name, work in ways.items()}


def least_bytes(sizes: Sizes, batch: int, tokens: int, element: int) -> int:
    """What the operator must move: each visual row and each table once, hidden, ffn and output once."""
    memory = (batch * sizes.rows + 2 * sizes.table_rows) * sizes.width
    return element * (memory + 3 * batch * tokens * sizes.width)


def measure(
    case: tuple[int, int], sizes: Sizes, arguments: argparse.Namespace, library: ctypes.CDLL | None, device: str
) -> dict[str, Any]:
    """One case: microseconds by lowering, in a graph and launched one by one, and errors against float64."""
    torch.compiler.reset()  # or it stops compiling after a few shapes
    batch, tokens = case
    dtype = getattr(torch, arguments.dtype)
    moved = least_bytes(sizes, batch, tokens, dtype.itemsize)
    cache = torch.cuda.get_device_properties(0).L2_cache_size if device == "cuda" else 0
    made = lowerings(library, arguments.dry_run)
    found: dict[str, Any] = {"batch": batch, "tokens": tokens, "least_bytes": moved}
    for part in ("operator", "block"):
        # A block's weights alone are larger than any L2 cache.
        count = 2 if part == "block" or arguments.dry_run else max(2, 3 * cache // moved + 1)
        sets = [Tensors.random(sizes, batch, tokens, dtype, device) for _ in range(count)]
        if library is not None:
            t = sets[0]
            problem = on_torch.problem_of(t.hidden, t.visual, t.keys, SCALE, "silu")
            needed = interface.workspace_bytes(library, problem)
            for t in sets:
                t.workspace.resize_(needed)
        runs, failed = timed({name: forms[part] for name, forms in made.items() if part in forms}, sets)
        found[f"{part}_us"] = in_turns(runs, arguments.passes)
        found[f"{part}_launched_us"] = {name: run.launched(arguments.passes) for name, run in runs.items()}
        found[f"{part}_error"] = {name: error(one.run, sets[0], part) for name, one in runs.items() if name != "plain"}
        found[f"{part}_failed"] = failed
        del sets, runs
    return found


def timed(forms: dict[str, Run], sets: list[Tensors]) -> tuple[dict[str, Timed], dict[str, str]]:
    """The forms by name, ready to be timed, and why torch's compiler could not make its own where it could not."""
    runs, failed = {}, {}
    for name, form in forms.items():
        try:
            runs[name] = Timed(form, sets)
        except Exception as error:
            if name != "compile":
                raise
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return runs, failed


def error(run: Run, t: Tensors, part: str) -> float:
    """Relative L2 distance of the output from float64."""
    wide = Tensors(*(tensor.double() for tensor in vars(t).values()))
    base = wide.ffn if part == "operator" else plain_block(wide)
    wanted = eager(wide, base)
    return float((run(t).double() - wanted).norm() / wanted.norm())


def show(found: dict[str, Any], reachable: float) -> None:
    """One line a lowering."""
    operator, block = found["operator_us"], found["block_us"]
    print(f"B={found['batch']} T={found['tokens']}  (plain FFN {block['plain']['median']:.1f} us)")
    for name, times in operator.items():
        rate = 1e-3 * found["least_bytes"] / times["median"]
        added = block[name]["median"] - block["plain"]["median"] if name in block else math.nan
        print(
            f"  {name:8} operator {times['median']:8.1f} us [{times['p10']:.1f}, {times['p90']:.1f}], "
            f"{100 * rate / reachable:4.0f} % of the bandwidth; adds {added:7.1f} us to the block; "
            f"native/this {operator['native']['median'] / times['median']:.2f}; "
            f"launched one by one {found['operator_launched_us'][name]:.1f} us"
        )
    for part in ("operator", "block"):
        for name, why in found[f"{part}_failed"].items():
            print(f"  {name:8} {part} left out: {why}")


def machine(device: str) -> dict[str, object]:
    """What the figures were measured on."""
    found: dict[str, object] = {"torch": torch.__version__, "cuda": torch.version.cuda}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "sm": f"{properties.major}{properties.minor}"}
        found |= {"multiprocessors": properties.multi_processor_count, "l2_bytes": properties.L2_cache_size}
    return found


def write(output: Path, found: dict[str, object]) -> None:
    """Whole or not at all: what ends this process may do so at any time."""
    output.parent.mkdir(exist_ok=True, parents=True)
    partial = output.with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=1) + "\n")
    partial.replace(output)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, help="the kernels' or the plugin's library; without one, torch alone")
    parser.add_argument("--dtype", choices=interface.TYPES, default="float16")
    parser.add_argument("--passes", type=int, default=60)
    parser.add_argument("--output", type=Path, help="benchmarks/results/kernel-speed.json where this is no dry run")
    parser.add_argument("--dry-run", action="store_true", help="go through everything at small sizes on the CPU")
    arguments = parser.parse_args()
    if not arguments.dry_run and not torch.cuda.is_available():
        parser.error("torch sees no CUDA GPU: this measures one; --dry-run goes through the script without")
    device = "cpu" if arguments.dry_run else "cuda"
    arguments.passes = 3 if arguments.dry_run else arguments.passes
    library = interface.open_library(arguments.library) if arguments.library else None
    sizes, chosen = (DRY, DRY_CASES) if arguments.dry_run else (LLAMA_7B, CASES)
    output = arguments.output or (None if arguments.dry_run else RESULTS / "kernel-speed.json")
    found: dict[str, object] = {"machine": machine(device), "dry_run": arguments.dry_run, "dtype": arguments.dtype}
    found |= {"sizes": vars(sizes), "passes": arguments.passes}
    rates = bandwidth(device, arguments.dry_run)
    print(f"bandwidth measured here: {rates['copy']:.0f} GB/s copied, {rates['read']:.0f} GB/s read")
    floor = launch_floor(device)
    print("a launch takes " + ", ".join(f"{microseconds:.2f} us {way}" for way, microseconds in floor.items()))
    cases: list[dict[str, Any]] = []
    found |= {"bandwidth_gb_per_s": rates, "launch_us": floor, "cases": cases}
    with torch.inference_mode():
        for case in chosen:
            cases.append(measure(case, sizes, arguments, library, device))
            if output is not None:
                write(output, found)
            show(cases[-1], max(rates.values()))


if __name__ == "__main__":
    main()
