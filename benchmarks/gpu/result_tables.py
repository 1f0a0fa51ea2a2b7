"""Short tables of what the parts of run_all.py found, beside what was expected, and what they lacked."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import targets
from kernel_counts import EXPECTED
from result_values import found_in, medians, parity, runs_of, speeds, variants_of

# The stages that only lead to the last one.
_BEFORE = ("vision", "encoder", "prefill", "answer")
# Characters of a message; all of it is in the JSON.
_SHOWN = 160


def tables(results: Path) -> str:
    """Text with a table for kernels, engines, their latencies and the paper's claims, as far as their JSON is there."""
    found = found_in(results)
    variants = variants_of(found)
    rates = [one["bandwidth_gb_per_s"]["read"] for one in speeds(found)]
    blocks = [
        _lacks(found),
        _table("ended with a failure", ("part", "command", "said"), _failed(found)),
        _table("bandwidth, GB/s, and a launch, us", ("dtype", "copy", "read", "one by one", "graph"), _floors(found)),
        _table(
            "kernels, us; expected: what must be read and written, at the bandwidth",
            (*("dtype", "B", "T", "form", "operator", "expected", "native/this"), "adds to block", "launched", "error"),
            _kernels(found),
        ),
        _table(
            "kernels of a decoder layer, as listed, and expected",
            ("variant", "profile", "attention", "expected", "feed-forward", "expected"),
            _counts(variants),
        ),
        _table(
            "engines",
            ("variant", "component", "profile", "layers", "plugin", "copies", "build s", "parity"),
            _engines(variants),
        ),
        _table(
            "latency, ms, wall; on the GPU: between events, gaps between launches included; expected: the weights of"
            " its products, at the bandwidth",
            ("variant", "load", "torch", "lane", "ms", "times", "torch GPU", "GPU", "times", "expected"),
            _latencies(variants, max(rates, default=None)),
        ),
        _table(
            "TensorRT 8, ms on the GPU: between events, gaps between launches included",
            ("variant", "load", "torch", "engine", "times", "of ONNX Runtime's"),
            _tensorrt8(variants),
        ),
        _table(
            "visual tokens in the input or in memory, ms, torch eager",
            ("B", "prefill input", "prefill memory", "times", "decode input", "decode memory", "times"),
            _paper(found.get("paper-latency", {})),
        ),
        _table(
            "APT-ViLT beside the same with deep prompts, and with none, ms; the first should be slower, the second not",
            ("with", "load", "APT", "other", "other/APT"),
            _deep(found.get("apt-vilt-deep-prompts", {})),
        ),
        _table("to reach", ("what", "seen", ""), targets.reached(found)),
    ]
    dry = ["These are of a dry run: they mean nothing."] if any(one.get("dry_run") for one in found.values()) else []
    return "\n\n".join([*filter(None, blocks), *dry])


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [[str(cell) for cell in row] for row in (columns, *rows)]
    if len(lines) == 1:
        return ""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([f"== {title}", *text])


def _lacks(found: dict[str, Any]) -> str:
    names: dict[str, list[str]] = {}
    for name, one in found.items():
        if "lacks" in one:
            names.setdefault(_short(one["lacks"]), []).append(name)
    lines = [f"{lack}: {', '.join(of)}" for lack, of in names.items()]
    return "\n".join(["== not measured", *lines]) if lines else ""


def _failed(found: dict[str, Any]) -> Iterable[Sequence[object]]:
    """What a part's commands said that failed otherwise than by a verdict or for want of something."""
    for name, one in found.items():
        for command in ("build", "check", "bench", "graphs"):
            done = one.get(command, {})
            if done.get("code") and "lacks" not in done and "json" not in done:
                yield name, command, _short(done["said"])


def _short(text: str) -> str:
    return shorten(text, _SHOWN, placeholder=" ...")


def _floors(found: dict[str, Any]) -> Iterable[Sequence[object]]:
    for one in speeds(found):
        rates, launch = one["bandwidth_gb_per_s"], one["launch_us"]
        in_graph = f"{launch['in a graph']:.2f}" if "in a graph" in launch else ""
        yield one["dtype"], f"{rates['copy']:.0f}", f"{rates['read']:.0f}", f"{launch['one by one']:.2f}", in_graph


