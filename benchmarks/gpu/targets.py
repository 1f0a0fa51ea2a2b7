"""What is to be reached, whether it was, and what was expected of the kernels."""

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Any

from engine_parts import QUANTIZED
from kernel_counts import EXPECTED
from parts import LACKS
from result_values import GRAPH, medians, runs_of, speeds, variants_of

# Of the bandwidth, and against native; of PyTorch eager's time.
BANDWIDTH, NATIVE, EAGER = 0.75, 1.5, 2.0
# As docs/parity.md has them.
_LIMITS = {"fp32": 1e-5, "fp16": 1e-2}
_MANY, _NAMED = 64, 4


def expected_us(speed: Mapping[str, Any], case: Mapping[str, Any], form: str) -> float:
    """What the operator must move at the bandwidth that was measured beside it: tables, tokens, and each visual row
    once, which is twice where keys and values are two products."""
    sizes, element = speed["sizes"], {"float16": 2, "bfloat16": 2, "float32": 4}[speed["dtype"]]
    again = 0 if form == "plugin" else element * case["batch"] * sizes["rows"] * sizes["width"]
    return 1e-3 * (case["least_bytes"] + again) / max(speed["bandwidth_gb_per_s"].values())


def reached(found: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    """Each target, what was seen, and "met", "not met" or "not measured"."""
    yield _tests(found, "kernel")
    yield _tests(found, "engine")
    yield _tests(found, "encoder-decoder-engine")
    yield _sanitizer(found)
    yield from _plugin(found)
    yield from _engines(variants_of(found))
    rivals = found.get("apt-vilt-deep-prompts", {}).get("measured", {}).get("deep", {}).get("json", {})
    slower = [one["other"] / one["here"] for one in rivals.get("compared", [])]
    yield _judged("APT's engine faster than with deep prompts", slower, 1.0)


def _judged(what: str, seen: Sequence[float], least: float) -> Sequence[object]:
    shown = ", ".join(f"{value:.2f}" for value in seen)
    return what, shown, "not measured" if not seen else "met" if min(seen) >= least else "not met"


def _said(what: str, wrong: Sequence[str], compared: int) -> Sequence[object]:
    if not compared:
        return what, "", "not measured"
    more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    state = f"not met: {', '.join(wrong[:_NAMED])}{more}" if wrong else "met"
    return what, f"{compared - len(wrong)} of {compared}", state


def _tests(found: Mapping[str, Any], kind: str) -> Sequence[object]:
    part = found.get(f"{kind}-tests", {})
    said = part.get("said", [""])[-1]
    # The part is not through where one failed; some were left out where it lacked something.
    state = "not measured" if "passed" not in said else "met in part" if "lacks" in part else "met"
    return f"the {kind}s' tests pass", said, state


def _sanitizer(found: Mapping[str, Any]) -> Sequence[object]:
    tools = found.get("kernel-sanitizer", {}).get("tools", {})
    ended = {tool: said for tool, said in tools.items() if not said.startswith("not ")}
    seen = ", ".join(f"{tool}: {said}" for tool, said in tools.items())
    state = "not measured" if not ended else "met" if len(ended) == 4 else "met in part"
    return "compute-sanitizer's four tools find nothing", seen, state


def _plugin(found: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    many, others, share = [], [], []
    for one in speeds(found):
        for case in one["cases"]:
            times = {form: taken["median"] for form, taken in case["operator_us"].items()}
            if "plugin" not in times:
                continue
            if (case["batch"], case["tokens"]) == (_MANY, 1):
                many.append(times["native"] / times["plugin"])
                share.append(expected_us(one, case, "plugin") / times["plugin"])
            elif case["tokens"] > 1:
                others.append(times["native"] / times["plugin"])
    yield _judged(f"plugin, decode at B {_MANY}: {BANDWIDTH} of the bandwidth", share, BANDWIDTH)
    yield _judged(f"plugin, decode at B {_MANY}: {NATIVE} times native", many, NATIVE)
    yield _judged("plugin, prefill: not slower than native", others, 1.0)


def _engines(variants: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    # What is missing is no verdict.
    made = {name: not code for name, one in variants.items() if (code := one["build"]["code"]) != LACKS}
    yield _said("every engine is what was asked for", _wrong(made), len(made))
    checked = {name: one["check"]["json"]["passed"] for name, one in variants.items() if _has_report(one)}
    yield _said("every engine's parity within its threshold", _wrong(checked), len(checked))
    close = {
        f"{name} {run}": taken.get("difference", inf) <= _LIMITS[one["precision"]]
        for name, one in variants.items()
        for run, taken in one.get("runs", {}).items()
    }
    yield _said("TensorRT 8's outputs as near to ONNX Runtime's", _wrong(close), len(close))
    counted, copied = {}, {}
    for name, one in variants.items():
        decoder = one.get("engines", {}).get("decoder", {})
        lowering = "plugin" if one.get("plugin") == "on" else "native"
        for profile, seen in (decoder.get("kernels") or {}).items():
            expected = EXPECTED.get((lowering, one.get("cache"), profile))
            if seen and expected and one["precision"] in ("fp16", "bf16"):
                counted[f"{name} {profile}"] = tuple(seen) == expected
        if decoder and one.get("cache") in ("delta", "in_place"):
            copied[name] = not decoder["cache_copies"].get("decode")
    yield _said("as many kernels a decoder layer as expected", _wrong(counted), len(counted))
    yield _said("no copy of a cache in a decode step", _wrong(copied), len(copied))
    for mode in QUANTIZED:
        yield _judged(f"{mode} engines faster than fp16, decode at B 1", _against_half(variants, mode), 1.0)
    for place, ratios in _decode_ratios(variants).items():
        yield _judged(f"llama-7b fp16, decode at B 1: {EAGER} times PyTorch eager, {place}", ratios, EAGER)


def _against_half(variants: Mapping[str, Any], mode: str) -> list[float]:
    lanes = [
        each
        for one in variants.values()
        for (title, _), each in medians(one).items()
        if title.startswith("decode B=1 ") and {f"tensorrt {mode}", "tensorrt fp16"} <= each.keys()
    ]
    return [each["tensorrt fp16"][0] / each[f"tensorrt {mode}"][0] for each in lanes]


def _decode_ratios(variants: Mapping[str, Any]) -> dict[str, list[float]]:
    """PyTorch's milliseconds over those of each engine that does not have to write its whole cache."""
    ratios: dict[str, list[float]] = {
        place: []
        for way in ("", " in a CUDA graph")
        for place in (f"end to end{way}", f"TensorRT 8, between events{way}")
    }
    for name, one in variants.items():
        if not name.startswith("llama-7b") or one.get("precision") != "fp16" or one.get("cache") == "concat":
            continue
        for (title, _), lanes in medians(one).items():
            if title.startswith("decode B=1 ") and {"torch", "tensorrt"} <= lanes.keys():
                ratios[f"end to end{_way(title)}"].append(lanes["torch"][0] / lanes["tensorrt"][0])
        for title, torch, ms, _ in runs_of(one):
            if title.startswith("decode B=1 ") and torch and ms:
                ratios[f"TensorRT 8, between events{_way(title)}"].append(torch / ms)
    return ratios


def _way(title: str) -> str:
    return " in a CUDA graph" if title.endswith(GRAPH) else ""


def _has_report(variant: Mapping[str, Any]) -> bool:
    return bool(variant.get("check", {}).get("json"))


def _wrong(held: Mapping[str, bool]) -> list[str]:
    return [name for name, good in held.items() if not good]
