"""What the engines that a bundle is made for can take.

Published graphs are checked against it when they are written, requests when engines are asked for. Modules and their
versions stand in `tensorrt_module.py`, which goes to machines that have nothing else of this tool.
"""

from dataclasses import dataclass

from ..errors import InputError
from .tensorrt_module import MODULES

# A graph with any other operator would export well and fail only where it is deployed. TensorRT-RTX 1.7 with TensorRT
# 11.4's parser built graphs of all of these, in fp32, fp16 and bf16.
PUBLISHED_OPERATORS = frozenset(
    {
        *("Add", "And", "Cast", "CastLike", "Concat", "Constant", "Conv", "Cos", "Equal", "Expand", "Gather"),
        *("Div", "GatherND", "Gelu", "InstanceNormalization", "LessOrEqual", "MatMul", "Mul", "Not", "Pad", "Range"),
        *("Reciprocal", "ReduceMax", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Resize", "Shape", "Sigmoid", "Sin"),
        *("Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze", "Where"),
    }
)

# The parsers of TensorRT 8.5 and 8.6 have importers for these of them, and for what stands in place of the others
# (`graphs/lowering/opset17.py`).
_REWRITTEN = {"CastLike", "Constant", "Gelu", "InstanceNormalization", "Split"}
OPSET17_OPERATORS = PUBLISHED_OPERATORS - _REWRITTEN | {"Div", "Erf"}


@dataclass(frozen=True)
class Target:
    """A kind of TensorRT. opset is the highest that a published graph may have for any version of it; options are what
    can be asked of its builder, and refused says why another one cannot; plugin tells whether it can load the project's
    plugin. opset17: its parser knows no newer opset, and graphs are lowered to that one. weakly_typed: it takes a
    graph's types for hints, so that layers are pinned to them.
    """

    name: str
    opset: int
    precisions: tuple[str, ...]
    cache_kinds: tuple[str, ...]
    options: tuple[str, ...]
    refused: dict[str, str]
    plugin: bool
    opset17: bool = False
    weakly_typed: bool = False

    @property
    def module(self) -> str:
        """Its Python module."""
        return MODULES[self.name][0]


_PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8", "int8-weights", "int4-weights")
# The parsers' documents say 20 for TensorRT 10.0 and 24 for 10.15. Which version will build is not known where a
# request is made, and a parser that cannot take a node of a newer opset names it.
_OPSET = 24
# In place came with TensorRT 10.15, and opset 24 with it; TensorRT-RTX 1.4 has it too. Recipes are built elsewhere:
# build_engine asks the module that it finds there.
_CACHE_KINDS = ("delta", "concat", "in_place")

TARGETS = {
    target.name: target
    for target in (
        Target(
            name="tensorrt",
            opset=_OPSET,
            precisions=_PRECISIONS,
            cache_kinds=_CACHE_KINDS,
            options=("workspace", "builder_effort", "timing_cache", "embed_plugin"),
            refused={},
            plugin=True,
        ),
        Target(
            name="tensorrt-rtx",
            opset=_OPSET,
            precisions=_PRECISIONS,
            cache_kinds=_CACHE_KINDS,
            options=("workspace", "builder_effort", "embed_plugin"),
            refused={"timing_cache": "its builder would ask for a GPU; kernels are chosen when the engine first runs"},
            plugin=True,
        ),
        # What 8.5 and 8.6 both have.
        Target(
            name="tensorrt-8",
            opset=_OPSET,
            precisions=("fp32", "fp16"),
            cache_kinds=("delta", "concat"),
            options=("workspace", "timing_cache"),
            refused=dict.fromkeys(("builder_effort", "embed_plugin"), "TensorRT 8.5 has none"),
            plugin=True,
            opset17=True,
            weakly_typed=True,
        ),
    )
}


def target_named(name: str) -> Target:
    """The target `name`; InputError that lists them where there is none."""
    if name not in TARGETS:
        raise InputError(f"there is no target {name!r}; choose {' or '.join(TARGETS)}.")
    return TARGETS[name]


def check_option(target: Target, option: str) -> None:
    """Raise InputError where `target` has no such option; the message says why where that is known."""
    if option not in target.options:
        why = f": {target.refused[option]}" if option in target.refused else ""
        known = ", ".join(_words(name) for name in target.options)
        raise InputError(f"{target.name} has no {_words(option)}{why}. It takes {known}.")


def _words(option: str) -> str:
    return option.replace("_", " ")


def check_request(target: Target, precision: str, cache: str, opset: int) -> None:
    """Raise InputError where `target` cannot build a graph of this precision and opset, or caches of this kind."""
    if precision not in target.precisions:
        raise InputError(f"{target.name} engines are built in {', '.join(target.precisions)} here, not in {precision}.")
    if cache not in target.cache_kinds:
        raise InputError(f"{target.name} takes caches of kind {' or '.join(target.cache_kinds)}, not {cache}.")
    if opset > target.opset:
        raise InputError(f"{target.name} takes graphs up to opset {target.opset}, this one has {opset}.")