def _kernels(found: dict[str, Any]) -> Iterable[Sequence[object]]:
    for one in speeds(found):
        for case in one["cases"]:
            times, blocks = case["operator_us"], case["block_us"]
            for form, taken in times.items():
                median = taken["median"]
                yield (
                    *(one["dtype"], case["batch"], case["tokens"], form, f"{median:.1f}"),
                    f"{targets.expected_us(one, case, form):.1f}",
                    f"{times['native']['median'] / median:.2f}",
                    f"{blocks[form]['median'] - blocks['plain']['median']:.1f}" if form in blocks else "",
                    f"{case['operator_launched_us'][form]:.1f}",
                    f"{case['operator_error'][form]:.1e}",
                )


def _counts(variants: dict[str, Any]) -> Iterable[Sequence[object]]:
    for name, one in variants.items():
        lowering = "plugin" if one.get("plugin") == "on" else "native"
        for profile, seen in (one.get("engines", {}).get("decoder", {}).get("kernels") or {}).items():
            known = one["precision"] in ("fp16", "bf16") and "runs" not in one
            expected = EXPECTED.get((lowering, one.get("cache"), profile)) if known else None
            if seen:
                attention, rest = expected or ("", "")
                yield name, profile, seen[0], attention, seen[1], rest


def _engines(variants: dict[str, Any]) -> Iterable[Sequence[object]]:
    for name, one in variants.items():
        for component, engine in one.get("engines", {}).items():
            seconds = engine["seconds"]["build"] if engine["seconds"] else ""
            for profile, counts in engine["by_profile"].items():
                copies = len((engine["cache_copies"] or {}).get(profile, []))
                layers, plugin = counts["layers"], len(counts["plugin_layers"])
                yield name, component, profile, layers, plugin, copies, seconds, parity(one, component, profile)
        if "engines" not in one and "lacks" not in one:
            yield name, "", "", "", "", "", "", _short(one["build"]["said"])


def _latencies(variants: dict[str, Any], bandwidth: float | None) -> Iterable[Sequence[object]]:
    for name, one in variants.items():
        for (title, stage), lanes in medians(one).items():
            if "torch" not in lanes or not _is_shown(name, one, title, stage):
                continue
            torch, torch_gpu = lanes.pop("torch")
            floor = _weights_ms(one, stage, bandwidth)
            for lane, (ms, gpu) in lanes.items():
                own = torch_gpu, gpu, torch_gpu / gpu if gpu else 0.0
                shown = (f"{value:.3f}" if value else "" for value in own)
                yield name, title, f"{torch:.3f}", lane, f"{ms:.3f}", f"{torch / ms:.2f}", *shown, floor


def _is_shown(name: str, variant: Mapping[str, Any], title: str, stage: str) -> bool:
    """All loads are in the JSON; shown are those of one request, of the small models and of quantized ones the last
    stage alone, and decode steps of the large model in batches."""
    large = name.startswith("llama-7b") and "calibrated" not in variant
    one_request = " B=1 " in title
    return (one_request or stage == "decode") if large else (one_request and stage not in _BEFORE)


def _weights_ms(variant: Mapping[str, Any], stage: str, bandwidth: float | None) -> str:
    """A decode step reads every weight of the decoder's products once."""
    profiles = variant.get("engines", {}).get("decoder", {}).get("by_profile", {})
    if stage != "decode" or bandwidth is None or stage not in profiles:
        return ""
    return f"{1e-6 * sum(profiles[stage]['product_weight_bytes'].values()) / bandwidth:.3f}"


def _tensorrt8(variants: dict[str, Any]) -> Iterable[Sequence[object]]:
    for name, one in variants.items():
        for title, torch, ms, difference in runs_of(one):
            times = f"{torch / ms:.2f}" if torch and ms else ""
            yield name, title, f"{torch:.3f}" if torch else "", f"{ms:.3f}" if ms else "", times, difference


def _paper(found: dict[str, Any]) -> Iterable[Sequence[object]]:
    for one in found.get("measured", []):
        cells: list[object] = [one["batch"]]
        for step in ("prefill", "decode"):
            wide, memory = one["ms"][f"input {step}"], one["ms"][f"memory {step}"]
            cells += [f"{wide:.2f}", f"{memory:.2f}", f"{wide / memory:.2f}"]
        yield cells


def _deep(found: dict[str, Any]) -> Iterable[Sequence[object]]:
    for kind, done in found.get("measured", {}).items():
        for one in done.get("json", {}).get("compared", []):
            title = f"{one['load']['stage']} B={one['load']['batch']} columns={one['load']['columns']}"
            here, other = 1e3 * one["here"], 1e3 * one["other"]
            yield kind, title, f"{here:.3f}", f"{other:.3f}", f"{other / here:.2f}"
