"""What deep prompt tuning would add in the place of APT's prompts, with as many tokens at the same sites (spec 9).

Per site with N query rows and p tokens of width d, as the released module does it: the tokens join the rows that enter
the attention, so queries, keys and values are made of them too, `3 p d^2` MACs, and every row looks at p more keys and
values, `2 N p d`. Their own queries are dropped: they look at nothing, and pass no output projection and no FFN.
"""

import math
from collections.abc import Sequence

import onnx

from .costs import Macs
from .memory_sites import APPROXIMATED_PROMPT
from .values import TypedGraph, ValueType


def prompt_nodes(graph: TypedGraph) -> list[onnx.NodeProto]:
    """The sites of APT's prompts."""
    return [node for node in graph.nodes if node.op_type == APPROXIMATED_PROMPT]


def deep_prompt_macs(nodes: list[onnx.NodeProto], graph: TypedGraph) -> Macs:
    """What deep prompts would add at these sites."""
    total = Macs()
    for node in nodes:
        hidden, keys = (_dims(graph.types.get(name)) for name in (node.input[0], node.input[2]))
        if hidden is None or keys is None:
            total += Macs(uncounted=[node.name])
            continue
        batch, (tokens, width) = hidden[0], keys
        total += Macs(weights=3 * batch * tokens * width**2, activations=2 * tokens * math.prod(hidden))
    return total


def _dims(value: ValueType | None) -> Sequence[int] | None:
    return [d or 0 for d in value.dims] if value and value.known and value.dims else None
